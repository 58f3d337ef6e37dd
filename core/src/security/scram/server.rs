//! The server's side of an exchange.

use super::{
    credential::ScramCredential,
    crypto::ScramMechanism,
    decoy::ScramDecoys,
    error::ScramError,
    message::{ClientFinalMessage, ClientFirstMessage, encode_base64, generate_nonce},
};
use crate::time::Entropy;

/// An exchange whose client has said who it is, and proven nothing yet.
///
/// # Examples
///
/// ```
/// use streamhouse_core::{
///     security::{
///         ScramClient, ScramCredential, ScramDecoys, ScramError, ScramMechanism, ScramServer,
///     },
///     time::SystemEntropy,
/// };
///
/// let mechanism = ScramMechanism::Sha256;
/// let entropy = SystemEntropy;
/// let stored = ScramCredential::generate(mechanism, "secret", &entropy)?;
/// let decoys = ScramDecoys::new(b"a secret of the cluster");
///
/// let client = ScramClient::new(mechanism, "alice", "secret", &entropy)?;
/// let server = ScramServer::begin(mechanism, client.first_message().as_bytes())?;
/// assert_eq!(server.user(), "alice");
/// let challenge = server.challenge(Some(&stored), &decoys, &entropy);
/// let proof = client.respond(challenge.message().as_bytes())?;
/// let authenticated = challenge.verify(proof.message().as_bytes())?;
/// proof.verify(authenticated.message().as_bytes())?;
/// assert_eq!(authenticated.user(), "alice");
/// # Ok::<(), ScramError>(())
/// ```
#[derive(Debug)]
pub struct ScramServer {
    mechanism: ScramMechanism,
    client: ClientFirstMessage,
}

/// An exchange whose client was asked for a proof. It can try once.
#[derive(Debug)]
pub struct ScramChallenge {
    client: ClientFirstMessage,
    /// Of both sides.
    nonce: String,
    message: String,
    credential: ScramCredential,
    /// False if the user does not exist: then no proof is right.
    is_known: bool,
}

/// A client that has proven to know the user's password.
#[derive(Debug)]
pub struct ScramAuthenticated {
    user: String,
    message: String,
    credential: ScramCredential,
}

impl ScramServer {
    /// Reads a client's first message.
    ///
    /// # Errors
    ///
    /// Fails if it is malformed, or asks for channel binding, a mandatory extension, a delegation
    /// token or to act as another user.
    pub fn begin(mechanism: ScramMechanism, message: &[u8]) -> Result<Self, ScramError> {
        let client = ClientFirstMessage::read(message)?;
        Ok(Self { mechanism, client })
    }

    /// Returns the user that the client says it is.
    pub fn user(&self) -> &str {
        &self.client.user
    }

    /// Asks the client for a proof. The credential is the one of the user for the mechanism, `None`
    /// if there is none: then a decoy takes its place, and the exchange goes on as with a wrong
    /// password.
    pub fn challenge(
        self,
        credential: Option<&ScramCredential>,
        decoys: &ScramDecoys,
        entropy: &dyn Entropy,
    ) -> ScramChallenge {
        self.challenge_with_nonce(credential, decoys, &generate_nonce(entropy))
    }

    pub(super) fn challenge_with_nonce(
        self,
        credential: Option<&ScramCredential>,
        decoys: &ScramDecoys,
        server_nonce: &str,
    ) -> ScramChallenge {
        // The decoy is made in any case, so that both take the same time.
        let decoy = decoys.credential(self.mechanism, &self.client.user);
        let known = credential.filter(|known| known.mechanism() == self.mechanism);
        let credential = known.cloned().unwrap_or(decoy);
        let nonce = format!("{}{server_nonce}", self.client.nonce);
        let salt = encode_base64(credential.salt());
        ScramChallenge {
            message: format!("r={nonce},s={salt},i={}", credential.iterations()),
            client: self.client,
            nonce,
            is_known: known.is_some(),
            credential,
        }
    }
}

impl ScramChallenge {
    /// Returns the user that the client says it is.
    pub fn user(&self) -> &str {
        &self.client.user
    }

    /// Returns the message to the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Verifies the client's answer.
    ///
    /// # Errors
    ///
    /// Fails if it does not prove that the client knows the user's password, or is malformed.
    pub fn verify(self, message: &[u8]) -> Result<ScramAuthenticated, ScramError> {
        let answer = ClientFinalMessage::read(message)?;
        if answer.nonce != self.nonce {
            return Err(ScramError::NonceMismatch);
        }
        if answer.channel_binding != self.client.gs2_header.as_bytes() {
            return Err(ScramError::ChannelBindingMismatch);
        }
        let auth_message = format!("{},{},{}", self.client.bare, self.message, answer.without_proof);
        let is_proven = self.credential.is_proof(auth_message.as_bytes(), &answer.proof);
        if !is_proven || !self.is_known {
            return Err(ScramError::InvalidProof);
        }
        let signature = self.credential.server_signature(auth_message.as_bytes());
        Ok(ScramAuthenticated {
            user: self.client.user,
            message: format!("v={}", encode_base64(&signature)),
            credential: self.credential,
        })
    }
}

impl ScramAuthenticated {
    /// Returns the user that the client has proven to be.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Returns the credential that the client has proven to know the password of: that of the
    /// challenge, which may have been replaced since.
    pub fn into_credential(self) -> ScramCredential {
        self.credential
    }

    /// Returns the message to the client, by which the server proves that it knows the verifier.
    pub fn message(&self) -> &str {
        &self.message
    }
}
