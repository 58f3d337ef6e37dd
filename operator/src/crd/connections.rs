//! The parts `postgresql`, `objectStorage` and `listeners` of a cluster's spec: the services that
//! agents use and the ports they listen on.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// PostgreSQL database that holds the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlSpec {
    /// Secret with the connection string `postgres://user:password@host:port/database`. The key
    /// defaults to `uri`.
    pub connection_secret: SecretKeyRef,
    /// TLS for connections to PostgreSQL. By default the connection string determines it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PostgresqlTls>,
}

/// Reference to a key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// TLS for connections to PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlTls {
    /// Verification of the server's certificate. `require` encrypts without verification,
    /// `verify-ca` verifies the certificate chain, `verify-full` (the default) also verifies the
    /// host name.
    #[serde(default)]
    pub mode: PostgresqlTlsMode,
    /// Secret with the CA certificates to trust (PEM). The key defaults to `ca.crt`. By default the
    /// CA certificates of the agent's image are trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKeyRef>,
}

/// Verification of a server's certificate, in PostgreSQL's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum PostgresqlTlsMode {
    Require,
    VerifyCa,
    #[default]
    VerifyFull,
}

impl PostgresqlTlsMode {
    /// Returns PostgreSQL's value of `sslmode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// Bucket that holds the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket").message("bucket cannot change: it holds the records; create a new cluster instead"),
    validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)").message("prefix cannot change: it holds the records; create a new cluster instead")
)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStorageSpec {
    /// Name of an existing bucket. Immutable.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Prefix of all objects in the bucket. Immutable. By default objects are stored at the root of
    /// the bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._/-]*$"))]
    pub prefix: Option<String>,
    /// Endpoint of an S3-compatible object store, with `http://` or `https://`. Defaults to AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#]+/?$"))]
    pub endpoint: Option<String>,
    /// Region of the bucket. Defaults to `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z0-9-]+$"))]
    pub region: Option<String>,
    /// Uses path-style requests (the bucket in the path instead of the host name), as required by
    /// MinIO. Defaults to false.
    #[serde(default)]
    pub path_style: bool,
    /// Secret with the CA certificates to trust for the endpoint (PEM). The key defaults to
    /// `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKeyRef>,
    /// Secret with the access key. By default the workload identity of the agents' service account
    /// is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<CredentialsSecret>,
}

/// Reference to a Secret with an access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key of the access key id in the Secret.
    #[serde(default = "access_key_id")]
    #[schemars(length(min = 1, max = 253))]
    pub access_key_id_key: String,
    /// Key of the secret access key in the Secret.
    #[serde(default = "secret_access_key")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_access_key_key: String,
}

fn access_key_id() -> String {
    "accessKeyId".to_owned()
}

fn secret_access_key() -> String {
    "secretAccessKey".to_owned()
}

/// Ports and TLS of the agents.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.kafka) || !has(self.kafka.enabled) || !self.kafka.enabled").message("agents of this version do not serve the Kafka protocol yet: remove listeners.kafka.enabled"),
    validation = Rule::new("!has(self.grpc) || !has(self.http) || !has(self.grpc.port) || !has(self.http.port) || self.grpc.port != self.http.port").message("grpc and http must have different ports")
)]
pub struct ListenersSpec {
    /// Listener for StreamHouse clients. The port defaults to 50051.
    #[serde(default)]
    pub grpc: ListenerSpec,
    /// Listener for `/health`, `/ready` and `/metrics`. The port defaults to 8080.
    #[serde(default)]
    pub http: ListenerSpec,
    /// Listener for Kafka clients. Reserved for a later version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaListenerSpec>,
}

/// Port and TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListenerSpec {
    /// Port number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,
    /// TLS certificate of the listener. By default it does not use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Listener for Kafka clients. Reserved for a later version.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct KafkaListenerSpec {
    /// Whether Kafka clients are served. Must be false in this version.
    #[serde(default)]
    pub enabled: bool,
    /// Port number. Defaults to 9092.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,
    /// TLS certificate of the listener. By default it does not use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Source of a listener's TLS certificate: an existing Secret or a cert-manager issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.secretName) != has(self.issuerRef)").message("set exactly one of secretName and issuerRef")
)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Name of a Secret of type `kubernetes.io/tls` with the keys `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// cert-manager issuer that signs a certificate for the DNS names of the cluster's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// Reference to a cert-manager issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IssuerRef {
    /// Name of the issuer.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Kind of the issuer: `Issuer` or `ClusterIssuer`.
    #[serde(default)]
    pub kind: IssuerKind,
}

/// Kind of a cert-manager issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum IssuerKind {
    #[default]
    Issuer,
    ClusterIssuer,
}

impl IssuerKind {
    /// Returns cert-manager's name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "Issuer",
            Self::ClusterIssuer => "ClusterIssuer",
        }
    }
}
