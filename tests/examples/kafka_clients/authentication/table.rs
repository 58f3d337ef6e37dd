//! The rows and columns of the table, and what is expected in each cell.

use std::fmt::Write as _;

/// A client of another project, or of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TestedClient {
    KafkaTools,
    Kcat,
    ConfluentKafka,
    FranzGo,
    KafkaPython,
    CommandLine,
    RustClient,
}

/// How users authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    ScramSha256,
    ScramSha512,
    /// The header of gRPC calls, which has user and password as PLAIN has.
    Basic,
}

/// A listener of an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listener {
    SaslPlaintext,
    SaslSsl,
    Grpc,
    GrpcTls,
}

/// What happened to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthenticationCell {
    Accepted,
    Refused,
    NotTried,
}

/// A client with one mechanism on one listener.
#[derive(Debug)]
pub(super) struct AuthenticationRow {
    pub(super) client: TestedClient,
    pub(super) mechanism: Mechanism,
    pub(super) listener: Listener,
    /// In the order of [`COLUMNS`].
    pub(super) cells: [AuthenticationCell; 4],
}

const COLUMNS: [&str; 4] = ["right", "wrong", "unknown", "changed"];

/// What is not in the table, or not as elsewhere.
const REASONS: &[(&str, &str)] = &[
    (
        "kcat with SCRAM",
        "librdkafka before 2.6.1 sends a wrong nonce (confluentinc/librdkafka#4895): refused, as Kafka does",
    ),
    ("Kafka clients on gRPC", "they speak the Kafka protocol only"),
    ("streamhouse, Rust client on SASL_*", "they speak gRPC only"),
    (
        "SCRAM on gRPC",
        "not offered: calls carry user and password in a header, verified as PLAIN",
    ),
];

impl TestedClient {
    pub(super) const ALL: [TestedClient; 7] = [
        TestedClient::KafkaTools,
        TestedClient::Kcat,
        TestedClient::ConfluentKafka,
        TestedClient::FranzGo,
        TestedClient::KafkaPython,
        TestedClient::CommandLine,
        TestedClient::RustClient,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            TestedClient::KafkaTools => "kafka-console-consumer",
            TestedClient::Kcat => "kcat",
            TestedClient::ConfluentKafka => "confluent-kafka",
            TestedClient::FranzGo => "franz-go",
            TestedClient::KafkaPython => "kafka-python",
            TestedClient::CommandLine => "streamhouse",
            TestedClient::RustClient => "Rust client",
        }
    }

    pub(super) fn listeners(self) -> &'static [Listener] {
        match self {
            TestedClient::CommandLine | TestedClient::RustClient => &[Listener::Grpc, Listener::GrpcTls],
            _ => &[Listener::SaslPlaintext, Listener::SaslSsl],
        }
    }
}

impl Mechanism {
    pub(super) fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::Basic => "Basic",
        }
    }

    /// Returns what agents count authentications by.
    pub(super) fn metric_label(self) -> &'static str {
        match self {
            Mechanism::Basic => Mechanism::Plain.name(),
            other => other.name(),
        }
    }
}

impl Listener {
    pub(super) fn name(self) -> &'static str {
        match self {
            Listener::SaslPlaintext => "SASL_PLAINTEXT",
            Listener::SaslSsl => "SASL_SSL",
            Listener::Grpc => "gRPC",
            Listener::GrpcTls => "gRPC with TLS",
        }
    }

    pub(super) fn is_kafka(self) -> bool {
        matches!(self, Listener::SaslPlaintext | Listener::SaslSsl)
    }

    pub(super) fn has_tls(self) -> bool {
        matches!(self, Listener::SaslSsl | Listener::GrpcTls)
    }

    pub(super) fn mechanisms(self) -> &'static [Mechanism] {
        if self.is_kafka() {
            &[Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512]
        } else {
            &[Mechanism::Basic]
        }
    }
}

impl AuthenticationCell {
    fn text(self) -> &'static str {
        match self {
            AuthenticationCell::Accepted => "accepted",
            AuthenticationCell::Refused => "refused",
            AuthenticationCell::NotTried => "-",
        }
    }
}

impl AuthenticationRow {
    fn expected(&self) -> [AuthenticationCell; 4] {
        use AuthenticationCell::{Accepted, NotTried, Refused};
        if self.client == TestedClient::Kcat && self.mechanism != Mechanism::Plain {
            return [Refused, Refused, Refused, NotTried];
        }
        [Accepted, Refused, Refused, Refused]
    }

    /// Returns what is not as expected.
    pub(super) fn difference(&self) -> Option<String> {
        let expected = self.expected();
        (self.cells != expected).then(|| {
            let (client, mechanism) = (self.client.name(), self.mechanism.name());
            let listener = self.listener.name();
            format!(
                "{client} with {mechanism} on {listener}: {:?} instead of {expected:?}",
                self.cells
            )
        })
    }
}

/// Returns the table and the reasons for what is not in it.
pub(super) fn to_text(rows: &[AuthenticationRow]) -> String {
    let line = |words: [&str; 7]| {
        let [client, mechanism, listener, right, wrong, unknown, changed] = words;
        format!("{client:<24}{mechanism:<15}{listener:<16}{right:<10}{wrong:<10}{unknown:<10}{changed}\n")
    };
    let [right, wrong, unknown, changed] = COLUMNS;
    let mut text = line(["client", "mechanism", "listener", right, wrong, unknown, changed]);
    for row in rows {
        let [right, wrong, unknown, changed] = row.cells.map(AuthenticationCell::text);
        let (client, mechanism, listener) = (row.client.name(), row.mechanism.name(), row.listener.name());
        text.push_str(&line([
            client, mechanism, listener, right, wrong, unknown, changed,
        ]));
    }
    for (what, reason) in REASONS {
        // A string can always be written to.
        let _ = writeln!(text, "{what}: {reason}");
    }
    text
}
