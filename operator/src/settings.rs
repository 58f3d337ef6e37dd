//! Settings of `streamhouse-operator run`: each is a flag and an environment variable. Parsed and
//! validated by `cli` before anything is started.

use std::{net::SocketAddr, time::Duration};

use clap::{ArgAction, Args, ValueEnum};
use streamhouse_core::settings::parse_duration;

use crate::{
    apis::OpenShiftMode,
    context::{ClusterDefaults, WatchScope},
};

/// Settings of the operator.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct OperatorSettings {
    /// Namespaces to watch, separated by commas; all namespaces if empty
    #[arg(long, env = "STREAMHOUSE_OPERATOR_WATCH_NAMESPACES", default_value = "", value_name = "NAME,…",
        hide_default_value = true, value_parser = parse_scope)]
    pub watch_namespaces: WatchScope,
    /// Elect a leader among the replicas with a Lease. If false, at most one replica may run at any
    /// time
    #[arg(long, env = "STREAMHOUSE_OPERATOR_LEADER_ELECT", default_value_t = true, action = ArgAction::Set,
        num_args = 0..=1, default_missing_value = "true", value_name = "true|false")]
    pub leader_elect: bool,
    /// Namespace of the Lease; defaults to the operator's namespace
    #[arg(long, env = "STREAMHOUSE_OPERATOR_LEASE_NAMESPACE", value_name = "NAME", value_parser = parse_optional_label)]
    pub lease_namespace: Option<OptionalName>,
    /// Name of the Lease; installations that watch different namespaces need different names
    #[arg(long, env = "STREAMHOUSE_OPERATOR_LEASE_NAME", default_value = "streamhouse-operator", value_name = "NAME",
        value_parser = parse_label)]
    pub lease_name: String,
    /// Name of this replica in the Lease and in events: the pod's name
    #[arg(long, env = "STREAMHOUSE_OPERATOR_POD_NAME", default_value = "streamhouse-operator", value_name = "NAME",
        value_parser = parse_label)]
    pub pod_name: String,
    /// Address of /health, /ready and /metrics; `[::]` is every interface, of IPv6 and IPv4
    #[arg(
        long,
        env = "STREAMHOUSE_OPERATOR_HTTP_LISTEN",
        default_value = "[::]:8080",
        value_name = "ADDRESS:PORT"
    )]
    pub http_listen: SocketAddr,
    /// What applies to every cluster
    #[command(flatten)]
    pub clusters: ClusterSettings,
    /// How often all resources are compared with their spec without a change: 5s to 24h
    #[arg(long, env = "STREAMHOUSE_OPERATOR_DRIFT_INTERVAL", default_value = "60s", value_name = "DURATION",
        value_parser = parse_drift_interval)]
    pub drift_interval: Duration,
    /// Maximum number of concurrent reconciliations per kind: 1 to 64
    #[arg(long, env = "STREAMHOUSE_OPERATOR_RECONCILE_CONCURRENCY", default_value_t = 8, value_name = "COUNT",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub reconcile_concurrency: u16,
    /// Format of the log lines on stderr
    #[arg(
        long,
        env = "STREAMHOUSE_OPERATOR_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
    /// Log level: error, warn, info, debug, trace, or a filter such as info,kube=debug
    #[arg(long, env = "STREAMHOUSE_OPERATOR_LOG_LEVEL", default_value = "info", value_name = "FILTER",
        value_parser = parse_log_level)]
    pub log_level: String,
}

impl OperatorSettings {
    /// Returns the filter of the log. At a plain level the watches of kube-runtime log errors only:
    /// each watch of a namespace that the operator may not read would warn at every attempt, and
    /// the operator logs such a namespace once and has a metric of it.
    pub fn log_filter(&self) -> String {
        match self.log_level.to_ascii_lowercase().as_str() {
            "info" | "warn" => format!("{},kube_runtime=error", self.log_level),
            _ => self.log_level.clone(),
        }
    }

    /// Returns the namespace of the Lease, if set.
    pub fn lease_namespace(&self) -> Option<&str> {
        self.lease_namespace.as_ref().and_then(|name| name.0.as_deref())
    }
}

/// Settings that apply to every cluster; `diff` has them too.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ClusterSettings {
    /// Agent image of clusters that specify none, without a tag
    #[arg(long, env = "STREAMHOUSE_OPERATOR_DEFAULT_IMAGE", default_value = "ghcr.io/streamhouse/streamhouse-agent",
        value_name = "IMAGE", value_parser = parse_image)]
    pub default_image: String,
    /// Domain of the Kubernetes cluster, under which Services have their full names
    #[arg(long, env = "STREAMHOUSE_OPERATOR_CLUSTER_DOMAIN", default_value = "cluster.local",
        value_name = "DOMAIN", value_parser = parse_domain)]
    pub cluster_domain: String,
    /// Namespaces other than a cluster's own in which its monitoring objects may be created,
    /// separated by commas; none if empty
    #[arg(long, env = "STREAMHOUSE_OPERATOR_MONITORING_NAMESPACES", default_value = "", value_name = "NAME,…",
        hide_default_value = true, value_parser = parse_namespaces)]
    pub monitoring_namespaces: NamespaceList,
    /// Leave user and group ids of pods to the security context constraints of OpenShift
    #[arg(
        long,
        env = "STREAMHOUSE_OPERATOR_OPENSHIFT",
        default_value = "auto",
        value_name = "WHEN"
    )]
    pub openshift: OpenShiftMode,
}

impl ClusterSettings {
    /// Returns what the settings say about every cluster.
    pub fn defaults(&self) -> ClusterDefaults {
        ClusterDefaults {
            image: self.default_image.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_domain: self.cluster_domain.clone(),
            monitoring_namespaces: self.monitoring_namespaces.0.clone(),
        }
    }
}

/// A list of namespaces, which may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceList(pub Vec<String>);

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// A name that may be empty: a chart sets a variable to the empty string if it has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionalName(Option<String>);

/// Parses a DNS label, such as the name of a namespace.
fn parse_label(text: &str) -> Result<String, String> {
    let fits = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let edges = !text.starts_with('-') && !text.ends_with('-');
    if text.is_empty() || text.len() > 63 || !edges || !text.chars().all(fits) {
        return Err("must be a DNS label: at most 63 lower-case letters, digits and '-'".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_optional_label(text: &str) -> Result<OptionalName, String> {
    if text.is_empty() {
        return Ok(OptionalName(None));
    }
    parse_label(text).map(|name| OptionalName(Some(name)))
}

fn parse_scope(text: &str) -> Result<WatchScope, String> {
    if text.trim().is_empty() {
        return Ok(WatchScope::default());
    }
    Ok(WatchScope {
        namespaces: Some(parse_namespaces(text)?.0),
    })
}

fn parse_namespaces(text: &str) -> Result<NamespaceList, String> {
    if text.trim().is_empty() {
        return Ok(NamespaceList::default());
    }
    let mut names = text
        .split(',')
        .map(|name| parse_label(name.trim()))
        .collect::<Result<Vec<_>, _>>()?;
    names.sort();
    names.dedup();
    Ok(NamespaceList(names))
}

/// Parses the domain of a Kubernetes cluster.
fn parse_domain(text: &str) -> Result<String, String> {
    if text.len() > 190 || text.split('.').any(|label| parse_label(label).is_err()) {
        return Err("must be a domain such as cluster.local".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_image(text: &str) -> Result<String, String> {
    let name = text.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || text.contains(char::is_whitespace) {
        return Err("must be an image such as registry.example.com/streamhouse-agent".to_owned());
    }
    if name.contains(':') || text.contains('@') {
        return Err(
            "must be an image without a tag or digest: the tag is the version of each cluster".to_owned(),
        );
    }
    Ok(text.to_owned())
}

fn parse_drift_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    let bounds = Duration::from_secs(5)..=Duration::from_secs(24 * 3600);
    if bounds.contains(&interval) {
        Ok(interval)
    } else {
        Err("must be between 5s and 24h".to_owned())
    }
}

fn parse_log_level(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text)
        .map(|_| text.to_owned())
        .map_err(|error| format!("{error}; must be error, warn, info, debug, trace or a filter"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::{Arg, CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        settings: OperatorSettings,
    }

    fn parse(arguments: &[&str]) -> Result<OperatorSettings, String> {
        let line = std::iter::once("test").chain(arguments.iter().copied());
        TestCli::try_parse_from(line)
            .map(|line| line.settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_look_after_everything() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.watch_namespaces, WatchScope::default());
        assert!(settings.leader_elect);
        assert_eq!(settings.lease_namespace(), None);
        assert_eq!(settings.drift_interval, Duration::from_secs(60));
        assert_eq!(settings.clusters.cluster_domain, "cluster.local");
        assert_eq!(settings.clusters.monitoring_namespaces, NamespaceList::default());
        assert_eq!(settings.clusters.openshift, OpenShiftMode::Auto);
    }

    #[test]
    fn a_switch_is_taken_with_and_without_a_value() {
        for (arguments, on) in [
            (&["--leader-elect"] as &[&str], true),
            (&["--leader-elect", "true"], true),
            (&["--leader-elect=false"], false),
            (&["--leader-elect", "false"], false),
            (&["--leader-elect", "--lease-name", "x"], true),
        ] {
            assert_eq!(parse(arguments).unwrap().leader_elect, on, "{arguments:?}");
        }
    }

    #[test]
    fn namespaces_are_a_list_without_repetition() {
        let settings = parse(&["--watch-namespaces", "b, a,b"]).unwrap();
        let names = settings.watch_namespaces.namespaces.unwrap();
        assert_eq!(names, ["a", "b"]);
        assert!(parse(&["--watch-namespaces", "a,,b"]).is_err());
        assert!(
            parse(&["--watch-namespaces", "Team_A"])
                .unwrap_err()
                .contains("lower-case")
        );
    }

    #[test]
    fn a_name_that_is_set_to_nothing_is_not_set() {
        assert_eq!(parse(&["--lease-namespace", ""]).unwrap().lease_namespace(), None);
        assert_eq!(
            parse(&["--lease-namespace", "x"]).unwrap().lease_namespace(),
            Some("x")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (arguments, says) in [
            (["--default-image", "agent:1.0"], "without a tag"),
            (["--default-image", "agent@sha256:0"], "without a tag"),
            (["--default-image", "registry/"], "such as"),
            (["--drift-interval", "1s"], "between 5s and 24h"),
            (["--drift-interval", "60"], "not a duration"),
            (["--reconcile-concurrency", "0"], "1..=64"),
            (["--log-level", "=,="], "must be error"),
            (["--http-listen", "8080"], "invalid"),
            (["--cluster-domain", "cluster.local."], "such as cluster.local"),
            (["--monitoring-namespaces", "Monitoring"], "lower-case"),
            (["--openshift", "yes"], "auto, true, false"),
            (["--leader-elect", "maybe"], "true, false"),
            (["--drift-intervall", "60s"], "similar argument"),
        ] {
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(says), "{arguments:?}: {error}");
        }
        assert!(parse(&["--default-image", "localhost:5000/agent"]).is_ok());
    }

    #[test]
    fn a_plain_level_leaves_the_warnings_of_the_watches_out() {
        for (level, filter) in [
            ("info", "info,kube_runtime=error"),
            ("warn", "warn,kube_runtime=error"),
            ("error", "error"),
            ("debug", "debug"),
            ("info,kube=debug", "info,kube=debug"),
        ] {
            assert_eq!(parse(&["--log-level", level]).unwrap().log_filter(), filter);
        }
    }

    #[test]
    fn the_reference_is_current() {
        let mut run = TestCli::command();
        run.build();
        let mut out = "# Settings of the operator\n\nGenerated from the code; do not edit. Settings of `streamhouse-operator run`, \
            each as a flag or an environment variable; the flag takes precedence.\nThe chart sets the variables from its values.\n\n\
            | flag | variable | default | description |\n|---|---|---|---|\n"
            .to_owned();
        for argument in run
            .get_arguments()
            .filter(|argument| argument.get_env().is_some())
        {
            let variable = argument.get_env().unwrap().to_string_lossy();
            let flag = argument.get_long().unwrap();
            let help = argument.get_help().unwrap();
            let (default, choices) = (default_of(argument), choices_of(argument));
            writeln!(out, "| `--{flag}` | `{variable}` | {default} | {help}{choices} |").unwrap();
        }
        streamhouse_testkit::assert_current("docs/reference/operator-settings.md", &out).unwrap();
    }

    fn default_of(argument: &Arg) -> String {
        let values = argument.get_default_values().iter();
        let value = values
            .map(|value| value.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ");
        if value.is_empty() {
            value
        } else {
            format!("`{value}`")
        }
    }

    fn choices_of(argument: &Arg) -> String {
        let named = argument.get_possible_values();
        let names: Vec<String> = named
            .iter()
            .map(|value| format!("`{}`", value.get_name()))
            .collect();
        if names.is_empty() {
            String::new()
        } else {
            format!(" ({})", names.join(", "))
        }
    }
}
