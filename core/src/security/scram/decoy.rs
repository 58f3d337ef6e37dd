//! Verifiers of users that do not exist, so that an exchange does not show whether they do.

use std::{fmt, num::NonZeroU32};

use ring::hmac;

use super::{
    credential::{MIN_SCRAM_ITERATIONS, SALT_SEED_LEN, ScramCredential, ScramKeys, salt_from_seed},
    crypto::ScramMechanism,
};

/// Makes verifiers that no password has. Those of a user are always the same under one key.
pub struct ScramDecoys {
    key: hmac::Key,
}

/// The iterations that most verifiers have, because Kafka's tools and this workspace make them so.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(MIN_SCRAM_ITERATIONS - 1);

impl ScramDecoys {
    /// Makes decoys from a secret key. They have [`MIN_SCRAM_ITERATIONS`], as most verifiers have.
    ///
    /// All agents of a cluster need the same key, and the same one after a restart: otherwise the
    /// salts of a user that does not exist differ between them, which shows that it does not.
    pub fn new(key: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA512, key),
        }
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
        ScramCredential::from_checked(mechanism, salt_from_seed(seed), ITERATIONS, keys)
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
