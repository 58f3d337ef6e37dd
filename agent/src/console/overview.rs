//! The console's overview: the cluster in numbers, the serving agent, its readiness conditions and
//! its stores.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;

use super::{ConsoleState, api::ApiResult};
use crate::health::ReadinessCondition;

#[derive(Debug, Serialize)]
pub(super) struct ClusterOverview {
    cluster_id: String,
    /// Wall clock of the serving agent.
    now_ms: i64,
    /// Time since this agent saw the cluster change: a topic, an agent or a leader.
    changed_ms_ago: u64,
    counts: ClusterCounts,
    agent: ServingAgent,
    ready: bool,
    conditions: Vec<ConditionRow>,
    object_store: String,
    metadata_store: &'static str,
}

#[derive(Debug, Serialize)]
struct ClusterCounts {
    agents: usize,
    topics: usize,
    partitions: usize,
    /// Partitions without a leader.
    leaderless: usize,
}

/// The agent that serves the request.
#[derive(Debug, Serialize)]
pub(super) struct ServingAgent {
    agent_id: String,
    /// 0 while the agent is not registered.
    incarnation: i64,
    version: &'static str,
    uptime_ms: u64,
}

#[derive(Debug, Serialize)]
struct ConditionRow {
    condition: &'static str,
    met: bool,
    reason: Option<String>,
}

pub(super) async fn get_overview(State(console): State<Arc<ConsoleState>>) -> ApiResult<ClusterOverview> {
    let deps = &console.deps;
    let view = deps.directory.view();
    let (led, leaderless) = view.count_led(false);
    let counts = ClusterCounts {
        agents: view.agents().count(),
        topics: view.topics().filter(|topic| !topic.record.internal).count(),
        partitions: led + leaderless,
        leaderless,
    };
    let unmet = deps.health.reasons();
    let conditions = ReadinessCondition::ALL.into_iter().map(|condition| {
        let reason = unmet.iter().find(|(other, _)| *other == condition);
        ConditionRow {
            condition: condition.name(),
            met: reason.is_none(),
            reason: reason.map(|(_, why)| why.clone()),
        }
    });
    Ok(Json(ClusterOverview {
        cluster_id: view.cluster_id.clone(),
        now_ms: deps.clock.now_ms(),
        changed_ms_ago: millis(view.age()),
        counts,
        agent: serving_agent(&console),
        ready: unmet.is_empty(),
        conditions: conditions.collect(),
        object_store: deps.object_store.clone(),
        metadata_store: deps.metadata_store,
    }))
}

/// Describes the serving agent. Pages use it to notice that another agent serves them.
pub(super) fn serving_agent(console: &ConsoleState) -> ServingAgent {
    let incarnation = console.deps.session.get().map_or(0, |life| life.incarnation.0);
    let registered = console
        .deps
        .session
        .get()
        .and_then(|life| console.deps.directory.view().agent(life.incarnation).cloned());
    ServingAgent {
        agent_id: registered.map_or_else(|| console.deps.agent_id.clone(), |agent| agent.agent_id),
        incarnation,
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: millis(console.started.elapsed()),
    }
}

pub(super) fn millis(duration: tokio::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
