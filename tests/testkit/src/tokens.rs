//! An identity provider of tests: signs JSON Web Tokens, and says by which keys.

use anyhow::{Context, anyhow};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
        KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
        RSA_PSS_SHA512, RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

/// One key of an identity provider.
#[derive(Debug)]
pub struct TokenIssuer {
    key_id: String,
    key: SigningKey,
}

#[derive(Debug)]
enum SigningKey {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl TokenIssuer {
    /// Creates a key for EdDSA.
    pub fn new(key_id: &str) -> anyhow::Result<TokenIssuer> {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(unspecified)?;
        let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(rejected)?;
        Ok(Self::of(key_id, SigningKey::Ed25519(key)))
    }

    /// Creates a key for ES256.
    pub fn p256(key_id: &str) -> anyhow::Result<TokenIssuer> {
        let (random, curve) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(curve, &random).map_err(unspecified)?;
        let key = EcdsaKeyPair::from_pkcs8(curve, document.as_ref(), &random).map_err(rejected)?;
        Ok(Self::of(key_id, SigningKey::P256(key)))
    }

    /// Creates a key for ES384.
    pub fn p384(key_id: &str) -> anyhow::Result<TokenIssuer> {
        let (random, curve) = (SystemRandom::new(), &ECDSA_P384_SHA384_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(curve, &random).map_err(unspecified)?;
        let key = EcdsaKeyPair::from_pkcs8(curve, document.as_ref(), &random).map_err(rejected)?;
        Ok(Self::of(key_id, SigningKey::P384(key)))
    }

    /// Takes an RSA key in PKCS #8, for RS256 to PS512.
    pub fn rsa(key_id: &str, pkcs8: &[u8]) -> anyhow::Result<TokenIssuer> {
        let key = RsaKeyPair::from_pkcs8(pkcs8).map_err(rejected)?;
        Ok(Self::of(key_id, SigningKey::Rsa(Box::new(key))))
    }

    fn of(key_id: &str, key: SigningKey) -> TokenIssuer {
        let key_id = key_id.to_owned();
        TokenIssuer { key_id, key }
    }

    /// Returns the public key as a JSON Web Key.
    pub fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = |curve: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": text(x), "y": text(y) })
        };
        let mut key = match &self.key {
            SigningKey::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref()) })
            }
            SigningKey::P256(key) => point("P-256", key.public_key().as_ref()),
            SigningKey::P384(key) => point("P-384", key.public_key().as_ref()),
            SigningKey::Rsa(key) => {
                let public: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
                json!({ "kty": "RSA", "n": text(&public.n), "e": text(&public.e) })
            }
        };
        key["kid"] = json!(self.key_id);
        key
    }

    /// Returns the key set with this key alone.
    pub fn key_set(&self) -> String {
        json!({ "keys": [self.jwk()] }).to_string()
    }

    /// Returns a token with these claims, by the first algorithm that the key is for.
    pub fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let algorithm = match &self.key {
            SigningKey::Ed25519(_) => "EdDSA",
            SigningKey::P256(_) => "ES256",
            SigningKey::P384(_) => "ES384",
            SigningKey::Rsa(_) => "RS256",
        };
        self.sign_with(&json!({ "alg": algorithm, "kid": self.key_id }), claims)
    }

    /// Returns a token with this header and these claims. The signature is by the algorithm of the
    /// header if the key is for it.
    pub fn sign_with(&self, header: &Value, claims: &Value) -> anyhow::Result<String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let random = SystemRandom::new();
        let signature = match &self.key {
            SigningKey::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            SigningKey::P256(key) | SigningKey::P384(key) => {
                let signature = key.sign(&random, signed.as_bytes()).map_err(unspecified)?;
                signature.as_ref().to_vec()
            }
            SigningKey::Rsa(key) => {
                let padding: &dyn ring::signature::RsaEncoding = match header["alg"].as_str() {
                    Some("RS384") => &RSA_PKCS1_SHA384,
                    Some("RS512") => &RSA_PKCS1_SHA512,
                    Some("PS256") => &RSA_PSS_SHA256,
                    Some("PS384") => &RSA_PSS_SHA384,
                    Some("PS512") => &RSA_PSS_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, signed.as_bytes(), &mut signature)
                    .map_err(unspecified)
                    .context("the RSA key does not sign")?;
                signature
            }
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn unspecified(_: ring::error::Unspecified) -> anyhow::Error {
    anyhow!("a key cannot be made or used")
}

fn rejected(problem: ring::error::KeyRejected) -> anyhow::Error {
    anyhow!("the key is refused: {problem}")
}
