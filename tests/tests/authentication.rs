//! Users and ACLs from the first user on, with the programs that people use: the agent's command
//! stores the first user, the command line manages the others, and Kafka's clients authenticate.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use streamhouse_testkit::{AgentProcess, CliRunner, ProgramOutput, built_binary};
use streamhouse_tests::scripts::{finish_script, start_script};

type TestResult = anyhow::Result<()>;

const LIMIT: Duration = Duration::from_secs(60);
/// Ten authentications, each with a process' start or a time to reconnect.
const CLIENTS_LIMIT: Duration = Duration::from_secs(120);

/// Stores the user `admin`, whose password is in a file, and starts an agent with authentication.
fn start_with_first_user(folder: &Path, password_file: &str) -> anyhow::Result<AgentProcess> {
    fs::write(password_file, "correct horse\n")?;
    let agent = || AgentProcess::builder().dev(folder);
    let put = agent().arg("user").arg("put").arg("admin");
    let stored = put.arg("--password-file").arg(password_file).run(LIMIT)?;
    let stored = stored.ensure_success()?;
    assert!(!stored.stdout_text().contains("horse") && !stored.stderr.contains("horse"));
    let mut agent = agent()
        .env("STREAMHOUSE_AUTHENTICATION", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512")
        .env("STREAMHOUSE_AUTHORIZATION", "acl")
        .env("STREAMHOUSE_SUPER_USERS", "User:admin")
        .spawn()?;
    agent.wait_ready()?;
    Ok(agent)
}

fn assert_denied(output: &ProgramOutput) {
    assert_eq!(output.status.code(), Some(1), "{}", output.stderr);
    assert!(
        output.stderr.contains("TOPIC_AUTHORIZATION_FAILED"),
        "{}",
        output.stderr
    );
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
    assert_denied(&as_alice(&["produce", "orders", "--file", &records])?);
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
    assert_denied(&as_alice(&["produce", "orders", "--file", &records])?);
    agent.drain()?;
    Ok(())
}

#[test]
fn kafka_clients_authenticate_by_every_mechanism_and_see_what_they_may() -> TestResult {
    let folder = tempfile::TempDir::new()?;
    let password = folder.path().join("admin.password").display().to_string();
    let mut agent = start_with_first_user(folder.path(), &password)?;
    let alice_password = folder.path().join("alice.password").display().to_string();
    fs::write(&alice_password, "battery staple")?;
    let cli = CliRunner::new(agent.bootstrap());
    for command in [
        "topic create orders",
        "topic create secret",
        "user put alice --new-password-file FILE",
        "acl add --allow-principal User:alice --operation Read --topic orders",
    ] {
        let words = command.split(' ').map(|word| match word {
            "FILE" => alice_password.as_str(),
            word => word,
        });
        let admin = ["--user", "admin", "--password-file", &password];
        cli.run(admin.into_iter().chain(words))?.ensure_success()?;
    }
    let arguments = [agent.kafka().to_string(), "alice".to_owned(), alice_password];
    let arguments = arguments.each_ref().map(String::as_str);
    let mut clients = start_script("tests/authenticated_clients.py", "Kafka clients", &arguments)?;
    let by_mechanism = |seen: Value| json!({ "PLAIN": seen, "SCRAM-SHA-256": seen, "SCRAM-SHA-512": seen });
    let expected = json!({
        "kafka-python": by_mechanism(json!(["orders"])),
        "confluent-kafka": by_mechanism(json!(["orders"])),
        "with a wrong password": by_mechanism(json!("_AUTHENTICATION")),
    });
    assert_eq!(finish_script(&mut clients, CLIENTS_LIMIT)?, expected);
    agent.drain()?;
    Ok(())
}

/// Runs the command line on a terminal; returns what it shows until it ends, or until that ends
/// with `end`.
fn show_on_a_terminal(arguments: &[&str], end: &str) -> anyhow::Result<String> {
    let program = built_binary("streamhouse")?.display().to_string();
    let arguments = [&[end, &program], arguments].concat();
    let mut shown = start_script("tests/on_a_terminal.py", "streamhouse on a terminal", &arguments)?;
    let shown = finish_script(&mut shown, LIMIT)?;
    Ok(shown.as_str().unwrap_or_default().to_owned())
}

/// Names of users and principals may contain any character. In a pipe they stay as they are.
#[test]
fn no_name_controls_the_terminal() -> TestResult {
    let folder = tempfile::TempDir::new()?;
    let password = folder.path().join("admin.password").display().to_string();
    let mut agent = start_with_first_user(folder.path(), &password)?;
    let (cli, bootstrap) = (CliRunner::new(agent.bootstrap()), agent.bootstrap());
    let admin = [
        "--bootstrap",
        &bootstrap,
        "--user",
        "admin",
        "--password-file",
        &password,
    ];
    let as_admin = |args: &str| {
        let words = args.split(' ').map(|word| word.replace("NAME", "a\x1b[2Jb"));
        let admin = admin.iter().map(ToString::to_string);
        admin.chain(words).collect::<Vec<String>>()
    };
    cli.run(as_admin(
        "acl add --allow-principal User:NAME --operation Read --topic orders",
    ))?
    .ensure_success()?;
    let explain = as_admin("acl explain User:NAME Read --topic orders");
    let piped = cli.run(&explain)?.ensure_success()?.stdout_text();
    assert!(piped.contains("User:a\x1b[2Jb"), "{piped:?}");
    for (arguments, end) in [(explain, "\n"), (as_admin("user put NAME"), ": ")] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let shown = show_on_a_terminal(&arguments, end)?;
        assert!(
            shown.contains("a\\x1b[2Jb") && !shown.contains('\x1b'),
            "{shown:?}"
        );
    }
    agent.drain()?;
    Ok(())
}
