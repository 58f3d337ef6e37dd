//! Users: reconciles custom resources with the credentials, access control lists and quotas of the
//! metadata store, and with a Secret for clients. The leader calls [`run`].
//!
//! In reading order: [`controller`] watches and decides when; `reconciler` reconciles one User:
//! `cluster_access`, `validate` (without side effects), `apply` with `credentials` and
//! `client_secret`, `finalize` on deletion, `findings`, `status`. `preview` tells what would be
//! applied. `owner` is the identity by which
//! the metadata store knows a User.
//!
//! Guarantees: rows are written only for the User that owns the name in the metadata store, where
//! one transaction decides between two claims; a reconciliation at rest writes nothing; every step
//! may be repeated after a crash; Secrets that belong to others are never changed; no password or
//! verifier is in a status, an event or a log.

mod apply;
mod authorities;
mod client_files;
mod client_secret;
mod cluster_access;
pub mod controller;
mod credentials;
mod error;
mod finalize;
mod findings;
mod owner;
pub(crate) mod preview;
mod reconciler;
mod status;
mod validate;

pub use controller::run;
