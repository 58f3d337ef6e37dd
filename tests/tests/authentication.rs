//! Users and ACLs from the first user on, with the programs that people use: the agent's command
//! stores the first user, the command line manages the others.

use std::{fs, path::Path, time::Duration};

use streamhouse_testkit::{AgentProcess, CliRunner};

type TestResult = anyhow::Result<()>;

const LIMIT: Duration = Duration::from_secs(60);

/// Stores the user `admin`, whose password is in a file, and starts an agent with authentication.
fn start_with_first_user(folder: &Path, password_file: &str) -> anyhow::Result<AgentProcess> {
    fs::write(password_file, "correct horse\n")?;
    let agent = || AgentProcess::builder().dev(folder);
    let put = agent().arg("user").arg("put").arg("admin");
    let stored = put.arg("--password-file").arg(password_file).run(LIMIT)?;
    let stored = stored.ensure_success()?;
    assert!(!stored.stdout_text().contains("horse") && !stored.stderr.contains("horse"));
    let mut agent = agent()
        .env("STREAMHOUSE_AUTHENTICATION", "SCRAM-SHA-512")
        .env("STREAMHOUSE_AUTHORIZATION", "acl")
        .env("STREAMHOUSE_SUPER_USERS", "User:admin")
        .spawn()?;
    agent.wait_ready()?;
    Ok(agent)
}

#[test]
fn the_first_user_lets_others_in() -> TestResult {
    let folder = tempfile::TempDir::new()?;
    let password = folder.path().join("admin.password").display().to_string();
    let mut agent = start_with_first_user(folder.path(), &password)?;
    let cli = CliRunner::new(agent.bootstrap());
    let admin = ["--user", "admin", "--password-file", &password];
    let as_admin = |args: &[&str]| cli.run([&admin[..], args].concat());
    let unknown = cli.run(["topic", "list"])?;
    assert_eq!(unknown.status.code(), Some(1), "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("authentication is required"),
        "{}",
        unknown.stderr
    );
    as_admin(&["topic", "create", "orders"])?.ensure_success()?;
    as_admin(&["topic", "create", "secret"])?.ensure_success()?;
    let alice_file = folder.path().join("alice.password");
    fs::write(&alice_file, "battery staple")?;
    let alice_password = alice_file.display().to_string();
    as_admin(&["user", "put", "alice", "--new-password-file", &alice_password])?.ensure_success()?;
    let users = as_admin(&["user", "list"])?.ensure_success()?.stdout_text();
    assert!(
        users.contains("alice") && users.contains("SCRAM-SHA-512"),
        "{users}"
    );
    let alice = ["--user", "alice", "--password-file", &alice_password];
    let as_alice = |args: &[&str]| cli.run([&alice[..], args].concat());
    let records = folder.path().join("records");
    fs::write(&records, "one\n")?;
    let records = records.display().to_string();
    let denied = as_alice(&["produce", "orders", "--file", &records])?;
    assert_eq!(denied.status.code(), Some(1), "{}", denied.stderr);
    let allow = [
        "acl",
        "add",
        "--allow-principal",
        "User:alice",
        "--topic",
        "orders",
    ];
    as_admin(&[&allow[..], &["--operation", "Read", "--operation", "Write"]].concat())?.ensure_success()?;
    as_alice(&["produce", "orders", "--file", &records])?.ensure_success()?;
    let read = as_alice(&["consume", "orders", "--from-beginning", "--exit-at-end"])?.ensure_success()?;
    assert_eq!(read.stdout_text(), "one\n");
    let listed = as_alice(&["topic", "list"])?.ensure_success()?.stdout_text();
    assert!(
        listed.contains("orders") && !listed.contains("secret"),
        "{listed}"
    );
    let explained = as_admin(&["acl", "explain", "User:alice", "Write", "--topic", "orders"])?;
    let explained = explained.ensure_success()?.stdout_text();
    assert!(explained.starts_with("allowed by the rule: "), "{explained}");
    as_admin(&["acl", "delete", "--principal", "User:alice"])?.ensure_success()?;
    let denied = as_alice(&["produce", "orders", "--file", &records])?;
    assert_eq!(denied.status.code(), Some(1), "{}", denied.stderr);
    agent.drain()?;
    Ok(())
}
