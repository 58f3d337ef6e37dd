//! The document in the format of CycloneDX 1.6.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::ReleasedProgram;
use super::packages::{CompiledPackages, PackageFacts, PackageKey, WorkspacePackages};

/// Returns the bill of materials of a program. Keys and lists are sorted.
pub(super) fn bill(
    workspace: &WorkspacePackages,
    program: ReleasedProgram,
    compiled: &CompiledPackages,
) -> anyhow::Result<Value> {
    let mut components = Vec::new();
    let mut dependencies = BTreeMap::new();
    let mut subject = Value::Null;
    for (key, is_part) in &compiled.in_program {
        let facts = workspace.facts(key)?;
        let edges = facts.dependencies.iter();
        let edges = edges.filter(|other| compiled.in_program.contains_key(other));
        let edges: Vec<String> = edges.map(reference).collect();
        dependencies.insert(reference(key), edges);
        if key.name == program.package {
            subject = component(key, facts, "application");
            subject["name"] = json!(program.program);
        } else {
            let mut component = component(key, facts, "library");
            // What runs while the program is compiled is no part of it.
            component["scope"] = json!(if *is_part { "required" } else { "excluded" });
            components.push(component);
        }
    }
    anyhow::ensure!(!subject.is_null(), "{} is not compiled", program.package);
    let dependencies: Vec<Value> = dependencies
        .into_iter()
        .map(|(of, on)| json!({ "ref": of, "dependsOn": on }))
        .collect();
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": subject },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// Returns the package URL, which names a package in all documents.
pub(super) fn reference(key: &PackageKey) -> String {
    // A version's build metadata begins with a plus sign, which has a meaning in a URL.
    let version = key.version.replace('+', "%2B");
    format!("pkg:cargo/{}@{version}", key.name)
}

fn component(key: &PackageKey, facts: &PackageFacts, kind: &str) -> Value {
    let reference = reference(key);
    let mut component = Map::new();
    let mut set = |name: &str, value: Value| component.insert(name.to_owned(), value);
    set("type", json!(kind));
    set("bom-ref", json!(reference));
    set("purl", json!(reference));
    set("name", json!(key.name));
    set("version", json!(key.version));
    if let Some(license) = &facts.license {
        set("licenses", json!([{ "expression": license }]));
    }
    if let Some(checksum) = &facts.checksum {
        set("hashes", json!([{ "alg": "SHA-256", "content": checksum }]));
    }
    if let Some(repository) = &facts.repository {
        set(
            "externalReferences",
            json!([{ "type": "vcs", "url": repository }]),
        );
    }
    Value::Object(component)
}
