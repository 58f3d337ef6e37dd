//! SCRAM: a client proves that it knows a password without sending it, and the server that it knows
//! the client's verifier (RFC 5802, RFC 7677, and SCRAM-SHA-512 in the same way).
//!
//! ```text
//! client                                  server
//! ScramClient::first_message      ---->   ScramServer::begin
//!                                         the verifier of ScramServer::user is looked up
//! ScramClient::respond            <----   ScramServer::challenge, ScramChallenge::message
//! ScramClientProof::message       ---->   ScramChallenge::verify
//! ScramClientProof::verify        <----   ScramAuthenticated::message
//! ```
//!
//! Each state is consumed by the next, so that no message is answered twice, and there is no way to
//! a [`ScramAuthenticated`] but a right proof. Like Kafka, passwords are taken as UTF-8 without
//! SASLprep, and there is no channel binding.

mod client;
mod credential;
mod crypto;
mod decoy;
mod error;
mod message;
mod server;

pub use client::{ScramClient, ScramClientProof};
pub use credential::{MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, ScramCredential, ScramKeys};
pub use crypto::ScramMechanism;
pub use decoy::ScramDecoys;
pub use error::ScramError;
pub use server::{ScramAuthenticated, ScramChallenge, ScramServer};

#[cfg(test)]
mod tests;
