//! What a server keeps of a password.

use std::{fmt, num::NonZeroU32};

use super::{
    crypto::{ScramMechanism, xor},
    error::ScramError,
};
use crate::time::Entropy;

/// The fewest iterations, as in Kafka.
pub const MIN_SCRAM_ITERATIONS: u32 = 4096;
/// The most iterations, as in Kafka.
pub const MAX_SCRAM_ITERATIONS: u32 = 16384;
/// The longest salt in bytes.
const MAX_SALT_LEN: usize = 1024;
/// Random bits of a salt, as in Kafka.
const SALT_BITS: usize = 130;
/// Bytes that hold the bits of a salt.
pub(super) const SALT_SEED_LEN: usize = SALT_BITS.div_ceil(8);

/// The keys of a verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// The hash of the client's key, against which proofs are verified.
    pub stored: Vec<u8>,
    /// The key by which the server proves that it knows the verifier.
    pub server: Vec<u8>,
}

/// The verifier of a user's password for one mechanism. Who reads it cannot log in with it, but can
/// try passwords; debug output shows neither keys nor salt.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramCredential {
    mechanism: ScramMechanism,
    salt: Vec<u8>,
    iterations: NonZeroU32,
    keys: ScramKeys,
}

impl ScramCredential {
    /// Makes the verifier of a password. Takes milliseconds of a processor: call it where that may
    /// block.
    ///
    /// # Errors
    ///
    /// Fails if the iterations are not between [`MIN_SCRAM_ITERATIONS`] and
    /// [`MAX_SCRAM_ITERATIONS`], or if the salt is empty or very long.
    pub fn derive(
        mechanism: ScramMechanism,
        password: &str,
        salt: Vec<u8>,
        iterations: u32,
    ) -> Result<Self, ScramError> {
        let iterations = checked_iterations(iterations, MAX_SCRAM_ITERATIONS)?;
        let salted = mechanism.salted_password(password, &salt, iterations);
        Self::from_salted_password(mechanism, salt, iterations.get(), &salted)
    }

    /// Makes the verifier of a password with a new salt and the fewest iterations, as Kafka's tools
    /// do. Takes as long as [`ScramCredential::derive`].
    ///
    /// # Errors
    ///
    /// None that a password can cause.
    pub fn generate(
        mechanism: ScramMechanism,
        password: &str,
        entropy: &dyn Entropy,
    ) -> Result<Self, ScramError> {
        let salt = generate_scram_salt(entropy);
        Self::derive(mechanism, password, salt, MIN_SCRAM_ITERATIONS)
    }

    /// Makes the verifier of a password that was salted already, as Kafka's
    /// `AlterUserScramCredentials` sends it.
    ///
    /// # Errors
    ///
    /// Fails as [`ScramCredential::derive`], and if the salted password has the wrong length.
    pub fn from_salted_password(
        mechanism: ScramMechanism,
        salt: Vec<u8>,
        iterations: u32,
        salted_password: &[u8],
    ) -> Result<Self, ScramError> {
        check_key(mechanism, salted_password)?;
        let client_key = mechanism.client_key(salted_password);
        let keys = ScramKeys {
            stored: mechanism.stored_key(&client_key),
            server: mechanism.server_key(salted_password),
        };
        Self::from_keys(mechanism, salt, iterations, keys)
    }

    /// Returns a verifier that was stored.
    ///
    /// # Errors
    ///
    /// Fails if a part of it is out of bounds.
    pub fn from_keys(
        mechanism: ScramMechanism,
        salt: Vec<u8>,
        iterations: u32,
        keys: ScramKeys,
    ) -> Result<Self, ScramError> {
        if salt.is_empty() || salt.len() > MAX_SALT_LEN {
            return Err(ScramError::SaltLength {
                length: salt.len(),
                max: MAX_SALT_LEN,
            });
        }
        check_key(mechanism, &keys.stored)?;
        check_key(mechanism, &keys.server)?;
        let iterations = checked_iterations(iterations, MAX_SCRAM_ITERATIONS)?;
        Ok(Self::from_checked(mechanism, salt, iterations, keys))
    }

    /// Returns a verifier whose parts are known to be within their bounds.
    pub(super) const fn from_checked(
        mechanism: ScramMechanism,
        salt: Vec<u8>,
        iterations: NonZeroU32,
        keys: ScramKeys,
    ) -> Self {
        Self {
            mechanism,
            salt,
            iterations,
            keys,
        }
    }

    /// Returns the mechanism.
    pub const fn mechanism(&self) -> ScramMechanism {
        self.mechanism
    }

    /// Returns the salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Returns the number of iterations.
    pub const fn iterations(&self) -> u32 {
        self.iterations.get()
    }

    /// Returns the keys, to store them.
    pub const fn keys(&self) -> &ScramKeys {
        &self.keys
    }

    /// Returns whether a password is that of the verifier, for mechanisms that send it. Takes
    /// milliseconds of a processor, whatever the password: call it where that may block.
    pub fn is_password(&self, password: &str) -> bool {
        let mechanism = self.mechanism;
        let salted = mechanism.salted_password(password, &self.salt, self.iterations);
        let stored = mechanism.stored_key(&mechanism.client_key(&salted));
        mechanism.are_equal(&stored, &self.keys.stored)
    }

    /// Returns whether a proof is one of the client's key for a message.
    pub(super) fn is_proof(&self, auth_message: &[u8], proof: &[u8]) -> bool {
        let mechanism = self.mechanism;
        let signature = mechanism.sign(&self.keys.stored, auth_message);
        let stored = mechanism.stored_key(&xor(&signature, proof));
        proof.len() == signature.len() && mechanism.are_equal(&stored, &self.keys.stored)
    }

    /// Returns the server's signature of a message.
    pub(super) fn server_signature(&self, auth_message: &[u8]) -> Vec<u8> {
        self.mechanism.sign(&self.keys.server, auth_message)
    }
}

impl fmt::Debug for ScramCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramCredential")
            .field("mechanism", &self.mechanism)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramKeys").finish_non_exhaustive()
    }
}

/// Returns a salt for a new verifier. It is written as Kafka's tools write theirs, so that it does
/// not show who made the verifier: 130 random bits in base 36.
pub(super) fn generate_scram_salt(entropy: &dyn Entropy) -> Vec<u8> {
    let mut seed = [0; SALT_SEED_LEN];
    for bytes in seed.chunks_mut(8) {
        let random = entropy.next_u64().to_be_bytes();
        bytes.copy_from_slice(&random[..bytes.len()]);
    }
    salt_from_seed(seed)
}

/// Writes the lowest [`SALT_BITS`] bits in base 36.
pub(super) fn salt_from_seed(mut number: [u8; SALT_SEED_LEN]) -> Vec<u8> {
    number[0] &= 0xff >> (8 * SALT_SEED_LEN - SALT_BITS);
    let mut digits = Vec::new();
    while digits.is_empty() || number.iter().any(|byte| *byte != 0) {
        let mut remainder = 0;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 36) as u8;
            remainder = value % 36;
        }
        digits.extend(char::from_digit(remainder, 36).map(|digit| digit as u8));
    }
    digits.reverse();
    digits
}

/// Returns iterations that are at least [`MIN_SCRAM_ITERATIONS`] and at most `max`.
pub(super) fn checked_iterations(iterations: u32, max: u32) -> Result<NonZeroU32, ScramError> {
    let allowed = (MIN_SCRAM_ITERATIONS..=max).contains(&iterations);
    let checked = NonZeroU32::new(iterations).filter(|_| allowed);
    checked.ok_or(ScramError::Iterations(iterations))
}

fn check_key(mechanism: ScramMechanism, key: &[u8]) -> Result<(), ScramError> {
    let (length, expected) = (key.len(), mechanism.key_len());
    if length == expected {
        return Ok(());
    }
    Err(ScramError::KeyLength { length, expected })
}
