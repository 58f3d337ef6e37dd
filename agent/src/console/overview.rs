//! The first page: the cluster in numbers, this agent, what its readiness needs, its stores.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;

use super::{Console, answer::Answer};
use crate::{health::Condition, node::Node};

#[derive(Debug, Serialize)]
pub(super) struct Overview {
    cluster_id: String,
    /// This agent's time of day.
    now_ms: i64,
    /// How long ago this agent saw the cluster change: a topic, an agent or a leader.
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
    /// Partitions that nobody leads at the moment.
    leaderless: usize,
}

/// The agent that answers.
#[derive(Debug, Serialize)]
pub(super) struct This {
    agent_id: String,
    /// 0 while it is not registered.
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

/// The agent that answers. Pages use it to see that another one does.
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

/// Which database it is; where it is and who logs in is nobody's business here.
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
