//! The client's side of an exchange.

use std::fmt;

use super::{
    credential::checked_iterations,
    crypto::{ScramMechanism, xor},
    error::ScramError,
    message::{ServerFinalMessage, ServerFirstMessage, encode_base64, escape_name, generate_nonce},
};
use crate::time::Entropy;

/// The most iterations that a client makes for a server, which may want to waste its time.
const MAX_CLIENT_ITERATIONS: u32 = 1_000_000;
/// What precedes the first message: no channel binding, no authorization id.
const GS2_HEADER: &str = "n,,";
/// Letters of a server's error that are shown.
const MAX_ERROR_LEN: usize = 100;

/// A client that has to prove that it knows a password.
pub struct ScramClient {
    mechanism: ScramMechanism,
    password: String,
    bare: String,
    nonce: String,
}

/// A client that has answered the challenge, and awaits the server's proof.
pub struct ScramClientProof {
    mechanism: ScramMechanism,
    message: String,
    auth_message: String,
    server_key: Vec<u8>,
}

impl ScramClient {
    /// Begins an exchange.
    ///
    /// # Errors
    ///
    /// Fails if the user name is empty or contains NUL.
    pub fn new(
        mechanism: ScramMechanism,
        user: &str,
        password: &str,
        entropy: &dyn Entropy,
    ) -> Result<Self, ScramError> {
        Self::with_nonce(mechanism, user, password, generate_nonce(entropy))
    }

    pub(super) fn with_nonce(
        mechanism: ScramMechanism,
        user: &str,
        password: &str,
        nonce: String,
    ) -> Result<Self, ScramError> {
        if user.is_empty() || user.contains('\0') {
            return Err(ScramError::Malformed("the user name is empty or contains NUL"));
        }
        Ok(Self {
            mechanism,
            password: password.to_owned(),
            bare: format!("n={},r={nonce}", escape_name(user)),
            nonce,
        })
    }

    /// Returns the first message to the server.
    pub fn first_message(&self) -> String {
        format!("{GS2_HEADER}{}", self.bare)
    }

    /// Answers the server's challenge. Takes milliseconds of a processor: call it where that may
    /// block.
    ///
    /// # Errors
    ///
    /// Fails if the challenge is malformed, belongs to another exchange, or asks for fewer
    /// iterations than [`MIN_SCRAM_ITERATIONS`](super::MIN_SCRAM_ITERATIONS), which would make the
    /// password easy to guess, or for very many.
    pub fn respond(self, challenge: &[u8]) -> Result<ScramClientProof, ScramError> {
        let server = ServerFirstMessage::read(challenge)?;
        let server_nonce = server.nonce.strip_prefix(&self.nonce);
        if server_nonce.is_none_or(str::is_empty) {
            return Err(ScramError::NonceMismatch);
        }
        let iterations = checked_iterations(server.iterations, MAX_CLIENT_ITERATIONS)?;
        if server.salt.is_empty() {
            return Err(ScramError::Malformed("the salt is empty"));
        }
        let mechanism = self.mechanism;
        let salted = mechanism.salted_password(&self.password, &server.salt, iterations);
        let client_key = mechanism.client_key(&salted);
        let without_proof = format!("c={},r={}", encode_base64(GS2_HEADER.as_bytes()), server.nonce);
        // It was read, so it is a text.
        let challenge = String::from_utf8_lossy(challenge);
        let auth_message = format!("{},{challenge},{without_proof}", self.bare);
        let signature = mechanism.sign(&mechanism.stored_key(&client_key), auth_message.as_bytes());
        let proof = encode_base64(&xor(&client_key, &signature));
        Ok(ScramClientProof {
            mechanism,
            message: format!("{without_proof},p={proof}"),
            auth_message,
            server_key: mechanism.server_key(&salted),
        })
    }
}

impl ScramClientProof {
    /// Returns the second message to the server.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Verifies the server's last message. Only when this succeeds are both sides authenticated.
    ///
    /// # Errors
    ///
    /// Fails if the server refuses the client or does not prove that it knows the verifier.
    pub fn verify(self, message: &[u8]) -> Result<(), ScramError> {
        match ServerFinalMessage::read(message)? {
            ServerFinalMessage::Error(error) => {
                let error = error.escape_debug().take(MAX_ERROR_LEN).collect();
                Err(ScramError::RefusedByServer(error))
            }
            ServerFinalMessage::Signature(signature) => {
                let (mechanism, signed) = (self.mechanism, self.auth_message.as_bytes());
                if mechanism.is_signature(&self.server_key, signed, &signature) {
                    Ok(())
                } else {
                    Err(ScramError::InvalidServerSignature)
                }
            }
        }
    }
}

impl fmt::Debug for ScramClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramClient")
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ScramClientProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramClientProof")
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}
