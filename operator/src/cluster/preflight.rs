//! Reads the result of the Job that checks the bucket. Only agents open the object store, so the
//! Job runs `streamhouse-agent check object-store` with the settings, identity and network of the
//! agents. The name of the Job is derived from its contents, so that changed settings are checked
//! by another Job.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams},
};

use super::{apply, children::ManagedKind, pods};
use crate::{context::OperatorContext, metadata_stores::ClusterKey};

/// Time until a failed check is repeated, in milliseconds.
const RETRY_AFTER_MS: i64 = 60_000;

/// Result of the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BucketCheck {
    /// A test object was written, read and deleted.
    Verified,
    /// The check is running or waiting.
    Checking(String),
    /// The check failed.
    Failed(String),
}

/// Reads the result of the Job. A Job that failed some time ago is deleted, so that the next
/// reconciliation creates it again.
pub(super) async fn read_bucket_check(
    context: &OperatorContext,
    key: &ClusterKey,
    object: Option<&DynamicObject>,
) -> kube::Result<BucketCheck> {
    let Some(object) = object else {
        return Ok(BucketCheck::Checking("the check has not started".to_owned()));
    };
    let Ok(job) = object.clone().try_parse::<Job>() else {
        return Ok(BucketCheck::Checking("the check has no status yet".to_owned()));
    };
    let status = job.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is = |kind: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if is("Complete").is_some() {
        return Ok(BucketCheck::Verified);
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let of_job = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
    let pods = pods.list(&of_job).await?.items;
    let word = pods.iter().find_map(pods::termination_message);
    if let Some(failed) = is("Failed") {
        let since = failed
            .last_transition_time
            .as_ref()
            .map_or(0, |time| time.0.as_millisecond());
        if context.clock.now_ms() - since > RETRY_AFTER_MS {
            apply::delete_object(context, ManagedKind::Job, object).await?;
        }
        let why = word
            .or(failed.message.clone())
            .unwrap_or_else(|| "the check failed".to_owned());
        return Ok(BucketCheck::Failed(last_line(&why)));
    }
    let trouble = pods.iter().find_map(pods::pod_problem);
    match word.or(trouble) {
        // The Job retries a few times; the first failure is reported at once.
        Some(word) if status.failed.unwrap_or(0) > 0 => Ok(BucketCheck::Failed(last_line(&word))),
        Some(word) => Ok(BucketCheck::Checking(last_line(&word))),
        None => Ok(BucketCheck::Checking("the check is running".to_owned())),
    }
}

/// Returns the last line, in which an agent says what is wrong and what to do.
fn last_line(text: &str) -> String {
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or(text)
        .trim()
        .to_owned()
}
