//! The console's overview: the cluster in numbers, the serving agent, its readiness conditions and
//! its stores.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;

use super::{Console, answer::Answer};
use crate::{health::Condition, node::Node};

#[derive(Debug, Serialize)]
pub(super) struct Overview {
    cluster_id: String,
    /// Wall clock of the serving agent.
    now_ms: i64,
    /// Time since this agent saw the cluster change: a topic, an agent or a leader.
    changed_ms_ago: u64,
    counts: Counts,
    agent: This,
    ready: bool,
    conditions: Vec<Needed>,
    object_store: String,
    metadata_store: &'static str,
}

#[derive(Debug, Serialize)]
struct Counts {
    agents: usize,
    topics: usize,
    partitions: usize,
    /// Partitions without a leader.
    leaderless: usize,
}

/// The agent that serves the request.
#[derive(Debug, Serialize)]
pub(super) struct This {
    agent_id: String,
    /// 0 while the agent is not registered.
    incarnation: i64,
    version: &'static str,
    uptime_ms: u64,
}

#[derive(Debug, Serialize)]
struct Needed {
    condition: &'static str,
    met: bool,
    reason: Option<String>,
}

pub(super) async fn overview(State(console): State<Arc<Console>>) -> Answer<Overview> {
    let node = &console.node;
    let view = node.directory.view();
    let (led, leaderless) = view.led(false);
    let counts = Counts {
        agents: view.agents().count(),
        topics: view.topics().filter(|topic| !topic.record.internal).count(),
        partitions: led + leaderless,
        leaderless,
    };
    let unmet = node.health.reasons();
    let conditions = Condition::ALL.into_iter().map(|condition| {
        let reason = unmet.iter().find(|(other, _)| *other == condition);
        Needed {
            condition: condition.name(),
            met: reason.is_none(),
            reason: reason.map(|(_, why)| why.clone()),
        }
    });
    Ok(Json(Overview {
        cluster_id: view.cluster_id.clone(),
        now_ms: node.clock.now_ms(),
        changed_ms_ago: millis(view.age()),
        counts,
        agent: this(&console),
        ready: unmet.is_empty(),
        conditions: conditions.collect(),
        object_store: node.store.describe(),
        metadata_store: kind_of_metadata(node),
    }))
}

/// Describes the serving agent. Pages use it to notice that another agent serves them.
pub(super) fn this(console: &Console) -> This {
    let incarnation = console.node.life().map_or(0, |life| life.incarnation.0);
    let registered = console
        .node
        .life()
        .and_then(|life| console.node.directory.view().agent(life.incarnation).cloned());
    This {
        agent_id: registered.map_or_else(|| console.node.settings.agent_id.clone(), |agent| agent.agent_id),
        incarnation,
        version: env!("CARGO_PKG_VERSION"),
        uptime_ms: millis(console.started.elapsed()),
    }
}

/// Returns the kind of the database. Its address and user are not exposed.
fn kind_of_metadata(node: &Node) -> &'static str {
    if node.settings.metadata_url.expose().starts_with("sqlite:") {
        "SQLite"
    } else {
        "PostgreSQL"
    }
}

pub(super) fn millis(duration: tokio::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
