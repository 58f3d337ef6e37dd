//! The tests that need a whole store: the conformance suite on each backend, a model, and failures.

mod backends;
mod failures;
mod model;
pub(crate) mod support;
