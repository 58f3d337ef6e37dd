//! The options.

use super::plan::OPERATOR_TESTS;
use super::*;

#[test]
fn without_options_every_stage_runs() {
    let options = parse(&[]).unwrap().unwrap();
    assert_eq!(options.stages.len(), STAGES.len());
    assert_eq!(options.test_arguments, TESTED_PACKAGES);
}

#[test]
fn only_may_be_given_several_times() {
    let options = parse(&["--only", "lint", "--only", "docs"]).unwrap().unwrap();
    assert_eq!(options.stages, ["lint", "docs"]);
}

#[test]
fn quick_chooses_what_a_change_needs_most() {
    assert_eq!(parse(&["--quick"]).unwrap().unwrap().stages, QUICK);
}

#[test]
fn what_follows_two_dashes_goes_to_cargo_test() {
    let options = parse(&["--only", "tests", "--", "-p", "streamhouse-metadata"])
        .unwrap()
        .unwrap();
    assert_eq!(options.test_arguments, ["-p", "streamhouse-metadata"]);
}

#[test]
fn an_unknown_option_or_stage_is_refused() {
    assert!(
        parse(&["--fast"])
            .unwrap_err()
            .to_string()
            .contains("unknown option --fast")
    );
    assert!(
        parse(&["--only", "speed"])
            .unwrap_err()
            .to_string()
            .contains("no stage speed")
    );
    assert!(
        parse(&["--only"])
            .unwrap_err()
            .to_string()
            .contains("needs the name of a stage")
    );
}

#[test]
fn the_help_names_every_stage() {
    assert_eq!(parse(&["-h"]).unwrap(), None);
    let text = usage();
    assert!(
        STAGES
            .iter()
            .all(|stage| text.contains(&format!("\n  {} ", stage.name)))
    );
}

#[test]
fn stages_get_the_cargo_of_the_test_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let path = stage_path(root, std::env::var_os("PATH")).unwrap();
    let run = |arguments: &[&str]| {
        // Found in the PATH of the stage, as bash finds it.
        let output = Command::new("bash")
            .args(["-c", "cargo \"$@\"", "cargo"])
            .args(arguments)
            .env("PATH", &path)
            .current_dir(root)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run(&["--version"]).starts_with("cargo "));
    let table: toml::Table = std::fs::read_to_string(root.join("config/cargo-tests.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let packages = table["profile"]["release"]["package"].as_table().unwrap();
    let metadata: serde_json::Value =
        serde_json::from_str(&run(&["metadata", "--no-deps", "--format-version", "1"])).unwrap();
    let members: Vec<&str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    // A crate of another name would be compiled with optimisation, and nobody would notice.
    assert!(packages.keys().all(|name| members.contains(&name.as_str())));
    assert!(packages.contains_key("streamhouse-agent"));
}

#[test]
fn the_operators_tests_are_those_that_cargo_xtask_features_checks() {
    let stage = STAGES.iter().find(|stage| stage.name == "operator").unwrap();
    assert!(stage.command.ends_with(&OPERATOR_TESTS.join(" ")));
}
