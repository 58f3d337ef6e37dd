//! The mechanisms, and what they compute.

use std::{fmt, num::NonZeroU32, str::FromStr};

use ring::{digest, hmac, pbkdf2};

use super::error::ScramError;

/// A SCRAM mechanism of Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScramMechanism {
    /// With SHA-256, RFC 7677.
    Sha256,
    /// With SHA-512.
    Sha512,
}

impl ScramMechanism {
    /// All mechanisms, by their code.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Returns the name in SASL.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// Returns the number in Kafka's protocol.
    pub const fn code(self) -> i8 {
        match self {
            Self::Sha256 => 1,
            Self::Sha512 => 2,
        }
    }

    /// Returns the mechanism with a number in Kafka's protocol.
    pub fn from_code(code: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.code() == code)
    }

    /// Returns the length of keys, proofs and signatures in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Sha256 => digest::SHA256_OUTPUT_LEN,
            Self::Sha512 => digest::SHA512_OUTPUT_LEN,
        }
    }

    fn mac(self) -> hmac::Algorithm {
        match self {
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        }
    }

    /// Returns the password with salt: `Hi` of RFC 5802.
    pub(super) fn salted_password(self, password: &str, salt: &[u8], iterations: NonZeroU32) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Self::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        };
        let mut salted = vec![0; self.key_len()];
        pbkdf2::derive(algorithm, iterations, salt, password.as_bytes(), &mut salted);
        salted
    }

    /// Returns the key that a client proves to know.
    pub(super) fn client_key(self, salted_password: &[u8]) -> Vec<u8> {
        self.sign(salted_password, b"Client Key")
    }

    /// Returns the key that a server proves to know.
    pub(super) fn server_key(self, salted_password: &[u8]) -> Vec<u8> {
        self.sign(salted_password, b"Server Key")
    }

    /// Returns what servers keep of the client's key.
    pub(super) fn stored_key(self, client_key: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, client_key).as_ref().to_vec()
    }

    /// Returns the signature of a message.
    pub(super) fn sign(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(self.mac(), key), message)
            .as_ref()
            .to_vec()
    }

    /// Returns whether a signature of a message is right, in the same time wherever they differ.
    pub(super) fn is_signature(self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&hmac::Key::new(self.mac(), key), message, signature).is_ok()
    }

    /// Returns whether two keys are equal, in the same time wherever they differ: signatures of the
    /// keys are compared, under any key.
    pub(super) fn are_equal(self, one: &[u8], other: &[u8]) -> bool {
        self.is_signature(one, one, &self.sign(one, other))
    }
}

impl fmt::Display for ScramMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ScramMechanism {
    type Err = ScramError;

    /// Reads the name in SASL, in upper case.
    fn from_str(name: &str) -> Result<Self, ScramError> {
        let found = Self::ALL.into_iter().find(|mechanism| mechanism.name() == name);
        found.ok_or_else(|| ScramError::UnknownMechanism(name.to_owned()))
    }
}

/// Returns two texts of bytes combined bit by bit; the longer one is cut.
pub(super) fn xor(one: &[u8], other: &[u8]) -> Vec<u8> {
    one.iter().zip(other).map(|(one, other)| one ^ other).collect()
}
