//! What a kubelet and the agents in its pods would do.

use std::time::Duration;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use streamhouse_metadata::{AgentRegistration, ConnectOptions, LeaseMove, connect};

use super::ClusterTestEnvironment;

/// Returns the registration of an agent that no client reaches.
pub(crate) fn agent_registration(agent_id: &str) -> AgentRegistration {
    AgentRegistration {
        agent_id: agent_id.to_owned(),
        grpc_address: "127.0.0.1:1".to_owned(),
        http_address: String::new(),
        kafka_address: String::new(),
        zone: String::new(),
        version: String::new(),
        lease_ttl: Duration::from_secs(3600),
    }
}

impl ClusterTestEnvironment {
    async fn pods(&self, labels: &str) -> Vec<Pod> {
        let pods = self
            .api_of::<Pod>()
            .list(&ListParams::default().labels(labels))
            .await
            .unwrap()
            .items;
        pods.into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .collect()
    }

    async fn set_status(&self, pod: &Pod, status: Value) {
        let patch = json!({ "status": status });
        let patched = self
            .api_of::<Pod>()
            .patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        // The pod may be terminating.
        if let Err(error) = patched {
            assert!(
                matches!(&error, kube::Error::Api(status) if status.code == 404 || status.code == 409),
                "{error}"
            );
        }
    }

    /// Makes an agent lead every partition of the cluster, as agents do when they start.
    pub(crate) async fn lead_partitions(&self) {
        let store = connect(&self.database, &ConnectOptions::default()).await.unwrap();
        let agent = store
            .register_agent(&agent_registration("agent-of-a-test"))
            .await
            .unwrap();
        let snapshot = store.snapshot(None).await.unwrap().unwrap();
        let partitions = snapshot.topics.iter().flat_map(|topic| &topic.partitions);
        let moves: Vec<LeaseMove> = partitions
            .filter(|partition| partition.holder.is_none())
            .map(|partition| LeaseMove {
                partition: partition.uid,
                from: None,
                epoch: partition.epoch,
                to: Some(agent.incarnation),
            })
            .collect();
        store.move_leases(&moves).await.unwrap();
        store.close().await.unwrap();
    }

    /// Acts as a kubelet until every pod of the Deployment is running and ready, and as the agents
    /// in them.
    pub(crate) async fn make_agents_ready(&self) {
        self.condition("MetadataReachable", "True", "MetadataMigrated")
            .await;
        self.lead_partitions().await;
        self.until("the agents' becoming ready", || async {
            for pod in self.pods("app.kubernetes.io/component=agent,app.kubernetes.io/instance=main").await {
                let now = serde_json::to_value(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap())).unwrap();
                let ready = pod.status.as_ref().and_then(|status| status.conditions.as_ref()).is_some_and(|conditions| {
                    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
                });
                if !ready {
                    let conditions = json!([{ "type": "Ready", "status": "True", "lastTransitionTime": now }, { "type": "PodScheduled", "status": "True", "lastTransitionTime": now }]);
                    self.set_status(&pod, json!({ "phase": "Running", "conditions": conditions })).await;
                }
            }
            let deployment = self.deployment().await;
            let wanted = deployment.spec.as_ref()?.replicas?;
            let status = deployment.status?;
            let settled = status.observed_generation >= deployment.metadata.generation
                && status.updated_replicas.unwrap_or(0) == wanted
                && status.available_replicas.unwrap_or(0) == wanted
                && status.replicas.unwrap_or(0) == wanted;
            settled.then_some(())
        })
        .await;
    }

    /// Ends the pod of a Job as a kubelet does, with this termination message. A failed pod is
    /// retried by the Job; the first failure counts.
    pub(crate) async fn end_job(&self, prefix: &str, succeeds: bool, words: &str) {
        self.until("the job's pod", || async {
            let jobs = self.api_of::<Job>().list(&ListParams::default()).await.unwrap().items;
            let job = jobs.into_iter().find(|job| job.name_any().starts_with(prefix) && job.metadata.deletion_timestamp.is_none())?;
            let status = job.status.clone().unwrap_or_default();
            let complete = status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Complete" && condition.status == "True");
            let ended = if succeeds { complete } else { status.failed.unwrap_or(0) > 0 };
            if ended {
                return Some(());
            }
            for pod in self.pods(&format!("batch.kubernetes.io/job-name={}", job.name_any())).await {
                let phase = if succeeds { "Succeeded" } else { "Failed" };
                let code = i32::from(!succeeds);
                let terminated = json!({ "exitCode": code, "message": words, "reason": if succeeds { "Completed" } else { "Error" } });
                let container = json!({ "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": { "terminated": terminated } });
                self.set_status(&pod, json!({ "phase": phase, "containerStatuses": [container] })).await;
            }
            None
        })
        .await;
    }
}
