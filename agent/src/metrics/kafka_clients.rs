//! The open connections of Kafka clients, by the software that the clients name: as a metric, and
//! for the console.
//!
//! Clients choose these names, so the number of series is bounded for as long as the agent runs:
//! well-known clients always have a name of their own, a few others too, each with a limited number
//! of versions; the rest shares one value.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use prometheus::{IntGauge, IntGaugeVec, Result};

use super::{OTHER_LABEL_VALUE, register::MetricRegistrar};

/// Names of client software that always have series of their own.
const KNOWN_SOFTWARE: [&str; 13] = [
    "aiokafka",
    "apache-kafka-java",
    "confluent-kafka-dotnet",
    "confluent-kafka-go",
    "confluent-kafka-javascript",
    "confluent-kafka-python",
    "franz-go",
    "kafka-python",
    "kafkajs",
    "kgo",
    "librdkafka",
    "rdkafka",
    "sarama",
];
/// Maximum number of other names with series of their own.
const MAX_FURTHER_NAMES: usize = 20;
/// Maximum number of versions of one software with series of their own.
const MAX_VERSIONS: usize = 10;
/// Maximum length of a name or version that is kept.
const MAX_NAME_BYTES: usize = 64;
/// Maximum length of a client id that is kept.
const MAX_CLIENT_ID_BYTES: usize = 256;
/// The label value of clients that have not named their software.
const UNNAMED: &str = "_unnamed";

/// The software of a client, as it names itself (KIP-511).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientSoftware {
    /// Such as `librdkafka`; at most 64 bytes of it.
    pub name: String,
    /// Such as `2.15.0`; at most 64 bytes of it.
    pub version: String,
}

impl ClientSoftware {
    /// Returns the software with these names; `None` if Kafka would refuse them. A name or version
    /// has letters and digits, and hyphens and dots between them.
    pub fn new(name: &str, version: &str) -> Option<Self> {
        let is_valid = |text: &str| {
            let ends = [text.bytes().next(), text.bytes().last()];
            ends.iter()
                .all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric()))
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
        };
        (is_valid(name) && is_valid(version)).then(|| Self {
            name: truncated(name, MAX_NAME_BYTES),
            version: truncated(version, MAX_NAME_BYTES),
        })
    }
}

fn truncated(text: &str, bytes: usize) -> String {
    text[..text.floor_char_boundary(bytes)].to_owned()
}

/// An open connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectedClient {
    /// The address of the client.
    pub host: Option<IpAddr>,
    /// Its client id; empty while it has sent none.
    pub client_id: String,
    /// Its software, if it has named it.
    pub software: Option<ClientSoftware>,
}

/// The open connections of Kafka clients.
#[derive(Debug)]
pub struct KafkaClients {
    connections: IntGaugeVec,
    labels: Mutex<SoftwareLabels>,
    open: Mutex<HashMap<u64, ConnectedClient>>,
    next: AtomicU64,
}

impl KafkaClients {
    pub(super) fn new(new: &MetricRegistrar) -> Result<Self> {
        Ok(Self {
            connections: new.gauges(
                "kafka_connections",
                "Open connections of Kafka clients, by the name and version of their software.",
                &["software", "version"],
            )?,
            labels: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Creates the series of clients that have not named their software, at zero.
    pub(super) fn register(&self) {
        self.gauge(None);
    }

    /// Counts an open connection, as long as the value exists.
    pub fn connect(self: &Arc<Self>, host: Option<IpAddr>) -> CountedConnection {
        let id = self.next.fetch_add(1, Relaxed);
        let client = ConnectedClient {
            host,
            ..ConnectedClient::default()
        };
        self.open.lock().insert(id, client);
        let gauge = self.gauge(None);
        gauge.inc();
        CountedConnection {
            id,
            clients: self.clone(),
            gauge: Mutex::new(gauge),
        }
    }

    /// Returns the open connections, in no order.
    pub fn connected(&self) -> Vec<ConnectedClient> {
        self.open.lock().values().cloned().collect()
    }

    fn gauge(&self, software: Option<&ClientSoftware>) -> IntGauge {
        let (name, version) = match software {
            None => (UNNAMED, ""),
            Some(software) => self.labels.lock().select(software),
        };
        self.connections.with_label_values(&[name, version])
    }
}

/// A connection that is counted as open.
#[derive(Debug)]
pub struct CountedConnection {
    id: u64,
    clients: Arc<KafkaClients>,
    gauge: Mutex<IntGauge>,
}

impl CountedConnection {
    /// Counts the connection by the software that its client has named.
    pub fn set_software(&self, software: ClientSoftware) {
        let gauge = self.clients.gauge(Some(&software));
        let mut counted = self.gauge.lock();
        gauge.inc();
        std::mem::replace(&mut *counted, gauge).dec();
        drop(counted);
        if let Some(client) = self.clients.open.lock().get_mut(&self.id) {
            client.software = Some(software);
        }
    }

    /// Keeps the client id that the client has sent.
    pub fn set_client_id(&self, client_id: &str) {
        if let Some(client) = self.clients.open.lock().get_mut(&self.id) {
            client.client_id = truncated(client_id, MAX_CLIENT_ID_BYTES);
        }
    }
}

impl Drop for CountedConnection {
    fn drop(&mut self) {
        self.gauge.lock().dec();
        self.clients.open.lock().remove(&self.id);
    }
}

/// The names and versions that have series of their own.
#[derive(Debug, Default)]
struct SoftwareLabels {
    versions: HashMap<String, HashSet<String>>,
}

impl SoftwareLabels {
    /// Returns the label values of this software.
    fn select<'a>(&mut self, software: &'a ClientSoftware) -> (&'a str, &'a str) {
        const OTHERS: (&str, &str) = (OTHER_LABEL_VALUE, OTHER_LABEL_VALUE);
        let name = software.name.as_str();
        if !self.versions.contains_key(name) {
            let is_known = |name: &str| KNOWN_SOFTWARE.contains(&name);
            let further = self.versions.keys().filter(|name| !is_known(name)).count();
            if !is_known(name) && (further >= MAX_FURTHER_NAMES || name.len() >= MAX_NAME_BYTES) {
                return OTHERS;
            }
        }
        let versions = self.versions.entry(name.to_owned()).or_default();
        let version = software.version.as_str();
        if versions.contains(version) {
            return (name, version);
        }
        if versions.len() >= MAX_VERSIONS || version.len() >= MAX_NAME_BYTES {
            return (name, OTHER_LABEL_VALUE);
        }
        versions.insert(version.to_owned());
        (name, version)
    }
}

#[cfg(test)]
mod tests;
