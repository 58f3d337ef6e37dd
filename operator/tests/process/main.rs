//! Tests of the operator as a process on a real API server: start, waiting, leading, handover and
//! shutdown.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

mod diff;
mod fixtures;
mod namespaces;
mod rbac;
mod undecodable;

use std::{net::SocketAddr, path::Path, process::ExitStatus, time::Duration};

use serde_json::Value;
use streamhouse_testkit::{
    ChildProcess, HttpResponse, KubeApi, ProcessBuilder, ReservedPort, http_get, wait_until,
};

const EVENT_TIMEOUT: Duration = Duration::from_secs(60);
const BINARY: &str = env!("CARGO_BIN_EXE_streamhouse-operator");

/// A running operator.
struct OperatorProcess {
    process: ChildProcess,
    address: SocketAddr,
    _port: ReservedPort,
}

impl OperatorProcess {
    fn start(kubeconfig: &Path, name: &str, more: &[&str]) -> OperatorProcess {
        let port = ReservedPort::reserve().unwrap();
        let address = port.address();
        let process = ProcessBuilder::new(BINARY)
            .name(name)
            .clean_env()
            .env("KUBECONFIG", kubeconfig)
            .args(["run", "--pod-name", name, "--lease-namespace", "default"])
            .args(["--http-listen", &address.to_string()])
            .args(more)
            .start()
            .unwrap();
        OperatorProcess {
            process,
            address,
            _port: port,
        }
    }

    fn get(&self, path: &str) -> Option<HttpResponse> {
        http_get(self.address, path).ok()
    }

    /// Waits until the endpoint responds with this status; returns the body.
    fn until(&mut self, path: &str, status: u16, holds: impl Fn(&str) -> bool) -> String {
        let what = format!("{path} with {status}");
        let process = &mut self.process;
        let address = self.address;
        wait_until(&what, EVENT_TIMEOUT, || {
            anyhow::ensure!(process.is_running(), "the operator has ended");
            let answer = http_get(address, path).ok();
            let fits = answer.filter(|answer| answer.status == status && holds(&answer.body));
            Ok(fits.map(|answer| answer.body))
        })
        .unwrap()
    }

    fn metric(&self, name: &str) -> Option<i64> {
        let page = self.get("/metrics")?.body;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok())
    }

    fn is_leading(&self) -> bool {
        self.metric("streamhouse_operator_leader") == Some(1)
    }

    fn until_leads(&self) {
        wait_until("the lead of a replica", EVENT_TIMEOUT, || {
            Ok(self.is_leading().then_some(()))
        })
        .unwrap();
    }

    fn stop(&mut self) -> ExitStatus {
        self.process.terminate().unwrap();
        self.process.wait(EVENT_TIMEOUT).unwrap()
    }
}

fn run(args: &[&str], envs: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut spawn = ProcessBuilder::new(BINARY).clean_env().args(args);
    for (key, value) in envs {
        spawn = spawn.env(key, value);
    }
    let mut process = spawn.start().unwrap();
    let status = process.wait(EVENT_TIMEOUT).unwrap();
    (status.code(), process.stdout(), process.stderr())
}

fn crds() -> String {
    let (code, out, _) = run(&["crds"], &[]);
    assert_eq!(code, Some(0));
    out
}

fn holder(api: &KubeApi) -> String {
    let show = "jsonpath={.spec.holderIdentity}";
    api.kubectl(&[
        "get",
        "lease",
        "streamhouse-operator",
        "-n",
        "default",
        "-o",
        show,
    ])
    .unwrap()
}

#[test]
fn missing_definitions_are_waited_for_and_told_of() {
    let api = KubeApi::start().unwrap();
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-0", &[]);
    let body = operator.until("/ready", 503, |body| {
        body.contains("streamhouseclusters.streamhouse.io")
    });
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["reasons"][0]["missing"], "custom-resource-definitions");
    assert!(
        body["reasons"][0]["reason"]
            .as_str()
            .unwrap()
            .contains("streamhouse-operator crds"),
        "{body}"
    );
    assert_eq!(
        operator.get("/health").unwrap().status,
        200,
        "it is alive and waits"
    );
    assert_eq!(operator.metric("streamhouse_operator_crd_missing"), Some(1));
    assert!(!operator.is_leading());

    api.apply(&crds()).unwrap();
    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    assert_eq!(operator.metric("streamhouse_operator_crd_missing"), Some(0));

    // The definitions are removed while it runs: the same, without a restart.
    api.kubectl(&["delete", "crd", "topics.streamhouse.io"]).unwrap();
    operator.until("/ready", 503, |body| body.contains("topics.streamhouse.io"));
    api.apply(&crds()).unwrap();
    operator.until("/ready", 200, |_| true);

    assert_eq!(operator.stop().code(), Some(0));
    assert_eq!(holder(&api), "", "the lease is released");
}

#[test]
fn of_two_replicas_one_leads_and_the_other_takes_over() {
    let api = KubeApi::start().unwrap();
    api.apply(&crds()).unwrap();
    let mut first = OperatorProcess::start(api.kubeconfig(), "op-0", &[]);
    first.until_leads();
    let mut second = OperatorProcess::start(api.kubeconfig(), "op-1", &[]);
    second.until("/ready", 200, |body| body.contains(r#""leader":false"#));

    assert_eq!(first.stop().code(), Some(0));
    second.until_leads();
    assert!(holder(&api).starts_with("op-1_"));

    let third = OperatorProcess::start(api.kubeconfig(), "op-2", &[]);
    second.process.kill9().unwrap();
    third.until_leads();
    assert!(holder(&api).starts_with("op-2_"));
}

#[test]
fn a_leader_that_cannot_renew_stands_by_and_leads_again_later() {
    let api = KubeApi::start().unwrap();
    api.apply(&crds()).unwrap();
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-0", &[]);
    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    api.pause().unwrap();
    wait_until("the end of the term", EVENT_TIMEOUT, || {
        Ok((!operator.is_leading()).then_some(()))
    })
    .unwrap();
    operator.until("/ready", 503, |body| body.contains("api-server"));
    assert_eq!(operator.get("/health").unwrap().status, 200);
    api.resume().unwrap();
    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn without_an_election_it_works_at_once_and_makes_no_lease() {
    let api = KubeApi::start().unwrap();
    api.apply(&crds()).unwrap();
    let more = [
        "--leader-elect",
        "false",
        "--watch-namespaces",
        "default",
        "--log-format",
        "json",
    ];
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-0", &more);
    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    assert_eq!(
        api.kubectl(&["get", "leases", "-n", "default", "-o", "name"])
            .unwrap(),
        ""
    );
    // Nothing that it has read of Secrets is ever written to a core dump.
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", operator.process.id())).unwrap();
    let dumps = limits.lines().find(|line| line.starts_with("Max core file size"));
    let values: Vec<&str> = dumps.unwrap().split_whitespace().collect();
    assert_eq!(values[4..6], ["1", "1"], "{limits}");
    assert_eq!(operator.stop().code(), Some(0));
    for line in operator.process.stderr().lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn settings_that_are_refused_end_it_before_anything_starts() {
    for (args, envs, says) in [
        (
            &["run", "--drift-interval", "1s"][..],
            &[][..],
            "between 5s and 24h",
        ),
        (&["run", "--no-such-flag"], &[], "unexpected argument"),
        (
            &["run"],
            &[("STREAMHOUSE_OPERATOR_DRIFT", "60s")],
            "unknown setting STREAMHOUSE_OPERATOR_DRIFT",
        ),
        (
            &["run"],
            &[("STREAMHOUSE_OPERATOR_LEADER_ELECT", "perhaps")],
            "true, false",
        ),
        (&["serve"], &[], "unrecognized subcommand"),
    ] {
        let (code, out, err) = run(args, envs);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}");
        assert!(err.contains(says), "{args:?}: {err}");
    }
}

#[test]
fn without_a_way_to_an_api_server_it_says_what_to_set() {
    let (code, _, err) = run(
        &["run", "--http-listen", "127.0.0.1:0"],
        &[("KUBECONFIG", "no/such/file")],
    );
    assert_eq!(code, Some(1));
    assert!(err.contains("set KUBECONFIG"), "{err}");
}
