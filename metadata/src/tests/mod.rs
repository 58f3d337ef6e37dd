//! The tests that need a whole store: the conformance suite on each backend, a model, failures, the schema, TLS.

mod backends;
mod failures;
mod model;
mod schemas;
pub(crate) mod support;
mod tls;
