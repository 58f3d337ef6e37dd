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

/// State of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum JobState {
    /// It has not ended; what its pod waits for, if anything.
    Running(Option<String>),
    /// It has succeeded.
    Complete,
    /// It, or its first pod, has failed.
    Failed(String),
}

/// Reads the result of the check.
pub(super) async fn read_bucket_check(
    context: &OperatorContext,
    key: &ClusterKey,
    object: Option<&DynamicObject>,
) -> kube::Result<BucketCheck> {
    if object.is_none() {
        return Ok(BucketCheck::Checking("the check has not started".to_owned()));
    }
    Ok(match read_job(context, key, object).await? {
        JobState::Complete => BucketCheck::Verified,
        JobState::Failed(why) => BucketCheck::Failed(why),
        JobState::Running(why) => {
            BucketCheck::Checking(why.unwrap_or_else(|| "the check is running".to_owned()))
        }
    })
}

/// Returns whether a Job has succeeded.
pub(super) fn is_complete(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions");
    let mut conditions = conditions
        .and_then(|found| found.as_array())
        .into_iter()
        .flatten();
    conditions.any(|condition| condition["type"] == "Complete" && condition["status"] == "True")
}

/// Reads the result of a Job. A Job that failed some time ago is deleted, so that the next
/// reconciliation creates it again.
pub(super) async fn read_job(
    context: &OperatorContext,
    key: &ClusterKey,
    object: Option<&DynamicObject>,
) -> kube::Result<JobState> {
    let Some(object) = object else {
        return Ok(JobState::Running(None));
    };
    let Ok(job) = object.clone().try_parse::<Job>() else {
        return Ok(JobState::Running(None));
    };
    let status = job.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is = |kind: &str| {
        conditions
            .iter()
            .find(|condition| condition.type_ == kind && condition.status == "True")
    };
    if is_complete(object) {
        return Ok(JobState::Complete);
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
            .unwrap_or_else(|| "the Job failed".to_owned());
        return Ok(JobState::Failed(last_line(&why)));
    }
    let trouble = pods.iter().find_map(pods::pod_problem);
    Ok(match word.or(trouble) {
        // The Job retries a few times; the first failure is reported at once.
        Some(word) if status.failed.unwrap_or(0) > 0 => JobState::Failed(last_line(&word)),
        word => JobState::Running(word.map(|word| last_line(&word))),
    })
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
