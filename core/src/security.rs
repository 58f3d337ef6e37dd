//! Authentication, access control and quotas as rules without input or output: what a credential
//! proves, what a principal may do, and how long a client is throttled. Only [`read_password`]
//! reads.
//!
//! Listeners call it with what a client sent, the metadata store keeps its types, and the agent's
//! snapshot holds an [`AclAuthorizer`] and [`ClientQuotas`]. Nothing here reads a clock or a source
//! of randomness that was not given.

mod acl;
mod authorizer;
mod oauth;
mod password;
mod plain;
mod principal;
mod quota;
mod scram;

pub use acl::{
    AclBinding, AclError, AclFilter, AclHost, AclOperation, AclPatternFilter, AclPatternType, AclPermission,
    AclResourceType, CLUSTER_RESOURCE_NAME, WILDCARD_RESOURCE_NAME,
};
pub use authorizer::{AclAuthorizer, AclDecision};
pub use oauth::{
    JwkSet, JwkSetError, MAX_JWKS_BYTES, MAX_JWKS_KEYS, MAX_TOKEN_BYTES, OAUTH_INVALID_TOKEN,
    OAuthBearerError, OAuthBearerMessage, TokenError, TokenRules, VerifiedToken,
};
pub use password::{MAX_PASSWORD_BYTES, read_password};
pub use plain::{PlainError, PlainMessage};
pub use principal::{KafkaPrincipal, PrincipalError};
pub use quota::{
    ClientQuotas, QuotaEntity, QuotaEntityType, QuotaError, QuotaFilter, QuotaKey, QuotaLimit, QuotaMatch,
    QuotaName, QuotaScope, TokenBucket, TokenRate,
};
pub use scram::{
    MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, ScramAuthenticated, ScramChallenge, ScramClient,
    ScramClientProof, ScramCredential, ScramDecoys, ScramError, ScramKeys, ScramMechanism, ScramServer,
};
