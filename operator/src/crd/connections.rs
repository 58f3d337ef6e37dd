//! The parts `postgresql` and `objectStorage` of a cluster's spec: the services that agents use.

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
