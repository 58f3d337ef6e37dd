//! The options.

use super::*;

#[test]
fn without_options_every_stage_runs() {
    let options = parse(&[]).unwrap().unwrap();
    assert_eq!(options.stages.len(), STAGES.len());
    assert_eq!(options.test_arguments, ["--workspace"]);
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
