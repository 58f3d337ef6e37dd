//! The claims of a token, as far as it is decided by them (RFC 7519, section 4).

use serde_json::{Map, Value};

use super::rules::{TokenError, TokenRules};
use crate::security::KafkaPrincipal;

/// The longest name of a principal in bytes, as for PLAIN.
const MAX_PRINCIPAL_BYTES: usize = 1024;

/// The claims of a token whose signature is right.
pub(super) struct TokenClaims(Map<String, Value>);

impl TokenClaims {
    /// Reads the payload of a token.
    pub(super) fn read(payload: &[u8]) -> Result<Self, TokenError> {
        let claims = serde_json::from_slice(payload);
        claims.map(Self).map_err(|_| TokenError::Malformed)
    }

    /// Checks for whom the token was issued, by whom, and for which time. Returns when it expires,
    /// in milliseconds since the Unix epoch.
    pub(super) fn check(&self, rules: &TokenRules, now_ms: i64) -> Result<i64, TokenError> {
        let skew_ms = rules.clock_skew_ms();
        let expires_at_ms = self.time("exp")?.ok_or(TokenError::NoExpiry)?;
        if now_ms >= expires_at_ms.saturating_add(skew_ms) {
            return Err(TokenError::Expired);
        }
        let begins_at_ms = self.time("nbf")?;
        if begins_at_ms.is_some_and(|begins_at_ms| now_ms < begins_at_ms.saturating_sub(skew_ms)) {
            return Err(TokenError::NotYetValid);
        }
        if self.text("iss") != Some(rules.issuer()) {
            return Err(TokenError::Issuer);
        }
        if !self.is_for(rules.audience()) {
            return Err(TokenError::Audience);
        }
        Ok(expires_at_ms)
    }

    /// Returns whom the token is for.
    pub(super) fn principal(&self, claim: &str) -> Result<KafkaPrincipal, TokenError> {
        let name = self
            .text(claim)
            .filter(|name| name.len() <= MAX_PRINCIPAL_BYTES)
            .ok_or(TokenError::Principal)?;
        let principal = KafkaPrincipal::user(name).map_err(|_| TokenError::Principal)?;
        match principal.is_reserved() {
            true => Err(TokenError::Principal),
            false => Ok(principal),
        }
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.0.get(claim)?.as_str()
    }

    /// Returns whether an audience is one of the token's, which are a text or a list of them.
    fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(only)) => only == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// Returns a time in milliseconds; a claim that is there must be a number of seconds.
    fn time(&self, claim: &str) -> Result<Option<i64>, TokenError> {
        let Some(value) = self.0.get(claim) else {
            return Ok(None);
        };
        let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
        // A cast of a number that is too large yields the largest one.
        let time_ms = seconds.map(|seconds| (seconds * 1000.0) as i64);
        time_ms.ok_or(TokenError::Malformed).map(Some)
    }
}
