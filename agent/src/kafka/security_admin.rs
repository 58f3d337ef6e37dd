//! What the requests that read and change users, ACLs and quotas have in common.

use streamhouse_core::Error;

use super::{
    error::{ErrorFamily, INVALID_REQUEST, kafka_code},
    request::RequestContext,
};
use crate::security;

/// A code of Kafka with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminRefusal {
    pub(super) code: i16,
    pub(super) message: String,
}

impl AdminRefusal {
    pub(super) fn new(code: i16, message: impl ToString) -> Self {
        let message = message.to_string();
        Self { code, message }
    }

    pub(super) fn invalid(problem: impl ToString) -> Self {
        Self::new(INVALID_REQUEST, problem)
    }
}

impl From<Error> for AdminRefusal {
    fn from(error: Error) -> Self {
        Self::new(kafka_code(ErrorFamily::Admin, &error), error.message())
    }
}

impl From<streamhouse_metadata::Error> for AdminRefusal {
    fn from(error: streamhouse_metadata::Error) -> Self {
        Error::from(error).into()
    }
}

/// Returns code and message of a result.
pub(super) fn result_fields<T>(result: &Result<T, AdminRefusal>) -> (i16, Option<String>) {
    match result {
        Ok(_) => (0, None),
        Err(refusal) => (refusal.code, Some(refusal.message.clone())),
    }
}

/// Refuses what was valid until the store failed.
pub(super) fn fail_valid<'a, T: 'a>(
    results: impl IntoIterator<Item = &'a mut Result<T, AdminRefusal>>,
    refusal: &AdminRefusal,
) {
    let valid = results.into_iter().filter(|result| result.is_ok());
    valid.for_each(|result| *result = Err(refusal.clone()));
}

/// Waits, for a limited time, until this agent decides by what is stored now.
pub(super) async fn catch_up(context: &RequestContext) {
    let deps = &context.client.deps;
    security::catch_up(&deps.security, &deps.directory).await;
}
