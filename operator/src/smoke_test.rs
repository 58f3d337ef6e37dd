//! `streamhouse-operator smoke-test`: applies a Topic, waits for the operator's word on it, and deletes it again. `helm test` runs it in
//! a pod. It needs to get, create, patch and delete Topics in one namespace, and nothing else; what it leaves behind when it is killed,
//! its next run takes away.

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

/// The Topic's name, and the topic's.
const NAME: &str = "streamhouse-smoke-test";
/// A cluster that nobody has: the name is longer than a cluster's may be.
const NO_CLUSTER: &str = "there-is-no-cluster-of-this-name-for-smoke-tests";
const POLL: Duration = Duration::from_millis(500);

/// What to test.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SmokeTest {
    /// Namespace to make the Topic in; the operator must look after it
    #[arg(short, long, value_name = "NAME")]
    pub namespace: String,
    /// StreamHouseCluster whose Topic must become ready. Without it the Topic names a cluster that is not there, and the operator must say so
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// How long the operator may take
    #[arg(long, default_value = "120s", value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Runs the test; reports each step to `say`.
///
/// # Errors
/// When the API server refuses something, or the operator does not do its part in time; the message has the Topic's last condition.
pub async fn run(client: Client, test: &SmokeTest, mut say: impl FnMut(&str)) -> anyhow::Result<()> {
    let topics: Api<Topic> = Api::namespaced(client, &test.namespace);
    let place = format!("{}/{NAME}", test.namespace);
    remove(&topics, test.timeout)
        .await
        .with_context(|| format!("an earlier run's topic {place} could not be removed"))?;
    let generation = apply(&topics, test)
        .await
        .with_context(|| format!("topic {place} was refused"))?;
    say(&format!("topic {place} applied"));
    let judged = judge(&topics, test, generation).await;
    if let Ok(verdict) = &judged {
        say(verdict);
    }
    let removed = remove(&topics, test.timeout).await;
    // What went wrong first is what matters.
    judged?;
    removed.with_context(|| format!("topic {place} could not be removed"))?;
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
            // It is deleted afterwards: so it must be nobody else's.
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

/// Waits until the operator has said of this generation what it must say.
async fn judge(topics: &Api<Topic>, test: &SmokeTest, generation: Option<i64>) -> anyhow::Result<String> {
    let begin = Instant::now();
    loop {
        let topic = topics.get(NAME).await.context("the topic could not be read")?;
        let conditions = topic.status.map(|status| status.conditions).unwrap_or_default();
        let ready = conditions::find(&conditions, ConditionType::Ready).cloned();
        if let Some(condition) = ready
            .as_ref()
            .filter(|ready| ready.observed_generation == generation)
            && expected(test, condition)
        {
            return Ok(format!(
                "the operator says {} after {:.1?}",
                text(condition),
                begin.elapsed()
            ));
        }
        if begin.elapsed() > test.timeout {
            let wanted = test.cluster.as_deref().map_or_else(
                || "says that the topic's cluster is not there".to_owned(),
                |cluster| format!("makes a topic of cluster {cluster} ready"),
            );
            let last = ready.as_ref().map_or_else(
                || {
                    "it has said nothing of the topic: is it running, and does it look after this namespace?"
                        .to_owned()
                },
                |condition| format!("its last word is {}", text(condition)),
            );
            anyhow::bail!("waited {:?} until the operator {wanted}; {last}", test.timeout);
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

/// Deletes the topic, if it is there, and waits until it is gone.
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
            anyhow::bail!("it is still there after {timeout:?}, held by its finalizers: {finalizers}");
        }
        sleep(POLL).await;
    }
    Ok(())
}
