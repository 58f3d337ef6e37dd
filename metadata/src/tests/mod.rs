//! The tests that need a whole store: the conformance suite on each backend, a model, failures, the
//! schema, TLS.

mod backends;
mod damage;
mod failures;
mod model;
mod outages;
mod pooler;
mod schemas;
mod security;
mod security_model;
pub(crate) mod support;
mod tls;
mod windows;
