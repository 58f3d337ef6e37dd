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
    crd::{Adopt, ClusterRef, ConditionType, DeletionPolicy, Reason, Topic, TopicSpec},
};

/// Name of the Topic resource and of the topic.
const NAME: &str = "streamhouse-smoke-test";
/// Name of a cluster that cannot exist, because it is longer than allowed.
const NO_CLUSTER: &str = "there-is-no-cluster-of-this-name-for-smoke-tests";
const POLL: Duration = Duration::from_millis(500);

/// Arguments of `smoke-test`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SmokeTest {
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
pub async fn run(client: Client, test: &SmokeTest, mut say: impl FnMut(&str)) -> anyhow::Result<()> {
    let topics: Api<Topic> = Api::namespaced(client, &test.namespace);
    let place = format!("{}/{NAME}", test.namespace);
    remove(&topics, test.timeout)
        .await
        .with_context(|| format!("cannot remove topic {place} of an earlier run"))?;
    let generation = apply(&topics, test)
        .await
        .with_context(|| format!("cannot apply topic {place}"))?;
    say(&format!("topic {place} applied"));
    let judged = judge(&topics, test, generation).await;
    if let Ok(verdict) = &judged {
        say(verdict);
    }
    let removed = remove(&topics, test.timeout).await;
    // The first failure is the cause.
    judged?;
    removed.with_context(|| format!("cannot remove topic {place}"))?;
    say(&format!("topic {place} deleted"));
    Ok(())
}

async fn apply(topics: &Api<Topic>, test: &SmokeTest) -> kube::Result<Option<i64>> {
    let topic = Topic {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: TopicSpec {
            cluster_ref: ClusterRef {
                name: test.cluster.clone().unwrap_or_else(|| NO_CLUSTER.to_owned()),
            },
            topic_name: None,
            partitions: Some(1),
            retention: None,
            segment_bytes: None,
            compression: None,
            cleanup_policy: None,
            config: std::collections::BTreeMap::new(),
            // The topic is deleted afterwards, so it must not be an existing one.
            adopt: Adopt::Never,
            deletion_policy: DeletionPolicy::Delete,
            paused: false,
        },
        status: None,
    };
    let applied = topics
        .patch(NAME, &PatchParams::apply(NAME), &Patch::Apply(&topic))
        .await?;
    Ok(applied.metadata.generation)
}

/// Waits until the operator has reported the expected condition for this generation.
async fn judge(topics: &Api<Topic>, test: &SmokeTest, generation: Option<i64>) -> anyhow::Result<String> {
    let begin = Instant::now();
    loop {
        let topic = topics.get(NAME).await.context("cannot read the topic")?;
        let conditions = topic.status.map(|status| status.conditions).unwrap_or_default();
        let ready = conditions::find(&conditions, ConditionType::Ready).cloned();
        if let Some(condition) = ready
            .as_ref()
            .filter(|ready| ready.observed_generation == generation)
            && expected(test, condition)
        {
            return Ok(format!(
                "the operator reports {} after {:.1?}",
                text(condition),
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
                |condition| format!("its last condition is {}", text(condition)),
            );
            anyhow::bail!("timed out after {:?} waiting until the operator {wanted}; {last}", test.timeout);
        }
        sleep(POLL).await;
    }
}

fn expected(test: &SmokeTest, ready: &Condition) -> bool {
    match test.cluster {
        Some(_) => ready.status == "True",
        None => ready.status != "True" && ready.reason == Reason::ClusterNotFound.as_str(),
    }
}

fn text(condition: &Condition) -> String {
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
async fn remove(topics: &Api<Topic>, timeout: Duration) -> anyhow::Result<()> {
    let begin = Instant::now();
    match topics.delete(NAME, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    while let Some(topic) = topics.get_opt(NAME).await? {
        if begin.elapsed() > timeout {
            let finalizers = topic.metadata.finalizers.unwrap_or_default().join(", ");
            anyhow::bail!("it still exists after {timeout:?}, because of its finalizers: {finalizers}");
        }
        sleep(POLL).await;
    }
    Ok(())
}
