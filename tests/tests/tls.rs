//! Clients and agents with TLS, as in a cluster where agents are reached by IP address and the
//! certificate names the service: records pass through the library and the command line, and
//! mismatches are rejected with the reason.

use std::{path::Path, time::Duration};

use streamhouse_client::{
    Admin, AutoOffsetReset, Client, ClientConfig, Consumer, Producer, Record, admin::NewTopic,
};
use streamhouse_testkit::{AgentProcess, CertificateAuthority, CliRunner, ProgramOutput};

type TestResult = anyhow::Result<()>;

/// The service's name. Agents advertise 127.0.0.1.
const SERVER_NAME: &str = "localhost";
const RECORDS: usize = 1000;

/// Writes a certificate for `name` where agents expect it, and its authority's to `ca.pem`. Returns
/// the latter.
fn write_certificate(folder: &Path, name: &str) -> anyhow::Result<String> {
    let authority = CertificateAuthority::new()?;
    let issued = authority.issue(&[name])?;
    std::fs::create_dir_all(folder.join("grpc"))?;
    std::fs::write(folder.join("grpc/tls.crt"), issued.certificate)?;
    std::fs::write(folder.join("grpc/tls.key"), issued.key)?;
    std::fs::write(folder.join("ca.pem"), authority.pem())?;
    Ok(authority.pem().to_owned())
}

/// Starts an agent with a certificate for [`SERVER_NAME`]. Returns it with the authority's
/// certificate.
fn start_tls_agent(folder: &Path) -> anyhow::Result<(AgentProcess, String)> {
    let ca = write_certificate(folder, SERVER_NAME)?;
    let mut agent = AgentProcess::builder()
        .dev(folder)
        .arg(format!("--tls-dir={}", folder.display()))
        .spawn()?;
    agent.wait_ready()?;
    Ok((agent, ca))
}

fn port(agent: &AgentProcess) -> u16 {
    agent.grpc().port()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_reads_what_was_produced_and_each_agent_is_held_to_the_services_name() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (agent, ca) = start_tls_agent(folder.path())?;
    let mut settings = ClientConfig::new(format!("https://{SERVER_NAME}:{}", port(&agent)));
    settings.tls_ca_pem = Some(ca.into_bytes());
    let client = Client::new(settings)?;
    client.admin().create_topic(NewTopic::new("orders", 4)).await?;
    let producer = client.producer().build().await?;
    let mut deliveries = Vec::new();
    for number in 0..RECORDS {
        let record = Record::new("orders", format!("order-{number}")).with_key(number.to_string());
        deliveries.push(producer.send(record).await?);
    }
    for delivery in deliveries {
        delivery.await?;
    }
    producer.close(Duration::from_secs(30)).await?;
    let consumer = client.consumer().group("billing").topics(["orders"]);
    let mut consumer = consumer
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .build()
        .await?;
    let mut read = std::collections::BTreeSet::new();
    while read.len() < RECORDS {
        for record in &consumer.poll(Duration::from_secs(10)).await? {
            let value = record.value.unwrap_or_default().to_vec();
            assert!(read.insert(value), "none is read twice");
        }
    }
    consumer.close().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_builders_take_an_authority_and_a_name() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (agent, ca) = start_tls_agent(folder.path())?;
    let bootstrap = format!("https://127.0.0.1:{}", port(&agent));
    let producer = Producer::builder()
        .bootstrap(&bootstrap)
        .tls_ca_pem(ca.clone())
        .tls_server_name(SERVER_NAME);
    let producer = producer.build().await?;
    let mut settings = ClientConfig::new(&bootstrap);
    settings.tls_ca_pem = Some(ca.clone().into_bytes());
    settings.tls_server_name = Some(SERVER_NAME.to_owned());
    Client::new(settings)?
        .admin()
        .create_topic(NewTopic::new("orders", 1))
        .await?;
    producer.send(Record::new("orders", "tea")).await?.await?;
    let consumer = Consumer::builder()
        .bootstrap(&bootstrap)
        .tls_ca_pem(ca)
        .tls_server_name(SERVER_NAME)
        .group("billing")
        .topics(["orders"])
        .auto_offset_reset(AutoOffsetReset::Earliest);
    let mut consumer = consumer.build().await?;
    let mut read = 0;
    while read == 0 {
        read += consumer.poll(Duration::from_secs(10)).await?.len();
    }
    consumer.close().await?;
    Ok(())
}

/// Runs the command line with these options before the command.
fn run_streamhouse(bootstrap: &str, options: &[&str], command: &[&str]) -> anyhow::Result<ProgramOutput> {
    CliRunner::new(bootstrap).run(["--timeout", "5s"].iter().chain(options).chain(command))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_speaks_tls() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (agent, _) = start_tls_agent(folder.path())?;
    let ca = folder.path().join("ca.pem").display().to_string();
    let by_name = format!("https://{SERVER_NAME}:{}", port(&agent));
    let by_address = format!("https://127.0.0.1:{}", port(&agent));
    let trusting = ["--tls-ca", &ca];
    run_streamhouse(&by_name, &trusting, &["topic", "create", "orders"])?.ensure_success()?;
    CliRunner::new(&by_name)
        .run_with_input(["--tls-ca", &ca, "produce", "orders"], "two pounds of tea\n")?
        .ensure_success()?;
    let named = ["--tls-ca", &ca, "--tls-server-name", SERVER_NAME];
    let read = [
        "consume",
        "orders",
        "--from-beginning",
        "--exit-at-end",
        "-f",
        "%v",
    ];
    let read = run_streamhouse(&by_address, &named, &read)?.ensure_success()?;
    assert_eq!(read.stdout_text().trim(), "two pounds of tea");

    let refused = run_streamhouse(&by_address, &trusting, &["topic", "list"])?;
    assert!(!refused.status.success());
    assert!(
        refused.stderr.contains("not valid for name"),
        "{}",
        refused.stderr
    );
    let untrusting = run_streamhouse(&by_name, &[], &["topic", "list"])?;
    assert!(untrusting.stderr.contains("certificate"), "{}", untrusting.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_text_to_a_secure_port_is_refused_at_once_and_tls_to_a_plain_port_by_name() -> TestResult {
    let folder = tempfile::tempdir()?;
    let (agent, _) = start_tls_agent(folder.path())?;
    let error = Admin::connect(format!("http://127.0.0.1:{}", port(&agent)))?
        .list_topics(false)
        .await
        .unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    assert!(
        error.to_string().contains("this port speaks TLS: use https://"),
        "{error}"
    );
    let refused = run_streamhouse(&agent.bootstrap(), &[], &["topic", "list"])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("this port speaks TLS"),
        "{}",
        refused.stderr
    );

    let plain = tempfile::tempdir()?;
    let mut plain_agent = AgentProcess::builder().dev(plain.path()).spawn()?;
    plain_agent.wait_ready()?;
    let refused = run_streamhouse(
        &format!("https://{SERVER_NAME}:{}", port(&plain_agent)),
        &[],
        &["topic", "list"],
    )?;
    assert!(refused.stderr.contains("corrupt message"), "{}", refused.stderr);
    Ok(())
}

#[test]
fn an_agent_with_broken_files_ends_before_it_listens_and_says_which() -> TestResult {
    let folder = tempfile::tempdir()?;
    write_certificate(folder.path(), SERVER_NAME)?;
    std::fs::write(folder.path().join("grpc/tls.key"), "hunter2")?;
    let ended = AgentProcess::builder()
        .dev(folder.path())
        .arg(format!("--tls-dir={}", folder.path().display()))
        .run(Duration::from_secs(60))?;
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert_eq!(ended.stdout_text(), "", "it never listened");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(
        last.contains("tls-dir: ") && last.contains("tls.key"),
        "{}",
        ended.stderr
    );
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    Ok(())
}
