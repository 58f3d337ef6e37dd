//! Why an exchange or a credential is refused.

use thiserror::Error;

/// Why an exchange ended without proof, or a credential is invalid. No message contains a secret or
/// says whether a user exists.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScramError {
    /// A message is not one of SCRAM at this step.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// The client demands that the exchange is bound to the TLS connection.
    #[error("channel binding is not supported: use a mechanism without -PLUS")]
    ChannelBinding,
    /// What the client says of channel binding at the end is not what it said at the beginning.
    #[error("the channel binding differs from that of the first message")]
    ChannelBindingMismatch,
    /// The client demands an extension of SCRAM.
    #[error("mandatory extensions are not supported")]
    MandatoryExtension,
    /// The client authenticates with a delegation token.
    #[error("delegation tokens are not supported: use the credentials of a user")]
    DelegationToken,
    /// The client wants to act as another user.
    #[error("the authorization id must be the user name, or be left out")]
    AuthorizationId,
    /// The nonce is not that of this exchange, as in a message that is sent again.
    #[error("the nonce is not that of this exchange")]
    NonceMismatch,
    /// The password is wrong, or there is no such user.
    #[error("invalid credentials")]
    InvalidProof,
    /// The server does not know the user's verifier: it may be an impostor.
    #[error("the server's signature is wrong: it does not know the credentials")]
    InvalidServerSignature,
    /// The server has refused the client.
    #[error("the server refuses the credentials: {0}")]
    RefusedByServer(String),
    /// The number of iterations is out of bounds.
    #[error("{0} iterations are out of bounds")]
    Iterations(u32),
    /// The salt is empty or too long.
    #[error("a salt has 1 to {max} bytes, not {length}")]
    SaltLength {
        /// Its length in bytes.
        length: usize,
        /// The longest one in bytes.
        max: usize,
    },
    /// A key has another length than those of the mechanism.
    #[error("a key of this mechanism has {expected} bytes, not {length}")]
    KeyLength {
        /// Its length in bytes.
        length: usize,
        /// The length in bytes that it must have.
        expected: usize,
    },
    /// The name of the mechanism is unknown.
    #[error("`{0}` is no SCRAM mechanism: one of SCRAM-SHA-256, SCRAM-SHA-512")]
    UnknownMechanism(String),
}
