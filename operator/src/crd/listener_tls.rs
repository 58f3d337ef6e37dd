//! Source of a listener's TLS certificate.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Source of a listener's TLS certificate: an existing Secret or a cert-manager issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.secretName) != has(self.issuerRef)").message("set exactly one of secretName and issuerRef"),
    validation = Rule::new("has(self.issuerRef) || !(has(self.dnsNames) || has(self.ipAddresses))").message("dnsNames and ipAddresses apply to certificates of an issuerRef only")
)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Name of a Secret of type `kubernetes.io/tls` with the keys `tls.crt` and `tls.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// cert-manager issuer that signs a certificate for the names of the listener: those of its
    /// Service, and the host names by which clients reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// Further DNS names of the certificate. A wildcard such as `*.example.com` replaces the names
    /// that it covers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
        )
    )]
    pub dns_names: Vec<String>,
    /// Further IP addresses of the certificate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 2, max = 45), regex(pattern = r"^[0-9a-fA-F.:]+$"))
    )]
    pub ip_addresses: Vec<String>,
}

impl ListenerTls {
    /// Returns the name of the Secret with the certificate of this listener of the cluster: the
    /// given one, or that of the certificate that the issuer signs.
    pub(crate) fn certificate_secret(&self, cluster: &str, listener: &str) -> String {
        let issued = || format!("{cluster}-{listener}-tls");
        self.secret_name.clone().unwrap_or_else(issued)
    }
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
