//! Clients choose what they call themselves; the number of series stays bounded.

use std::net::Ipv4Addr;

use prometheus::{Registry, core::Collector as _};

use super::*;

fn clients() -> Arc<KafkaClients> {
    Arc::new(KafkaClients::new(&MetricRegistrar(Registry::new())).unwrap())
}

fn open(clients: &KafkaClients, name: &str, version: &str) -> i64 {
    clients.connections.with_label_values(&[name, version]).get()
}

fn series(clients: &KafkaClients) -> usize {
    let families = clients.connections.collect();
    families.iter().map(|family| family.get_metric().len()).sum()
}

#[test]
fn names_are_valid_as_in_kafka() {
    for (name, version) in [("librdkafka", "2.15.0"), ("a", "1"), ("A-b.c", "v1-rc.2")] {
        assert!(ClientSoftware::new(name, version).is_some(), "{name} {version}");
    }
    for text in [
        "", "-a", "a-", ".a", "a.", "a b", "a\u{e9}", "a/b", "a_b", "a\n", "a\0b", "-",
    ] {
        assert_eq!(ClientSoftware::new(text, "1"), None, "{text:?}");
        assert_eq!(ClientSoftware::new("a", text), None, "{text:?}");
    }
}

#[test]
fn connections_are_counted_by_software_and_version_while_they_are_open() {
    let clients = clients();
    let unnamed = clients.connect(None);
    let named = clients.connect(Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(open(&clients, UNNAMED, ""), 2);
    named.set_software(ClientSoftware::new("librdkafka", "2.15.0").unwrap());
    named.set_client_id("billing");
    assert_eq!(
        (
            open(&clients, UNNAMED, ""),
            open(&clients, "librdkafka", "2.15.0")
        ),
        (1, 1)
    );
    let mut connected = clients.connected();
    connected.sort_by_key(|client| client.client_id.clone());
    assert_eq!(connected[1].client_id, "billing");
    assert_eq!(connected[1].host, Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(connected[0], ConnectedClient::default());
    // A client that names another software is still one connection.
    named.set_software(ClientSoftware::new("sarama", "1.61.0").unwrap());
    assert_eq!(
        (
            open(&clients, "librdkafka", "2.15.0"),
            open(&clients, "sarama", "1.61.0")
        ),
        (0, 1)
    );
    drop((unnamed, named));
    assert_eq!(
        (open(&clients, UNNAMED, ""), open(&clients, "sarama", "1.61.0")),
        (0, 0)
    );
    assert_eq!(clients.connected(), []);
}

#[test]
fn hostile_names_and_versions_share_one_value() {
    let clients = clients();
    let mut kept = Vec::new();
    let mut connect = |name: &str, version: &str| {
        let connection = clients.connect(None);
        connection.set_software(ClientSoftware::new(name, version).unwrap());
        kept.push(connection);
    };
    for number in 0..2_000 {
        connect(&format!("evil-{number}"), "1");
        connect("librdkafka", &format!("2.{number}"));
        connect(&"x".repeat(number + 1), &"1".repeat(number + 1));
    }
    let bound = (KNOWN_SOFTWARE.len() + MAX_FURTHER_NAMES) * (MAX_VERSIONS + 1) + 2;
    assert!(series(&clients) <= bound, "{} series", series(&clients));
    // Well-known clients keep their names, and versions that were seen before.
    let connection = clients.connect(None);
    connection.set_software(ClientSoftware::new("apache-kafka-java", "4.3.1").unwrap());
    assert_eq!(open(&clients, "apache-kafka-java", "4.3.1"), 1);
    assert_eq!(open(&clients, "librdkafka", "2.0"), 1);
    assert_eq!(open(&clients, "librdkafka", OTHER_LABEL_VALUE), 2_000 - 10);
    let longest = clients.connected().into_iter().filter_map(|client| {
        let software = client.software.as_ref()?;
        Some(software.name.len().max(software.version.len()))
    });
    assert_eq!(longest.max(), Some(MAX_NAME_BYTES));
    connection.set_client_id(&"\u{e9}".repeat(1_000));
    let ids = clients.connected();
    assert_eq!(
        ids.iter().map(|client| client.client_id.len()).max(),
        Some(MAX_CLIENT_ID_BYTES)
    );
    drop((kept, connection));
    assert!(clients.connected().is_empty());
    let names = clients.connections.collect();
    let total: f64 = names
        .iter()
        .flat_map(|family| family.get_metric())
        .map(|metric| metric.get_gauge().get_value())
        .sum();
    assert!(total.abs() < f64::EPSILON, "{total}");
}

#[test]
fn a_name_beyond_the_limit_gets_no_series_later_either() {
    let clients = clients();
    for number in 0..MAX_FURTHER_NAMES {
        let connection = clients.connect(None);
        connection.set_software(ClientSoftware::new(&format!("tool-{number}"), "1").unwrap());
    }
    let connection = clients.connect(None);
    connection.set_software(ClientSoftware::new("late", "1").unwrap());
    assert_eq!(open(&clients, OTHER_LABEL_VALUE, OTHER_LABEL_VALUE), 1);
    connection.set_software(ClientSoftware::new("tool-3", "1").unwrap());
    assert_eq!(open(&clients, "tool-3", "1"), 1);
}
