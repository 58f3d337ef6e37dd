//! The `streamhouse-operator smoke-test` command: applies a Topic, waits until the operator reports
//! its condition, and deletes it again. `helm test` runs it in a pod. Requires the rights to get,
//! create, patch and delete Topics in one namespace. If it is killed, the next run removes what it
//! has left behind.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams},
};
use streamhouse_core::settings::parse_duration;
use tokio::time::{Instant, sleep};

use crate::{
    conditions,
    crd::{AdoptionPolicy, ClusterRef, ConditionReason, ConditionType, DeletionPolicy, Topic, TopicSpec},
};

/// Name of the Topic resource and of the topic.
const TOPIC_NAME: &str = "streamhouse-smoke-test";
/// Name of a cluster that cannot exist, because it is longer than allowed.
const ABSENT_CLUSTER: &str = "there-is-no-cluster-of-this-name-for-smoke-tests";
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Arguments of `smoke-test`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SmokeTestArgs {
    /// Namespace of the Topic; must be watched by the operator
    #[arg(short, long, value_name = "NAME")]
    pub namespace: String,
    /// StreamHouseCluster whose Topic must become ready. By default the Topic references a cluster
    /// that does not exist, and the operator must report that
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// How long to wait for the operator
    #[arg(long, default_value = "120s", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Runs the test and passes each step to `say`.
///
/// # Errors
///
/// Returns an error if the API server rejects a request or the operator does not report the
/// expected condition in time; the message contains the Topic's last condition.
pub async fn run(client: Client, test: &SmokeTestArgs, mut say: impl FnMut(&str)) -> anyhow::Result<()> {
    let topics: Api<Topic> = Api::namespaced(client, &test.namespace);
    let place = format!("{}/{TOPIC_NAME}", test.namespace);
    delete_topic(&topics, test.timeout)
        .await
        .with_context(|| format!("cannot remove topic {place} of an earlier run"))?;
    let generation = apply_topic(&topics, test)
        .await
        .with_context(|| format!("cannot apply topic {place}"))?;
    say(&format!("topic {place} applied"));
    let judged = wait_for_condition(&topics, test, generation).await;
    if let Ok(verdict) = &judged {
        say(verdict);
    }
    let removed = delete_topic(&topics, test.timeout).await;
    // The first failure is the cause.
    judged?;
    removed.with_context(|| format!("cannot remove topic {place}"))?;
    say(&format!("topic {place} deleted"));
    Ok(())
}

async fn apply_topic(topics: &Api<Topic>, test: &SmokeTestArgs) -> kube::Result<Option<i64>> {
    let topic = Topic {
        metadata: ObjectMeta {
            name: Some(TOPIC_NAME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: TopicSpec {
            cluster_ref: ClusterRef {
                name: test.cluster.clone().unwrap_or_else(|| ABSENT_CLUSTER.to_owned()),
            },
            topic_name: None,
            partitions: Some(1),
            retention: None,
            segment_bytes: None,
            compression: None,
            cleanup_policy: None,
            config: std::collections::BTreeMap::new(),
            // The topic is deleted afterwards, so it must not be an existing one.
            adopt: AdoptionPolicy::Never,
            deletion_policy: DeletionPolicy::Delete,
            paused: false,
        },
        status: None,
    };
    let applied = topics
        .patch(TOPIC_NAME, &PatchParams::apply(TOPIC_NAME), &Patch::Apply(&topic))
        .await?;
    Ok(applied.metadata.generation)
}

/// Waits until the operator has reported the expected condition for this generation.
async fn wait_for_condition(
    topics: &Api<Topic>,
    test: &SmokeTestArgs,
    generation: Option<i64>,
) -> anyhow::Result<String> {
    let begin = Instant::now();
    loop {
        let topic = topics.get(TOPIC_NAME).await.context("cannot read the topic")?;
        let conditions = topic.status.map(|status| status.conditions).unwrap_or_default();
        let ready = conditions::find_condition(&conditions, ConditionType::Ready).cloned();
        if let Some(condition) = ready
            .as_ref()
            .filter(|ready| ready.observed_generation == generation)
            && is_expected(test, condition)
        {
            return Ok(format!(
                "the operator reports {} after {:.1?}",
                format_condition(condition),
                begin.elapsed()
            ));
        }
        if begin.elapsed() > test.timeout {
            let wanted = test.cluster.as_deref().map_or_else(
                || "reports that the topic's cluster does not exist".to_owned(),
                |cluster| format!("makes the topic of cluster {cluster} ready"),
            );
            let last = ready.as_ref().map_or_else(
                || {
                    "it has not reported a condition: is it running, and does it watch this namespace?"
                        .to_owned()
                },
                |condition| format!("its last condition is {}", format_condition(condition)),
            );
            anyhow::bail!(
                "timed out after {:?} waiting until the operator {wanted}; {last}",
                test.timeout
            );
        }
        sleep(POLL_INTERVAL).await;
    }
}

fn is_expected(test: &SmokeTestArgs, ready: &Condition) -> bool {
    match test.cluster {
        Some(_) => ready.status == "True",
        None => ready.status != "True" && ready.reason == ConditionReason::ClusterNotFound.as_str(),
    }
}

fn format_condition(condition: &Condition) -> String {
    let Condition {
        status,
        reason,
        message,
        ..
    } = condition;
    let separator = if message.is_empty() { "" } else { ": " };
    format!("Ready={status} {reason}{separator}{message}")
}

/// Deletes the topic if it exists and waits until it is gone.
async fn delete_topic(topics: &Api<Topic>, timeout: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    match topics.delete(TOPIC_NAME, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    while let Some(topic) = topics.get_opt(TOPIC_NAME).await? {
        if begin.elapsed() > timeout {
            let finalizers = topic.metadata.finalizers.unwrap_or_default().join(", ");
            anyhow::bail!("it still exists after {timeout:?}, because of its finalizers: {finalizers}");
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}
