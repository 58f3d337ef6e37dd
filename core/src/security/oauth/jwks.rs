//! The keys of an identity provider: a JSON Web Key Set (RFC 7517).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::algorithm::{PublicKey, SignatureAlgorithm};

/// The largest key set that is read, in bytes.
pub const MAX_JWKS_BYTES: usize = 1 << 20;
/// The maximum number of keys of a set.
pub const MAX_JWKS_KEYS: usize = 100;
/// Sizes of an RSA modulus in bytes: 2048 to 8192 bits.
const RSA_MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// The largest RSA exponent in bytes.
const MAX_RSA_EXPONENT_BYTES: usize = 4;
/// The first byte of an uncompressed point.
const UNCOMPRESSED_POINT: u8 = 4;

/// The public keys by which tokens are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwkSet {
    keys: Vec<VerificationKey>,
}

/// One key with what it may be used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VerificationKey {
    id: Option<String>,
    /// The only algorithm that it may be used with, if it names one.
    algorithm: Option<SignatureAlgorithm>,
    key: PublicKey,
}

/// Why a key set cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JwkSetError {
    /// It is too large.
    #[error("the key set is larger than {MAX_JWKS_BYTES} bytes")]
    TooLarge,
    /// It is not a JSON Web Key Set.
    #[error("it is no JSON Web Key Set, an object with a list `keys` (line {line}, column {column})")]
    Malformed {
        /// Where it ends to be one.
        line: usize,
        /// Where it ends to be one.
        column: usize,
    },
    /// It has too many keys.
    #[error("the key set has more than {MAX_JWKS_KEYS} keys")]
    TooManyKeys,
    /// No key is a public key for signatures.
    #[error("the key set has no RSA, P-256, P-384 or Ed25519 key for signatures")]
    NoKeys,
}

/// A set as written.
#[derive(Deserialize)]
struct WrittenSet {
    keys: Vec<Value>,
}

/// A key as written.
#[derive(Deserialize)]
struct WrittenKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl JwkSet {
    /// Reads a key set. Keys of other kinds, for encryption or for algorithms that are not accepted
    /// are left out.
    ///
    /// # Errors
    ///
    /// Fails if it is malformed, too large, or without a key that can be used.
    pub fn read(bytes: &[u8]) -> Result<Self, JwkSetError> {
        if bytes.len() > MAX_JWKS_BYTES {
            return Err(JwkSetError::TooLarge);
        }
        let written: WrittenSet =
            serde_json::from_slice(bytes).map_err(|problem| JwkSetError::Malformed {
                line: problem.line(),
                column: problem.column(),
            })?;
        if written.keys.len() > MAX_JWKS_KEYS {
            return Err(JwkSetError::TooManyKeys);
        }
        let keys: Vec<VerificationKey> = written
            .keys
            .into_iter()
            .filter_map(|key| VerificationKey::read(serde_json::from_value(key).ok()?))
            .collect();
        match keys.is_empty() {
            true => Err(JwkSetError::NoKeys),
            false => Ok(Self { keys }),
        }
    }

    /// Returns the number of keys that can be used.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// Returns the keys that a token with this key id and algorithm may be signed by.
    pub(super) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: SignatureAlgorithm,
    ) -> impl Iterator<Item = &PublicKey> {
        self.keys
            .iter()
            .filter(move |key| id.is_none() || key.id.as_deref() == id)
            .filter(move |key| key.algorithm.is_none_or(|own| own == algorithm))
            .map(|key| &key.key)
            .filter(move |key| key.fits(algorithm))
    }
}

impl VerificationKey {
    /// Returns a key that verifies signatures; `None` for others.
    fn read(written: WrittenKey) -> Option<Self> {
        let is_for_signatures = written.usage.as_deref().is_none_or(|usage| usage == "sig")
            && written
                .key_ops
                .as_ref()
                .is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !is_for_signatures {
            return None;
        }
        let algorithm = match &written.alg {
            Some(name) => Some(SignatureAlgorithm::from_name(name)?),
            None => None,
        };
        let key = written.public_key()?;
        let is_consistent = algorithm.is_none_or(|algorithm| key.fits(algorithm));
        is_consistent.then_some(Self {
            id: written.kid,
            algorithm,
            key,
        })
    }
}

impl WrittenKey {
    fn public_key(&self) -> Option<PublicKey> {
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let modulus = without_leading_zeros(decode(self.n.as_deref()?)?);
                let exponent = without_leading_zeros(decode(self.e.as_deref()?)?);
                let is_usable = RSA_MODULUS_BYTES.contains(&modulus.len())
                    && (1..=MAX_RSA_EXPONENT_BYTES).contains(&exponent.len());
                is_usable.then_some(PublicKey::Rsa { modulus, exponent })
            }
            ("EC", Some("P-256")) => self.point(32).map(PublicKey::P256),
            ("EC", Some("P-384")) => self.point(48).map(PublicKey::P384),
            ("OKP", Some("Ed25519")) => {
                let key = decode(self.x.as_deref()?)?;
                (key.len() == 32).then_some(PublicKey::Ed25519(key))
            }
            _ => None,
        }
    }

    /// Returns the point of an elliptic curve whose coordinates have this number of bytes.
    fn point(&self, size: usize) -> Option<Vec<u8>> {
        let (x, y) = (decode(self.x.as_deref()?)?, decode(self.y.as_deref()?)?);
        let is_point = x.len() == size && y.len() == size;
        is_point.then(|| [&[UNCOMPRESSED_POINT], &x[..], &y[..]].concat())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

fn without_leading_zeros(mut bytes: Vec<u8>) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    bytes
}
