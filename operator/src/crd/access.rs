//! The parts `authentication` and `authorization` of a cluster's spec: who its clients are, and
//! what they may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::SecretKeyRef;

/// How clients authenticate, on all listeners.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthenticationSpec {
    /// SASL mechanisms of the agents. `PLAIN` and `OAUTHBEARER` send passwords and tokens as they
    /// are and require TLS. `OAUTHBEARER` requires `oauth`.
    #[schemars(length(min = 1, max = 4))]
    pub mechanisms: Vec<AuthenticationMechanism>,
    /// Identity provider whose tokens `OAUTHBEARER` accepts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<OAuthSpec>,
}

/// Identity provider whose tokens agents accept: JSON Web Tokens that are signed by its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OAuthSpec {
    /// Issuer of the tokens, their claim `iss`.
    #[schemars(length(min = 1, max = 1024))]
    pub issuer: String,
    /// Audience for which the tokens are issued, one of their claim `aud`.
    #[schemars(length(min = 1, max = 1024))]
    pub audience: String,
    /// URL of the JSON Web Key Set. Every agent must reach it.
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^https://[^@\s]+$"))]
    pub jwks_url: String,
    /// Claim with the name of the principal: `User:NAME`. Defaults to `sub`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub principal_claim: Option<String>,
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
    #[serde(rename = "OAUTHBEARER")]
    OAuthBearer,
}

impl AuthenticationMechanism {
    /// Returns the registered name of the mechanism.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::Plain => "PLAIN",
            Self::OAuthBearer => "OAUTHBEARER",
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
