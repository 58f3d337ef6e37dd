//! The command line as a process: its output and exit codes, against a cluster of fake agents.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // helpers of tests fail as tests do

#[path = "../../client/tests/fake_agent/mod.rs"]
mod fake_agent;

use std::time::Duration;

use fake_agent::FakeCluster;
use serde_json::Value;
use streamhouse_testkit::{CertificateAuthority, ProcessBuilder};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Output and exit code of a command.
#[derive(Debug)]
struct CommandOutput {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs the command line with these environment variables and this input.
async fn run(args: &[&str], variables: &[(&str, &str)], input: impl Into<Vec<u8>>) -> CommandOutput {
    let spawn = ProcessBuilder::new(env!("CARGO_BIN_EXE_streamhouse")).clean_env();
    let spawn = variables
        .iter()
        .fold(spawn, |spawn, (name, value)| spawn.env(name, value));
    let spawn = spawn.args(args).input(input.into());
    let ended = tokio::task::spawn_blocking(move || {
        let mut process = spawn.start().unwrap();
        let status = process.wait(Duration::from_secs(60)).unwrap();
        CommandOutput {
            code: status.code(),
            stdout: process.stdout(),
            stderr: process.stderr(),
        }
    });
    ended.await.unwrap()
}

async fn produce(cluster: &FakeCluster, args: &[&str], input: impl Into<Vec<u8>>) -> CommandOutput {
    let bootstrap = format!("{}\r\n", cluster.bootstrap());
    let args: Vec<&str> = ["produce", "t"].iter().chain(args).copied().collect();
    run(&args, &[("STREAMHOUSE_BOOTSTRAP", &bootstrap)], input).await
}

#[tokio::test]
async fn carriage_returns_are_named_and_stripped_when_asked_for() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let ended = produce(&cluster, &[], "a\nb\r\nc\r\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(cluster.values("t", 0), ["a", "b\r", "c\r"]);
    let warnings: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.contains("warning: "))
        .collect();
    assert_eq!(warnings.len(), 1, "{ended:?}");
    assert!(
        warnings[0].contains("line 2 ends with a carriage return"),
        "{ended:?}"
    );
    let ended = produce(&cluster, &["--crlf"], "\u{feff}d\r\ne\r").await;
    assert!(!ended.stderr.contains("warning"), "{ended:?}");
    assert_eq!(cluster.values("t", 0)[3..], ["d", "e"]);
}

#[tokio::test]
async fn a_failure_names_the_lines_that_were_not_acknowledged() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    let huge = "x".repeat(9 << 20);
    let input = format!("a\n{huge}\nb\n{huge}\n{huge}\nc\n");
    let plain = ["--compression", "none"];
    let ended = produce(&cluster, &[&["-o", "json"], &plain[..]].concat(), input.clone()).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let summary: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(summary["failed_lines"], serde_json::json!([[2, 2], [4, 5]]));
    assert_eq!(summary["read_to_line"], Value::Null);
    assert_eq!(cluster.values("t", 0), ["a", "b", "c"]);
    let ended = produce(&cluster, &plain, input).await;
    assert!(
        ended.stderr.contains("\nlines not acknowledged: 2, 4-5\n"),
        "{ended:?}"
    );
    let beyond = produce(&cluster, &["-p", "7"], "a\nb\n").await;
    assert_eq!(beyond.code, Some(1), "{beyond:?}");
    assert!(
        beyond
            .stderr
            .contains("\nlines not acknowledged: 1; no line after 1 was read\n"),
        "{beyond:?}"
    );
}

#[tokio::test]
async fn with_json_a_usage_error_is_one_whole_json_object() {
    for (args, told) in [
        (&["-o", "json", "consume"][..], "<TOPIC>..."),
        (
            &["--output=json", "consume", "t", "--from-beginning", "true"],
            "takes no value",
        ),
        (
            &["-ojson", "produce", "t", "--linger", "-5ms"],
            "no value below zero",
        ),
        (
            &["-o", "json", "consume", "t", "-p", "-3"],
            "partitions are numbered from 0",
        ),
        (&["-o", "json", "topic"], "a command is missing"),
        (
            &["-o", "json", "topic", "list", "--tls-key", "k.pem\n"],
            "--tls-key k.pem: ",
        ),
        (
            &["-o", "json", "topic", "list", "--bootstrap", "a\nb"],
            "--bootstrap holds",
        ),
    ] {
        let ended = run(args, &[], "").await;
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{ended:?}");
        let error: Value = serde_json::from_str(&ended.stderr).unwrap();
        assert_eq!(error["error"]["code"], "USAGE", "{ended:?}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{message}");
    }
    let ended = run(&["consume", "t", "-e", "true"], &[], "").await;
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("-e takes no value"), "{ended:?}");
}

#[tokio::test]
async fn a_certificate_of_ones_own_comes_from_files_whose_names_may_end_in_a_line_feed() {
    let folder = tempfile::tempdir().unwrap();
    let authority = CertificateAuthority::new().unwrap();
    let (agent, client) = (
        authority.issue(&["localhost"]).unwrap(),
        authority.issue(&["cli"]).unwrap(),
    );
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(agent.certificate, agent.key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let cluster = FakeCluster::start_secure(tls).await;
    cluster.create("t", 1);
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("{}\n", path.display())
    };
    let bootstrap = format!("https://{}", cluster.address(0));
    let (ca, certificate, key) = (
        file("ca.pem", authority.pem()),
        file("cli.pem", &client.certificate),
        file("cli.key", &client.key),
    );
    let trusting = [
        ("STREAMHOUSE_BOOTSTRAP", bootstrap.as_str()),
        ("STREAMHOUSE_CLIENT_TLS_CA", &ca),
        ("STREAMHOUSE_CLIENT_TLS_SERVER_NAME", "localhost\n"),
        ("STREAMHOUSE_CLIENT_TLS_CERT", &certificate),
        ("STREAMHOUSE_CLIENT_TLS_KEY", &key),
    ];
    let ended = run(&["produce", "t"], &trusting, "tea\n").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(cluster.values("t", 0), ["tea"]);
    let lone = run(&["produce", "t"], &trusting[..4], "tea\n").await;
    assert_eq!(lone.code, Some(2), "{lone:?}");
    assert!(lone.stderr.contains("--tls-cert needs --tls-key"), "{lone:?}");
    let impatient = ["produce", "t", "--timeout", "1s", "--delivery-timeout", "1s"];
    let refused = run(&impatient, &trusting[..3], "tea\n").await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("no agent answers at 127.0.0.1:"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_producer_that_waits_for_its_leader_says_so_on_the_way_and_at_the_end() {
    let cluster = FakeCluster::start(2).await;
    cluster.create("t", 1);
    {
        let mut state = cluster.state.lock();
        state.addresses[1] = "127.0.0.1:1".to_owned();
        state.topics.get_mut("t").unwrap()[0].leader = 1;
    }
    let bootstrap = cluster.address(0);
    let args = ["produce", "t", "--delivery-timeout", "6s", "-o", "json"];
    let ended = run(&args, &[("STREAMHOUSE_BOOTSTRAP", &bootstrap)], "a\n").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let lines: Vec<Value> = ended
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = "agent agent-1 advertises 127.0.0.1:1, which does not answer";
    let message = |line: &Value, kind: &str| line[kind]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message(&lines[0], "warning").contains(told), "{ended:?}");
    assert!(
        message(lines.last().unwrap(), "error").contains(told),
        "{ended:?}"
    );
}

#[tokio::test]
async fn records_that_cannot_be_read_end_a_consume_with_the_object_named() {
    let cluster = FakeCluster::start(1).await;
    cluster.create("t", 1);
    for value in ["a", "b", "c"] {
        assert_eq!(produce(&cluster, &[], value).await.code, Some(0));
    }
    cluster.change("t", 0, |partition| partition.damaged = Some(1..2));
    let bootstrap = cluster.bootstrap();
    let consume = async |args: &[&str]| {
        let args: Vec<&str> = ["consume", "t", "--exit-at-end"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        run(&args, &[("STREAMHOUSE_BOOTSTRAP", &bootstrap)], "").await
    };
    for from in [&["--from-beginning"][..], &["-g", "g", "--from-beginning"]] {
        let ended = consume(from).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_eq!(ended.stdout, "a\n", "{ended:?}");
        let last = ended.stderr.lines().last().unwrap();
        assert!(
            last.contains("t-0") && last.contains("t/0/segment_7.dat"),
            "{ended:?}"
        );
    }
    let ended = consume(&["-p", "0", "--offset", "2"]).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "c\n"), "{ended:?}");
}
