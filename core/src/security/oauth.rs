//! SASL OAUTHBEARER (RFC 7628) with JSON Web Tokens (RFC 7519): what a client sends, the keys of
//! an identity provider, and whether a token is signed by one of them and meant for this cluster.
//!
//! Only signatures by a private key count: RSA, ECDSA and EdDSA. `none` and the algorithms with a
//! shared secret (HS256 and the like) are never accepted, so a public key cannot be used as a
//! secret. The algorithm must be one that the key is for.

mod algorithm;
mod claims;
mod jwks;
mod message;
mod rules;
mod token;

pub use jwks::{JwkSet, JwkSetError, MAX_JWKS_BYTES, MAX_JWKS_KEYS};
pub use message::{OAUTH_INVALID_TOKEN, OAuthBearerError, OAuthBearerMessage};
pub use rules::{MAX_TOKEN_BYTES, TokenError, TokenRules};
pub use token::VerifiedToken;

#[cfg(test)]
mod tests;
