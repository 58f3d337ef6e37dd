//! Seals the incarnations of agents whose pods have ended, so that their leases need not expire:
//! Kubernetes knows first. Called by the reconciliation while agents are missing. Only an
//! optimization: without it the leases expire.
//!
//! The name of a pod is the id of its agent, and a Deployment never reuses a name, so an agent with
//! that id belongs to the pod. A pod that has ended is certain; a pod that does not exist could
//! belong to another cluster, so in that case the lease must also have missed a renewal.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ListParams};
use streamhouse_metadata::{AgentEntry, Incarnation, MetadataStore, SilenceThreshold};
use tokio::time::timeout;

use crate::{
    context::OperatorContext,
    metadata_stores::{ClusterKey, StoreAccess},
};

/// Time limit of all calls to the metadata store.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// An incarnation whose agent no longer runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndedIncarnation {
    /// Its pod has ended.
    Confirmed(Incarnation),
    /// Its pod does not exist.
    Presumed(Incarnation),
}

/// Seals the incarnations of ended pods.
pub(super) async fn seal_ended_incarnations(
    context: &OperatorContext,
    key: &ClusterKey,
    deployment: &str,
    selector: &str,
) -> kube::Result<()> {
    let Some(StoreAccess::Open(store)) = context.stores.get(key) else {
        return Ok(());
    };
    // Read before the pods: an agent that has registered has a pod by then.
    let Ok(Ok(Some(snapshot))) = timeout(STORE_TIMEOUT, store.snapshot(None)).await else {
        return Ok(());
    };
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods = pods.list(&ListParams::default().labels(selector)).await?.items;
    let lives = find_ended(&snapshot.agents, &pods, deployment);
    if timeout(STORE_TIMEOUT, seal_all(&*store, key, &lives))
        .await
        .is_err()
    {
        tracing::debug!(cluster = %key, "the metadata store does not answer; the leases of ended pods will expire");
    }
    Ok(())
}

async fn seal_all(store: &dyn MetadataStore, key: &ClusterKey, lives: &[EndedIncarnation]) {
    for life in lives {
        let (incarnation, sealed) = match *life {
            EndedIncarnation::Confirmed(incarnation) => {
                (incarnation, store.seal(incarnation).await.map(|()| true))
            }
            EndedIncarnation::Presumed(incarnation) => (
                incarnation,
                store
                    .seal_if_silent(incarnation, SilenceThreshold::HalfLease)
                    .await,
            ),
        };
        match sealed {
            Ok(true) => {
                let incarnation = incarnation.0;
                tracing::info!(cluster = %key, incarnation, "sealed the incarnation of an agent whose pod has ended");
            }
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(cluster = %key, %error, "cannot seal the incarnation of an ended pod; its lease will expire")
            }
        }
    }
}

/// Returns the incarnations whose pods have ended.
fn find_ended(agents: &[AgentEntry], pods: &[Pod], deployment: &str) -> Vec<EndedIncarnation> {
    let ours = |agent: &&AgentEntry| {
        let rest = agent.agent_id.strip_prefix(deployment);
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let state = |agent: &AgentEntry| {
        let Some(pod) = pods.iter().find(|pod| pod.name_any() == agent.agent_id) else {
            return Some(EndedIncarnation::Presumed(agent.incarnation));
        };
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
            .then_some(EndedIncarnation::Confirmed(agent.incarnation))
    };
    agents.iter().filter(ours).filter_map(state).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn agent(incarnation: i64, agent_id: &str) -> AgentEntry {
        AgentEntry {
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
            find_ended(&agents, &pods, "main-agent"),
            [
                EndedIncarnation::Confirmed(Incarnation(2)),
                EndedIncarnation::Presumed(Incarnation(3)),
                EndedIncarnation::Confirmed(Incarnation(4)),
            ]
        );
    }
}
