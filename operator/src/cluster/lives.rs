//! Ends the lives of agents whose pods have ended, so that nobody waits for their leases to expire: Kubernetes knows it
//! first. Called by the reconciliation while agents are missing. Only tidying: what fails here, the leases do later.
//!
//! A pod's name is its agent's id, and a Deployment gives no name twice, so an agent of that name is the pod's. That a pod
//! has ended is certain; that there is none of the name could be another cluster's doing, so there the lease must have
//! missed a renewal as well.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use streamhouse_metadata::{AgentRecord, Incarnation, MetadataStore, Silence};
use tokio::time::timeout;

use crate::{
    context::Context,
    stores::{Access, ClusterKey},
};

/// How long the metadata store may take for all of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A life whose agent runs no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Its pod has ended.
    Surely(Incarnation),
    /// There is no pod of its name.
    Probably(Incarnation),
}

/// Ends what has ended.
pub(super) async fn end(
    context: &Context,
    key: &ClusterKey,
    deployment: &str,
    selector: &str,
) -> kube::Result<()> {
    let Some(Access::Open(store)) = context.stores.get(key) else {
        return Ok(());
    };
    // Before the pods: whoever registered has a pod by then.
    let Ok(Ok(Some(snapshot))) = timeout(PATIENCE, store.snapshot(None)).await else {
        return Ok(());
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = pods.list(&ListParams::default().labels(selector)).await?.items;
    let lives = ended(&snapshot.agents, &pods, deployment);
    if timeout(PATIENCE, seal(&*store, key, &lives)).await.is_err() {
        tracing::debug!(cluster = %key, "lives of ended pods are left to their leases: the store does not answer");
    }
    Ok(())
}

async fn seal(store: &dyn MetadataStore, key: &ClusterKey, lives: &[Ended]) {
    for life in lives {
        let (incarnation, sealed) = match *life {
            Ended::Surely(incarnation) => (incarnation, store.seal(incarnation).await.map(|()| true)),
            Ended::Probably(incarnation) => (
                incarnation,
                store.seal_silent(incarnation, Silence::HalfLease).await,
            ),
        };
        match sealed {
            Ok(true) => {
                let incarnation = incarnation.0;
                tracing::info!(cluster = %key, incarnation, "ended the life of an agent whose pod has ended");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(cluster = %key, %error, "the life of an ended pod is left to its lease")
            }
        }
    }
}

/// The lives whose pods have ended.
fn ended(agents: &[AgentRecord], pods: &[Pod], deployment: &str) -> Vec<Ended> {
    let ours = |agent: &&AgentRecord| {
        let rest = agent.agent_id.strip_prefix(deployment);
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let state = |agent: &AgentRecord| {
        let Some(pod) = pods.iter().find(|pod| pod.name_any() == agent.agent_id) else {
            return Some(Ended::Probably(agent.incarnation));
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed")).then_some(Ended::Surely(agent.incarnation))
    };
    agents.iter().filter(ours).filter_map(state).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(incarnation: i64, agent_id: &str) -> AgentRecord {
        AgentRecord {
            incarnation: Incarnation(incarnation),
            node_id: 1,
            agent_id: agent_id.to_owned(),
            grpc_address: String::new(),
            http_address: String::new(),
            kafka_address: String::new(),
            zone: String::new(),
            version: String::new(),
            draining: false,
        }
    }

    fn pod(name: &str, phase: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": name }, "status": { "phase": phase } })).unwrap()
    }

    #[test]
    fn a_life_ends_with_its_pod_and_no_other_does() {
        let agents = [
            agent(1, "main-agent-5d8f-runs"),
            agent(2, "main-agent-5d8f-failed"),
            agent(3, "main-agent-5d8f-gone"),
            agent(4, "main-agent-5d8f-done"),
            agent(5, "main-agents-laptop"),
            agent(6, "elsewhere"),
        ];
        let pods = [
            pod("main-agent-5d8f-runs", "Running"),
            pod("main-agent-5d8f-failed", "Failed"),
            pod("main-agent-5d8f-done", "Succeeded"),
            pod("main-agent-5d8f-new", "Pending"),
        ];
        assert_eq!(
            ended(&agents, &pods, "main-agent"),
            [
                Ended::Surely(Incarnation(2)),
                Ended::Probably(Incarnation(3)),
                Ended::Surely(Incarnation(4)),
            ]
        );
    }
}
