//! What the requests that read and change users, ACLs and quotas have in common.

use streamhouse_core::Error;
use tokio::time::{Duration, Instant, sleep};

use super::{
    error::{ErrorFamily, kafka_code},
    request::RequestContext,
};
use crate::security::SecurityView;

/// How long a request waits until this agent has what it has changed.
const VISIBILITY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it looks.
const VISIBILITY_INTERVAL: Duration = Duration::from_millis(5);

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

/// Returns the users, ACLs and quotas that this agent has.
///
/// # Errors
/// REQUEST_TIMED_OUT before it has read them.
pub(super) fn loaded(view: &Option<SecurityView>) -> Result<&SecurityView, AdminRefusal> {
    const REQUEST_TIMED_OUT: i16 = 7;
    let message = "this agent has not read the users and ACLs yet";
    view.as_ref()
        .ok_or_else(|| AdminRefusal::new(REQUEST_TIMED_OUT, message))
}

/// Waits, for a limited time, until this agent has the users, ACLs and quotas that were in the
/// metadata store when this was called.
pub(super) async fn catch_up(context: &RequestContext) {
    let deps = &context.client.deps;
    let until = Instant::now() + VISIBILITY_TIMEOUT;
    // The first may end with a read that had begun before.
    deps.directory.refresh().await;
    let wanted = deps.directory.refresh().await.snapshot.security_version;
    while deps.security.version() < wanted && Instant::now() < until {
        sleep(VISIBILITY_INTERVAL).await;
    }
}
