//! Kafka clients by two listeners of the same agents: inside, at the addresses that agents
//! advertise; outside, by proxies at addresses of the listeners file, with TLS.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use streamhouse_testkit::{CertificateAuthority, SilentProxy};
use streamhouse_tests::{
    TestCluster,
    scripts::{finish_script, start_script},
};

type TestResult = anyhow::Result<()>;

const CLIENT_TIMEOUT: Duration = Duration::from_secs(120);
const RECORDS: usize = 500;

fn kafka_client(command: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    let arguments = [&[command], arguments].concat();
    let mut client = start_script("tests/kafka_listeners.py", command, &arguments)?;
    finish_script(&mut client, CLIENT_TIMEOUT)
}

/// Writes a certificate for localhost where agents expect that of the listener `outside`. Returns
/// the path of its authority's.
fn write_certificate(folder: &Path) -> anyhow::Result<String> {
    let authority = CertificateAuthority::new()?;
    let issued = authority.issue(&["localhost"])?;
    let of_listener = folder.join("outside");
    fs::create_dir_all(&of_listener)?;
    fs::write(of_listener.join("tls.crt"), issued.certificate)?;
    fs::write(of_listener.join("tls.key"), issued.key)?;
    let ca = folder.join("ca.pem");
    fs::write(&ca, authority.pem())?;
    Ok(ca.display().to_string())
}

/// Returns the listeners file with these addresses by agent.
fn listeners_file(agents: &[(String, String)]) -> String {
    let agents = agents.iter().map(|(id, address)| format!("{id}: '{address}'"));
    let agents = agents.collect::<Vec<_>>().join(", ");
    format!(
        "listeners: [{{name: outside, protocol: kafka, tls: true, listen: '127.0.0.1:0', agents: {{{agents}}}}}]"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_listener_leads_its_clients_to_every_agent_by_addresses_of_its_own() -> TestResult {
    let folder = tempfile::tempdir()?;
    let ca = write_certificate(folder.path())?;
    let file = folder.path().join("listeners.yaml");
    fs::write(&file, listeners_file(&[]))?;
    let settings = [
        ("STREAMHOUSE_LISTENERS_FILE", file.display().to_string()),
        ("STREAMHOUSE_TLS_DIR", folder.path().display().to_string()),
    ];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let cluster = TestCluster::start(2, &settings)?;
    let (mut proxies, mut outside) = (Vec::new(), Vec::new());
    for agent in &cluster.agents {
        let proxy = SilentProxy::start(agent.listener("outside")?.port())?;
        outside.push((
            format!("agent-{}", agent.grpc().port()),
            format!("localhost:{}", proxy.port()),
        ));
        proxies.push(proxy);
    }
    fs::write(&file, listeners_file(&outside))?;
    let inside = cluster.agents.iter().map(|agent| agent.kafka().to_string());
    let mut inside: Vec<String> = inside.collect();
    let mut outside: Vec<String> = outside.into_iter().map(|(_, address)| address).collect();
    inside.sort();
    outside.sort();
    for (topic, addresses, ca) in [("inside", &inside, ""), ("outside", &outside, ca.as_str())] {
        let brokers = kafka_client("brokers", &[&addresses[0], ca, "2"])?;
        assert_eq!(brokers, serde_json::json!(addresses), "{topic}");
        cluster.create_topic(topic, 4).await?;
        let count = RECORDS.to_string();
        let read = kafka_client("pass_records", &[&addresses[0], ca, topic, &count])?;
        assert_eq!(
            read,
            serde_json::json!((0..RECORDS).collect::<Vec<_>>()),
            "{topic}"
        );
    }
    assert!(
        proxies.iter().all(|proxy| proxy.accepted() > 0),
        "records went to every leader"
    );
    Ok(())
}
