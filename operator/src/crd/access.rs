//! The parts `authentication` and `authorization` of a cluster's spec: who its clients are, and
//! what they may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// How clients authenticate, on all listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthenticationSpec {
    /// SASL mechanisms of the agents. `PLAIN` sends passwords as they are and requires TLS.
    #[schemars(length(min = 1, max = 3))]
    pub mechanisms: Vec<AuthenticationMechanism>,
}

/// SASL mechanism of the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum AuthenticationMechanism {
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    #[serde(rename = "PLAIN")]
    Plain,
}

impl AuthenticationMechanism {
    /// Returns the registered name of the mechanism.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::Plain => "PLAIN",
        }
    }
}

/// What decides what authenticated clients may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSpec {
    /// `acl` allows what access control lists allow; `none` allows everything.
    #[serde(rename = "type")]
    pub type_: AuthorizationType,
    /// Principals that may do everything, such as `User:admin`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 255), regex(pattern = r"^[^;\x00-\x1f]+$"))
    )]
    pub super_users: Vec<String>,
    /// Secret with the principals instead, separated by semicolons. The key defaults to
    /// `superUsers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub super_users_secret: Option<SecretKeyRef>,
}

/// What decides what authenticated clients may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum AuthorizationType {
    None,
    Acl,
}

impl AuthorizationType {
    /// Returns the value of the agents' setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Acl => "acl",
        }
    }
}
