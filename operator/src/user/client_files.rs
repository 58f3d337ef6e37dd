//! The content of the Secret for clients: user name, password, address, and files with which
//! clients of Java, of librdkafka and of StreamHouse start as they are. Free of side effects.

use std::{collections::BTreeMap, fmt};

use crate::crd::{AuthenticationMechanism, ListenerProtocol, StreamHouseCluster};

/// How a client reaches the cluster and proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ClientAccess {
    pub(super) user_name: String,
    pub(super) password: String,
    /// Name of the SASL mechanism.
    pub(super) mechanism: &'static str,
    pub(super) address: ClientAddress,
}

impl fmt::Debug for ClientAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAccess")
            .field("user_name", &self.user_name)
            .field("mechanism", &self.mechanism)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The address of the cluster for the first contact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ClientAddress {
    /// `host:port`, or several with commas between them; empty if it is not known.
    pub(super) bootstrap: String,
    /// Whether Kafka clients can use it.
    pub(super) is_kafka: bool,
    pub(super) has_tls: bool,
}

impl ClientAddress {
    /// Returns the address of the listener for Kafka clients in the Kubernetes cluster, or of the
    /// first other one for Kafka clients, or that of StreamHouse clients.
    pub(super) fn of(cluster: &StreamHouseCluster) -> Self {
        let status = cluster.status.as_ref();
        let listeners = &cluster.spec.listeners;
        let kafka = status
            .iter()
            .flat_map(|status| &status.listeners)
            .find(|listener| listener.protocol == ListenerProtocol::Kafka && listener.bootstrap.is_some());
        if let Some(found) = kafka {
            let own = listeners.kafka.iter().filter(|_| found.name == "kafka");
            let own = own.filter_map(|kafka| kafka.tls.as_ref());
            let further = listeners
                .additional
                .iter()
                .filter(|given| given.name == found.name);
            let mut tls = own.chain(further.filter_map(|given| given.tls.as_ref()));
            return Self {
                bootstrap: found.bootstrap.clone().unwrap_or_default(),
                is_kafka: true,
                has_tls: tls.next().is_some(),
            };
        }
        Self {
            bootstrap: status
                .and_then(|status| status.bootstrap.clone())
                .unwrap_or_default(),
            is_kafka: false,
            has_tls: listeners.grpc.tls.is_some(),
        }
    }
}

/// Returns the mechanism for clients: the strongest of the user's that the cluster allows. A
/// cluster that allows none of them may be about to be changed.
pub(super) fn client_mechanism(
    cluster: &StreamHouseCluster,
    mechanisms: impl DoubleEndedIterator<Item = &'static str> + Clone,
) -> &'static str {
    let allowed: Vec<&str> = cluster
        .spec
        .authentication
        .iter()
        .flat_map(|authentication| &authentication.mechanisms)
        .copied()
        .map(AuthenticationMechanism::as_str)
        .collect();
    let strongest_first = mechanisms.rev();
    let mut usable = strongest_first
        .clone()
        .filter(|mechanism| allowed.contains(mechanism));
    usable
        .next()
        .or_else(|| strongest_first.clone().next())
        .unwrap_or("SCRAM-SHA-512")
}

/// Returns the content of the Secret by key.
pub(super) fn client_files(access: &ClientAccess) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("username", access.user_name.clone()),
        ("password", access.password.clone()),
        ("bootstrap", access.address.bootstrap.clone()),
        ("client.properties", java_properties(access)),
        ("librdkafka.conf", librdkafka_configuration(access)),
        ("streamhouse.env", environment_file(access)),
    ])
}

fn protocol(access: &ClientAccess) -> &'static str {
    match access.address.has_tls {
        true => "SASL_SSL",
        false => "SASL_PLAINTEXT",
    }
}

fn kafka_address(access: &ClientAccess) -> Option<&str> {
    let address = &access.address;
    (address.is_kafka && !address.bootstrap.is_empty()).then_some(address.bootstrap.as_str())
}

fn java_properties(access: &ClientAccess) -> String {
    let jaas = format!(
        "org.apache.kafka.common.security.scram.ScramLoginModule required username={} password={};",
        quote_jaas(&access.user_name),
        quote_jaas(&access.password)
    );
    let bootstrap = kafka_address(access).map(|address| ("bootstrap.servers", address));
    let properties = [
        ("security.protocol", protocol(access)),
        ("sasl.mechanism", access.mechanism),
        ("sasl.jaas.config", jaas.as_str()),
    ];
    let lines = bootstrap.into_iter().chain(properties);
    lines
        .map(|(name, value)| format!("{name}={}\n", escape_property(value)))
        .collect()
}

fn librdkafka_configuration(access: &ClientAccess) -> String {
    let bootstrap = kafka_address(access).map(|address| ("bootstrap.servers", address));
    let properties = [
        ("security.protocol", protocol(access)),
        ("sasl.mechanisms", access.mechanism),
        ("sasl.username", access.user_name.as_str()),
        ("sasl.password", access.password.as_str()),
    ];
    let lines = bootstrap.into_iter().chain(properties);
    lines.map(|(name, value)| format!("{name}={value}\n")).collect()
}

fn environment_file(access: &ClientAccess) -> String {
    format!(
        "STREAMHOUSE_USER={}\nSTREAMHOUSE_PASSWORD={}\n",
        quote_shell(&access.user_name),
        quote_shell(&access.password)
    )
}

/// Quotes a value of a JAAS configuration.
fn quote_jaas(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Escapes a value of a properties file, which Java reads as ISO 8859-1.
fn escape_property(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => escaped.push_str("\\\\"),
            ' ' if escaped.is_empty() => escaped.push_str("\\ "),
            ' '..='~' => escaped.push(letter),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    escaped
}

/// Quotes a word of a shell if it needs quotes, which other readers of such files do not remove.
fn quote_shell(text: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.@:/+=,".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests;
