//! Verifiers of users that do not exist, so that an exchange does not show whether they do.

use std::{fmt, num::NonZeroU32};

use ring::hmac;

use super::{
    credential::{SALT_SEED_LEN, ScramCredential, ScramKeys, checked_iterations, salt_from_seed},
    crypto::ScramMechanism,
    error::ScramError,
};

/// Makes verifiers that no password has. Those of a user are always the same under one key.
pub struct ScramDecoys {
    key: hmac::Key,
    iterations: NonZeroU32,
}

impl ScramDecoys {
    /// Makes decoys from a secret key. They have the iterations that most verifiers of the cluster
    /// have.
    ///
    /// All agents of a cluster need the same key, and the same one after a restart: otherwise the
    /// salts of a user that does not exist differ between them, which shows that it does not.
    ///
    /// # Errors
    ///
    /// Fails if the iterations are out of bounds.
    pub fn new(key: &[u8], iterations: u32) -> Result<Self, ScramError> {
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA512, key),
            iterations: checked_iterations(iterations)?,
        })
    }

    /// Returns the verifier of a user that does not exist. To know a password of it is to invert
    /// the hash.
    pub fn credential(&self, mechanism: ScramMechanism, user: &str) -> ScramCredential {
        let keys = ScramKeys {
            stored: self.bytes("stored key", mechanism, user),
            server: self.bytes("server key", mechanism, user),
        };
        let mut seed = [0; SALT_SEED_LEN];
        seed.iter_mut()
            .zip(self.bytes("salt", mechanism, user))
            .for_each(|(seed, byte)| *seed = byte);
        ScramCredential::from_checked(mechanism, salt_from_seed(seed), self.iterations, keys)
    }

    fn bytes(&self, purpose: &str, mechanism: ScramMechanism, user: &str) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [purpose, mechanism.name(), user] {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let mut bytes = context.sign().as_ref().to_vec();
        bytes.truncate(mechanism.key_len());
        bytes
    }
}

impl fmt::Debug for ScramDecoys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramDecoys").finish_non_exhaustive()
    }
}
