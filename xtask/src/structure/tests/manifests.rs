//! Directions of dependencies.

use super::super::manifests;
use super::{places, tree};

fn check(path: &str, dependencies: &str) -> Vec<String> {
    let text = format!("[lints]\nworkspace = true\n{dependencies}");
    places(&manifests::check(&tree(&[(path, &text)])))
}

#[test]
fn a_dependency_against_the_direction_is_a_breach() {
    assert_eq!(
        check(
            "core/Cargo.toml",
            "[dependencies]\nstreamhouse-metadata.workspace = true\n"
        ),
        ["core/Cargo.toml:4"]
    );
    assert_eq!(
        check(
            "agent/Cargo.toml",
            "[dependencies]\nstreamhouse-client.workspace = true\n"
        ),
        ["agent/Cargo.toml:4"]
    );
    assert_eq!(
        check(
            "cli/Cargo.toml",
            "[dependencies]\nstreamhouse-metadata.workspace = true\n"
        ),
        ["cli/Cargo.toml:4"]
    );
    assert_eq!(
        check(
            "client/Cargo.toml",
            "[dependencies]\nstreamhouse-cli.workspace = true\n"
        ),
        ["client/Cargo.toml:4"]
    );
}

#[test]
fn dependencies_in_the_direction_and_those_of_tests_are_free() {
    assert_eq!(
        check(
            "cli/Cargo.toml",
            "[dependencies]\nstreamhouse-client.workspace = true\nstreamhouse-core.workspace = true\n"
        ),
        [""; 0]
    );
    assert_eq!(
        check(
            "client/Cargo.toml",
            "[dev-dependencies]\nstreamhouse-testkit.workspace = true\n"
        ),
        [""; 0]
    );
}

#[test]
fn each_way_to_write_a_dependency_is_seen() {
    for written in [
        "[build-dependencies]\nkube = \"5\"\n",
        "[dependencies.kube]\nversion = \"5\"\n",
        "[target.'cfg(unix)'.dependencies]\nkube = \"5\"\n",
        "[dependencies]\nother = { package = \"kube\", version = \"5\" }\n",
    ] {
        assert_eq!(check("agent/Cargo.toml", written).len(), 1, "{written}");
    }
}

#[test]
fn each_outside_world_has_one_crate() {
    for (name, place) in [
        ("aws-sdk-s3", "agent"),
        ("aws-config", "agent"),
        ("sqlx", "metadata"),
        ("kube", "operator"),
    ] {
        let dependency = format!("[dependencies]\n{name}.workspace = true\n");
        assert_eq!(
            check(&format!("{place}/Cargo.toml"), &dependency),
            [""; 0],
            "{name}"
        );
        assert_eq!(
            check("core/Cargo.toml", &dependency),
            ["core/Cargo.toml:4"],
            "{name}"
        );
    }
}

#[test]
fn a_crate_without_the_lints_of_the_workspace_is_a_breach() {
    let files = tree(&[
        ("core/Cargo.toml", "[package]\nname = \"core\"\n"),
        ("Cargo.toml", "[workspace]\n"),
    ]);
    assert_eq!(places(&manifests::check(&files)), ["core/Cargo.toml:1"]);
}

#[test]
fn a_manifest_that_cannot_be_read_is_a_breach() {
    assert_eq!(
        places(&manifests::check(&tree(&[("core/Cargo.toml", "[")]))),
        ["core/Cargo.toml:1"]
    );
}
