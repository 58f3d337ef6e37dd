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
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(spec: serde_json::Value, status: serde_json::Value) -> StreamHouseCluster {
        let mut whole = json!({
            "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster", "metadata": { "name": "main" },
            "spec": { "postgresql": { "connectionSecret": { "name": "p" } }, "objectStorage": { "bucket": "records" } },
            "status": status,
        });
        for (name, value) in spec.as_object().unwrap() {
            whole["spec"][name] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn access(user_name: &str, password: &str) -> ClientAccess {
        ClientAccess {
            user_name: user_name.to_owned(),
            password: password.to_owned(),
            mechanism: "SCRAM-SHA-512",
            address: ClientAddress {
                bootstrap: "main-kafka.shop.svc:9092".to_owned(),
                is_kafka: true,
                has_tls: true,
            },
        }
    }

    #[test]
    fn clients_start_with_the_files_as_they_are() {
        let files = client_files(&access("alice", "s3cret"));
        assert_eq!(
            files["client.properties"],
            "bootstrap.servers=main-kafka.shop.svc:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n\
            sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"alice\" password=\"s3cret\";\n"
        );
        assert_eq!(
            files["librdkafka.conf"],
            "bootstrap.servers=main-kafka.shop.svc:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanisms=SCRAM-SHA-512\n\
            sasl.username=alice\nsasl.password=s3cret\n"
        );
        assert_eq!(
            files["streamhouse.env"],
            "STREAMHOUSE_USER=alice\nSTREAMHOUSE_PASSWORD=s3cret\n"
        );
        let keys: Vec<&str> = files.keys().copied().collect();
        let expected = [
            "bootstrap",
            "client.properties",
            "librdkafka.conf",
            "password",
            "streamhouse.env",
            "username",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn special_characters_are_escaped_as_each_reader_wants() {
        let files = client_files(&access("CN=o'neill", "a\"b\\c ü"));
        let java = &files["client.properties"];
        assert!(
            java.contains(r#"username="CN=o'neill" password="a\\"b\\\\c \u00fc";"#),
            "{java}"
        );
        let shell = &files["streamhouse.env"];
        assert!(shell.contains(r"STREAMHOUSE_USER='CN=o'\''neill'"), "{shell}");
        assert!(shell.contains("STREAMHOUSE_PASSWORD='a\"b\\c ü'"), "{shell}");
        assert!(!format!("{:?}", access("alice", "hush")).contains("hush"));
    }

    #[test]
    fn kafka_clients_are_given_the_address_of_a_kafka_listener() {
        let kafka =
            json!({ "name": "kafka", "type": "internal", "protocol": "kafka", "bootstrap": "k:9092" });
        let other = json!({ "name": "web", "type": "nodeport", "protocol": "kafka", "bootstrap": "n:30000" });
        let grpc = json!({ "name": "g", "type": "nodeport", "protocol": "grpc", "bootstrap": "g:30001" });
        let tls = json!({ "secretName": "certificate" });
        let own = cluster(
            json!({ "listeners": { "kafka": { "enabled": true, "tls": tls } } }),
            json!({ "bootstrap": "main:50051", "listeners": [kafka, other] }),
        );
        let address = ClientAddress::of(&own);
        assert_eq!(
            (address.bootstrap.as_str(), address.is_kafka, address.has_tls),
            ("k:9092", true, true)
        );
        let further = cluster(
            json!({ "listeners": { "additional": [{ "name": "web", "type": "nodeport", "protocol": "kafka", "port": 9100 }] } }),
            json!({ "bootstrap": "main:50051", "listeners": [grpc, other] }),
        );
        let address = ClientAddress::of(&further);
        assert_eq!(
            (address.bootstrap.as_str(), address.is_kafka, address.has_tls),
            ("n:30000", true, false)
        );
        let none = ClientAddress::of(&cluster(
            json!({}),
            json!({ "bootstrap": "main:50051", "listeners": [grpc] }),
        ));
        assert_eq!((none.bootstrap.as_str(), none.is_kafka), ("main:50051", false));
        let files = client_files(&ClientAccess {
            address: none,
            ..access("a", "b")
        });
        assert!(!files["client.properties"].contains("bootstrap.servers"));
    }

    #[test]
    fn the_mechanism_is_the_strongest_that_the_cluster_allows() {
        let of = |allowed: serde_json::Value, own: &[&'static str]| {
            let spec = match allowed.is_null() {
                true => json!({}),
                false => json!({ "authentication": { "mechanisms": allowed } }),
            };
            client_mechanism(&cluster(spec, json!({})), own.iter().copied())
        };
        let both = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
        assert_eq!(of(json!(["SCRAM-SHA-256"]), &both), "SCRAM-SHA-256");
        assert_eq!(
            of(json!(["SCRAM-SHA-256", "SCRAM-SHA-512"]), &both),
            "SCRAM-SHA-512"
        );
        assert_eq!(of(json!(null), &both), "SCRAM-SHA-512");
        assert_eq!(of(json!(["PLAIN"]), &both[..1]), "SCRAM-SHA-256");
    }
}
