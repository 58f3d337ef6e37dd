//! Verifies a token: a JSON Web Token in the compact form of JSON Web Signatures (RFC 7515).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::IgnoredAny};

use super::{
    algorithm::SignatureAlgorithm,
    claims::TokenClaims,
    jwks::JwkSet,
    rules::{MAX_TOKEN_BYTES, TokenError, TokenRules},
};
use crate::security::KafkaPrincipal;

/// Who has authenticated by a token, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedToken {
    /// Whom the token was issued for.
    pub principal: KafkaPrincipal,
    /// When the token expires, in milliseconds since the Unix epoch.
    pub expires_at_ms: i64,
}

/// The header of a token.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl TokenRules {
    /// Verifies a token at a time in milliseconds since the Unix epoch.
    ///
    /// # Errors
    ///
    /// Fails if it is not signed by one of the keys, or is not valid here and now.
    pub fn verify(&self, token: &str, keys: &JwkSet, now_ms: i64) -> Result<VerifiedToken, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(TokenError::Malformed)?;
        let header: TokenHeader =
            serde_json::from_slice(&decode(header)?).map_err(|_| TokenError::Malformed)?;
        let (payload, signature) = (decode(payload)?, decode(signature)?);
        let algorithm = SignatureAlgorithm::from_name(&header.alg).ok_or(TokenError::Algorithm)?;
        if header.crit.is_some() {
            return Err(TokenError::CriticalExtension);
        }
        let mut candidates = keys.candidates(header.kid.as_deref(), algorithm);
        let key = candidates.next().ok_or(TokenError::UnknownKey)?;
        if candidates.next().is_some() {
            return Err(TokenError::AmbiguousKey);
        }
        if !key.verifies(algorithm, signed.as_bytes(), &signature) {
            return Err(TokenError::Signature);
        }
        let claims = TokenClaims::read(&payload)?;
        let expires_at_ms = claims.check(self, now_ms)?;
        Ok(VerifiedToken {
            principal: claims.principal(self.principal_claim())?,
            expires_at_ms,
        })
    }
}

fn decode(text: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed)
}
