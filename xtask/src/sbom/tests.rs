//! The bills of this workspace, compared with what cargo compiles.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use serde_json::Value;

use super::*;
use crate::features::unit_graph;

/// Returns the bills; asking cargo takes seconds.
fn bills() -> &'static [(ReleasedProgram, String)] {
    static BILLS: OnceLock<Vec<(ReleasedProgram, String)>> = OnceLock::new();
    BILLS.get_or_init(|| {
        PROGRAMS
            .iter()
            .map(|program| (*program, bill(*program)))
            .collect()
    })
}

fn bill(program: ReleasedProgram) -> String {
    let root = crate::repository::root().unwrap();
    let workspace = WorkspacePackages::read(&root).unwrap();
    bill_of(&root, &workspace, program).unwrap()
}

fn members(bill: &Value) -> Vec<&Value> {
    let subject = std::iter::once(&bill["metadata"]["component"]);
    subject.chain(bill["components"].as_array().unwrap()).collect()
}

/// Returns the packages that cargo compiles for a program on this machine, as package URLs.
fn compiled_here(program: ReleasedProgram) -> BTreeSet<String> {
    let root = crate::repository::root().unwrap();
    let graph = unit_graph(&root, "build", &["-p", program.package, "--bins"]).unwrap();
    let units = graph["units"].as_array().unwrap();
    let reference = |unit: &Value| {
        // path+file:///src/agent#streamhouse-agent@0.1.0, registry+https://…#serde@1.0.228
        let id = unit["pkg_id"].as_str().unwrap();
        let (source, name) = id.rsplit_once('#').unwrap();
        let folder = source.rsplit('/').next().unwrap();
        let (name, version) = name.split_once('@').unwrap_or((folder, name));
        format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
    };
    units.iter().map(reference).collect()
}

#[test]
fn a_bill_has_every_package_that_is_compiled_and_none_of_the_tests() {
    for (program, text) in bills() {
        let bill: Value = serde_json::from_str(text).unwrap();
        let named: BTreeSet<String> = members(&bill)
            .iter()
            .map(|member| member["purl"].as_str().unwrap().to_owned())
            .collect();
        let compiled = compiled_here(*program);
        assert!(compiled.len() > 100, "{compiled:?}");
        let missing: Vec<&String> = compiled.difference(&named).collect();
        assert!(missing.is_empty(), "{}: {missing:?}", program.program);
        for package in ["streamhouse-testkit", "criterion", "insta", "proptest"] {
            let prefix = format!("pkg:cargo/{package}@");
            assert!(!named.iter().any(|name| name.starts_with(&prefix)), "{package}");
        }
    }
}

#[test]
fn a_bill_has_the_fields_that_cyclonedx_requires_and_is_always_the_same() {
    let (last, text) = bills().last().unwrap();
    assert_eq!(*text, bill(*last));
    for (program, text) in bills() {
        let bill: Value = serde_json::from_str(text).unwrap();
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert_eq!(bill["specVersion"], "1.6");
        assert_eq!(bill["metadata"]["component"]["name"], program.program);
        let mut references = BTreeSet::new();
        for member in members(&bill) {
            for field in ["type", "name", "version", "purl", "bom-ref"] {
                assert!(
                    member[field].as_str().is_some_and(|text| !text.is_empty()),
                    "{member}"
                );
            }
            assert!(
                member["licenses"][0]["expression"].is_string(),
                "no licence: {member}"
            );
            let own = member["name"].as_str().unwrap();
            let own = own.starts_with("streamhouse") || own == "workspace-hack";
            let digest = member["hashes"][0]["content"].as_str();
            assert_eq!(digest.map(str::len), (!own).then_some(64), "{member}");
            assert!(references.insert(member["bom-ref"].as_str().unwrap()), "{member}");
        }
        for edge in bill["dependencies"].as_array().unwrap() {
            assert!(references.contains(edge["ref"].as_str().unwrap()), "{edge}");
            let on = edge["dependsOn"].as_array().unwrap();
            assert!(
                on.iter().all(|on| references.contains(on.as_str().unwrap())),
                "{edge}"
            );
        }
    }
}
