//! Command line of `streamhouse-operator` and the environment variables that can replace its flags.
//! Parsed by `main` before anything else; invalid arguments and unknown variables end the process
//! with exit code 2.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Args, CommandFactory, Parser, Subcommand};
use streamhouse_metadata::SCHEMA_WINDOW;

use crate::{
    settings::{ClusterSettings, OperatorSettings},
    smoke_test::SmokeTestArgs,
};

/// Prefix of every variable.
pub const VARIABLE_PREFIX: &str = "STREAMHOUSE_OPERATOR_";

const EXAMPLES_HELP: &str = "\
Examples:
  streamhouse-operator run --watch-namespaces orders,billing --drift-interval 30s
  streamhouse-operator crds | kubectl apply --server-side -f -
  streamhouse-operator diff -f cluster.yaml -f topics.yaml -f users.yaml";

const RUN_HELP: &str = "\
Examples:
  streamhouse-operator run
  streamhouse-operator run --leader-elect false --http-listen 127.0.0.1:8080 --log-level info,kube=debug

Connects with the pod's service account, or outside of a pod with KUBECONFIG or ~/.kube/config. On SIGTERM, running
reconciliations finish and the Lease is released. Exit codes: 0 orderly shutdown, 1 failure, 2 invalid settings.";

const DIFF_HELP: &str = "\
Examples:
  streamhouse-operator diff -f cluster.yaml
  kubectl get topic orders -o yaml | sed s/7d/30d/ | streamhouse-operator diff -f -

Changes nothing. For a StreamHouseCluster, each object is compared with the result of a server-side dry run; a Topic
or User is compared with what is in the metadata store, a User also with its Secret. Exit codes: 0 no changes, 1 changes found, 2 comparison failed.";

/// What `--version` prints after the name.
static LONG_VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{}\nmetadata schema {SCHEMA_WINDOW}", env!("CARGO_PKG_VERSION")));

/// Runs StreamHouse clusters and topics on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "streamhouse-operator", version, long_version = LONG_VERSION.as_str(), after_help = EXAMPLES_HELP, propagate_version = true)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reconcile StreamHouseClusters and Topics until terminated
    #[command(after_help = RUN_HELP)]
    Run(Box<OperatorSettings>),
    /// Print the custom resource definitions as YAML
    Crds,
    /// Show what the operator would change for the given manifests
    #[command(after_help = DIFF_HELP)]
    Diff(DiffArgs),
    /// Apply a Topic, wait for the operator to report its condition, and delete it (used by helm
    /// test)
    SmokeTest(SmokeTestArgs),
}

/// Arguments of `diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// File with manifests, or - for standard input; may be given several times
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Namespace of manifests that specify none; defaults to the kubeconfig's namespace
    #[arg(short, long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Metadata store to compare Topics and Users with, instead of the one in the cluster's Secret
    #[arg(
        long,
        env = "STREAMHOUSE_OPERATOR_METADATA_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub metadata_url: Option<String>,
    /// What applies to every cluster: the same as of the operator
    #[command(flatten)]
    pub clusters: ClusterSettings,
}

/// Returns an error message for the first variable with the operator's prefix that is not a
/// setting.
pub fn find_unknown_variable<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<String> = known_variables();
    names
        .into_iter()
        .filter(|name| name.starts_with(VARIABLE_PREFIX) && !is_service_link(name))
        .find(|name| !known.iter().any(|known| known == name))
        .map(|name| format!("unknown setting {name}; the settings are {}", known.join(", ")))
}

/// Returns whether Kubernetes sets the variable for a Service: one named `streamhouse-operator`
/// results in variables with the operator's prefix.
fn is_service_link(name: &str) -> bool {
    let rest = &name[VARIABLE_PREFIX.len()..];
    ["SERVICE_HOST", "SERVICE_PORT", "PORT"]
        .iter()
        .any(|link| rest == *link || rest.starts_with(&format!("{link}_")))
        || rest.contains("_SERVICE_")
        || rest.contains("_PORT_")
        || rest.ends_with("_PORT")
}

fn known_variables() -> Vec<String> {
    let mut root = Cli::command();
    root.build();
    let mut names: Vec<String> = root
        .get_subcommands()
        .flat_map(|command| command.get_arguments())
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with(VARIABLE_PREFIX))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound_and_every_option_says_what_it_does() {
        Cli::command().debug_assert();
        let mut root = Cli::command();
        root.build();
        for command in root.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
        }
    }

    #[test]
    fn every_flag_of_run_is_a_variable_of_the_same_name() {
        let mut root = Cli::command();
        root.build();
        let run = root.find_subcommand("run").unwrap();
        for argument in run
            .get_arguments()
            .filter(|argument| argument.get_long().is_some())
        {
            let long = argument.get_long().unwrap();
            if ["help", "version"].contains(&long) {
                continue;
            }
            let variable = format!("{}{}", VARIABLE_PREFIX, long.replace('-', "_").to_uppercase());
            assert_eq!(argument.get_env().unwrap().to_str(), Some(variable.as_str()));
        }
    }

    #[test]
    fn an_unknown_variable_is_refused_and_those_of_kubernetes_are_not() {
        let unknown = find_unknown_variable(["PATH", "STREAMHOUSE_OPERATOR_DRIFT"]).unwrap();
        assert!(
            unknown.contains("STREAMHOUSE_OPERATOR_DRIFT_INTERVAL"),
            "{unknown}"
        );
        let fine = [
            "STREAMHOUSE_OPERATOR_DRIFT_INTERVAL",
            "STREAMHOUSE_OPERATOR_SERVICE_HOST",
            "STREAMHOUSE_OPERATOR_SERVICE_PORT_HTTP",
            "STREAMHOUSE_OPERATOR_PORT_8080_TCP_ADDR",
            "STREAMHOUSE_OPERATOR_METRICS_SERVICE_HOST",
            "STREAMHOUSE_OPERATOR_METRICS_PORT",
        ];
        assert_eq!(find_unknown_variable(fine), None);
    }
}
