//! The content of the Secret for clients: user name, password, address, and files with which
//! clients of Java, of librdkafka and of StreamHouse start as they are. Free of side effects.

use std::{collections::BTreeMap, fmt};

use crate::crd::{AuthenticationMechanism, ListenerProtocol, ListenerTls, StreamHouseCluster};

/// Key of the CA certificates of the listener at `bootstrap`, by which the other files name them.
pub(super) const AUTHORITIES_KEY: &str = "ca.crt";
/// Key of the CA certificates of the listener for StreamHouse clients.
pub(super) const STREAMHOUSE_AUTHORITIES_KEY: &str = "streamhouse-ca.crt";

/// How a client reaches the cluster and proves who it is.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ClientAccess {
    pub(super) user_name: String,
    pub(super) password: String,
    /// Name of the SASL mechanism.
    pub(super) mechanism: &'static str,
    pub(super) address: ClientAddress,
    /// CA certificates of the listener at the address in PEM; empty if clients have them already.
    pub(super) authorities: String,
    /// Those of the listener for StreamHouse clients.
    pub(super) streamhouse_authorities: String,
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
    /// Name of the Secret with the certificate of the listener.
    pub(super) certificate: Option<String>,
    /// Address for StreamHouse clients, with `https://` for TLS; empty if it is not known.
    pub(super) streamhouse: String,
    /// Name of the Secret with the certificate of the listener for StreamHouse clients.
    pub(super) streamhouse_certificate: Option<String>,
}

impl ClientAddress {
    /// Returns the address of the listener for Kafka clients in the Kubernetes cluster, or of the
    /// first other one for Kafka clients, or that of StreamHouse clients.
    pub(super) fn of(cluster: &StreamHouseCluster) -> Self {
        let status = cluster.status.as_ref();
        let name = cluster.metadata.name.as_deref().unwrap_or_default();
        let grpc = status.and_then(|status| status.bootstrap.clone());
        let grpc = grpc.unwrap_or_default();
        let grpc_tls = cluster.spec.listeners.grpc.tls.as_ref();
        let streamhouse = match grpc_tls {
            Some(_) if !grpc.is_empty() => format!("https://{grpc}"),
            _ => grpc.clone(),
        };
        let streamhouse_certificate = grpc_tls.map(|tls| tls.certificate_secret(name, "grpc"));
        let kafka = status
            .iter()
            .flat_map(|status| &status.listeners)
            .find(|listener| listener.protocol == ListenerProtocol::Kafka && listener.bootstrap.is_some());
        let Some(found) = kafka else {
            return Self {
                bootstrap: grpc,
                is_kafka: false,
                has_tls: grpc_tls.is_some(),
                certificate: streamhouse_certificate.clone(),
                streamhouse,
                streamhouse_certificate,
            };
        };
        let tls = kafka_tls(cluster, &found.name);
        Self {
            bootstrap: found.bootstrap.clone().unwrap_or_default(),
            is_kafka: true,
            has_tls: tls.is_some(),
            certificate: tls.map(|tls| tls.certificate_secret(name, &found.name)),
            streamhouse,
            streamhouse_certificate,
        }
    }
}

/// Returns the TLS certificate of a listener for Kafka clients.
fn kafka_tls<'a>(cluster: &'a StreamHouseCluster, name: &str) -> Option<&'a ListenerTls> {
    let listeners = &cluster.spec.listeners;
    let own = listeners.kafka.iter().filter(|_| name == "kafka");
    let own = own.filter_map(|kafka| kafka.tls.as_ref());
    let further = listeners.additional.iter().filter(|given| given.name == name);
    own.chain(further.filter_map(|given| given.tls.as_ref())).next()
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
        (AUTHORITIES_KEY, access.authorities.clone()),
        (
            STREAMHOUSE_AUTHORITIES_KEY,
            access.streamhouse_authorities.clone(),
        ),
    ])
}

fn protocol(access: &ClientAccess) -> &'static str {
    match access.address.has_tls {
        true => "SASL_SSL",
        false => "SASL_PLAINTEXT",
    }
}

fn names_authorities(access: &ClientAccess) -> bool {
    access.address.has_tls && !access.authorities.is_empty()
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
    let authorities = names_authorities(access).then_some([
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.certificates", access.authorities.as_str()),
    ]);
    let lines = bootstrap.into_iter().chain(properties);
    lines
        .chain(authorities.into_iter().flatten())
        .map(|(name, value)| format!("{name}={}\n", escape_property(value)))
        .collect()
}

/// By a file, because `kcat -F` refuses lines as long as a certificate in `ssl.ca.pem`.
fn librdkafka_configuration(access: &ClientAccess) -> String {
    let bootstrap = kafka_address(access).map(|address| ("bootstrap.servers", address));
    let properties = [
        ("security.protocol", protocol(access)),
        ("sasl.mechanisms", access.mechanism),
        ("sasl.username", access.user_name.as_str()),
        ("sasl.password", access.password.as_str()),
    ];
    let authorities = names_authorities(access).then_some(("ssl.ca.location", AUTHORITIES_KEY));
    let lines = bootstrap.into_iter().chain(properties).chain(authorities);
    lines.map(|(name, value)| format!("{name}={value}\n")).collect()
}

fn environment_file(access: &ClientAccess) -> String {
    let streamhouse = access.address.streamhouse.as_str();
    let authorities = match access.streamhouse_authorities.as_str() {
        "" => "",
        _ => STREAMHOUSE_AUTHORITIES_KEY,
    };
    let variables = [
        ("STREAMHOUSE_BOOTSTRAP", streamhouse),
        ("STREAMHOUSE_USER", access.user_name.as_str()),
        ("STREAMHOUSE_PASSWORD", access.password.as_str()),
        ("STREAMHOUSE_CLIENT_TLS_CA", authorities),
    ];
    let given = variables.iter().filter(|(_, value)| !value.is_empty());
    given
        .map(|(name, value)| format!("{name}={}\n", quote_shell(value)))
        .collect()
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
