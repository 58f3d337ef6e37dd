//! What is demanded of a token, and why one is refused.

use std::time::Duration;

use thiserror::Error;

/// The longest token that is read, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 << 10;

/// What tokens of this cluster are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRules {
    issuer: String,
    audience: String,
    principal_claim: String,
    clock_skew: Duration,
}

/// Why a token is refused. No error contains a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is too long.
    #[error("the token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// It is not a signed JSON Web Token, or a claim is of another type than it must be.
    #[error("the token is no signed JSON Web Token")]
    Malformed,
    /// It is signed by an algorithm that is not accepted, or not at all.
    #[error(
        "the token's algorithm is none of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"
    )]
    Algorithm,
    /// It has extensions that must be understood, and none is.
    #[error("the token has critical extensions")]
    CriticalExtension,
    /// No key has its key id and is for its algorithm.
    #[error("no key of the identity provider has the token's key id and is for its algorithm")]
    UnknownKey,
    /// It names no key, and several are for its algorithm, or several have its key id.
    #[error("the token's key id does not select one key")]
    AmbiguousKey,
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// It was issued by somebody else.
    #[error("the token has another issuer")]
    Issuer,
    /// It was issued for something else.
    #[error("the token is for another audience")]
    Audience,
    /// It never expires.
    #[error("the token has no expiration time")]
    NoExpiry,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not begun.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// The claim of the principal is missing, or is no name of a user.
    #[error("the token does not name a principal")]
    Principal,
}

impl TokenRules {
    /// The claim with the name of the principal, unless another one is chosen.
    pub const DEFAULT_PRINCIPAL_CLAIM: &'static str = "sub";
    /// How far the clocks of issuer and cluster may be apart, unless another time is chosen.
    pub const DEFAULT_CLOCK_SKEW: Duration = Duration::from_secs(30);
    /// How far they may be apart at most.
    pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(300);

    /// Creates the rules for tokens of an issuer for an audience.
    pub fn new(issuer: &str, audience: &str) -> Self {
        Self {
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
            principal_claim: Self::DEFAULT_PRINCIPAL_CLAIM.to_owned(),
            clock_skew: Self::DEFAULT_CLOCK_SKEW,
        }
    }

    /// Takes the principal's name from another claim.
    #[must_use]
    pub fn with_principal_claim(mut self, claim: &str) -> Self {
        claim.clone_into(&mut self.principal_claim);
        self
    }

    /// Allows another difference of clocks, [`MAX_CLOCK_SKEW`](Self::MAX_CLOCK_SKEW) at most.
    #[must_use]
    pub fn with_clock_skew(mut self, clock_skew: Duration) -> Self {
        self.clock_skew = clock_skew.min(Self::MAX_CLOCK_SKEW);
        self
    }

    /// Returns by whom tokens must be issued.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Returns for what tokens must be issued.
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// Returns the claim with the principal's name.
    pub fn principal_claim(&self) -> &str {
        &self.principal_claim
    }

    /// Returns how far clocks may be apart, in milliseconds.
    pub fn clock_skew_ms(&self) -> i64 {
        i64::try_from(self.clock_skew.as_millis()).unwrap_or(i64::MAX)
    }
}
