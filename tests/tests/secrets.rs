//! What must not be in logs and metrics: passwords, keys, and what records contain.

use std::{fs, time::Duration};

use anyhow::Context as _;
use serde_json::json;
use streamhouse_testkit::{AgentProcess, CliRunner};
use streamhouse_tests::{
    TestCluster,
    scripts::{finish_script, start_script},
};

type TestResult = anyhow::Result<()>;

const LIMIT: Duration = Duration::from_secs(120);
const ADMIN: &str = "of-the-administrator-5f1d";
const ALICE: &str = "of-alice-8b2e";
const WRONG: &str = "a-wrong-one-c47a";
const KEY: &str = "key-of-a-record-19d3";
const VALUE: &str = "value-of-a-record-6e0f";
/// From `debug` on, libraries log the bytes that they send.
const LOG_LEVEL: &str = "info,streamhouse_agent=debug,streamhouse_core=debug,streamhouse_metadata=debug";

const SETTINGS: &[(&str, &str)] = &[
    ("STREAMHOUSE_AUTHENTICATION", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
    ("STREAMHOUSE_AUTHORIZATION", "acl"),
    ("STREAMHOUSE_SUPER_USERS", "User:admin"),
    ("STREAMHOUSE_LOG_LEVEL", LOG_LEVEL),
];

fn as_user(agent: &AgentProcess, user: &str, password: &str) -> CliRunner {
    CliRunner::new(agent.bootstrap())
        .env("STREAMHOUSE_USER", user)
        .env("STREAMHOUSE_PASSWORD", password)
}

/// Produces and reads a record, by both protocols and every mechanism, and fails in every way.
fn use_agent(agent: &AgentProcess, password_file: &str) -> TestResult {
    let admin = as_user(agent, "admin", ADMIN);
    fs::write(password_file, ALICE)?;
    for command in [
        "topic create orders".to_owned(),
        format!("user put alice --new-password-file {password_file}"),
        "acl add --allow-principal User:alice --operation Read --topic orders".to_owned(),
    ] {
        admin.run(command.split(' '))?.ensure_success()?;
    }
    let record = format!("{KEY}:{VALUE}\n");
    admin
        .run_with_input(["produce", "orders", "--key-separator", ":"], record.as_str())?
        .ensure_success()?;
    let read = [
        "consume",
        "orders",
        "--from-beginning",
        "--exit-at-end",
        "-f",
        "%k:%v\n",
    ];
    let alice = as_user(agent, "alice", ALICE).run(read)?.ensure_success()?;
    assert_eq!(alice.stdout_text(), record);
    let denied = as_user(agent, "alice", ALICE).run(["topic", "delete", "orders"])?;
    assert!(
        denied.stderr.contains("AUTHORIZATION_FAILED"),
        "{}",
        denied.stderr
    );
    assert!(!as_user(agent, "alice", WRONG).run(read)?.status.success());
    let given = [&agent.kafka().to_string(), "alice", password_file];
    let mut clients = start_script("tests/authenticated_clients.py", "Kafka clients", &given)?;
    let seen = finish_script(&mut clients, LIMIT)?;
    assert_eq!(seen["kafka-python"]["SCRAM-SHA-512"], json!(["orders"]), "{seen}");
    Ok(())
}

#[test]
fn logs_and_metrics_have_no_password_and_no_record() -> TestResult {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("password").display().to_string();
    let mut cluster = TestCluster::start(0, SETTINGS)?;
    fs::write(&file, ADMIN)?;
    let put = cluster.agent_builder().arg("user").arg("put").arg("admin");
    put.arg("--password-file")
        .arg(&file)
        .run(LIMIT)?
        .ensure_success()?;
    cluster.add_agent()?;
    let agent = cluster.agents.first().context("an agent")?;
    use_agent(agent, &file)?;
    let metrics = agent.http_get("/metrics")?.body;
    assert!(metrics.contains("topic=\"orders\""), "names are there: {metrics}");
    let key = cluster.minio().secret_key().to_owned();
    let agent = cluster.agents.first_mut().context("an agent")?;
    agent.drain()?;
    let logged = format!("{}{}", agent.process().stdout(), agent.process().stderr());
    assert!(logged.contains("alice") && logged.contains("DEBUG"), "{logged}");
    for secret in [ADMIN, ALICE, WRONG, KEY, VALUE, &key] {
        for text in [&logged, &metrics] {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
    Ok(())
}
