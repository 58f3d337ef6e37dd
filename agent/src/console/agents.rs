//! Agents and their leases for the console: the live agents, how many partitions each leads, and
//! the leases of one agent.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{Json, extract::State, http::Uri};
use serde::{Deserialize, Serialize};
use streamhouse_core::{Error, ErrorCode, Incarnation};
use streamhouse_metadata::AgentEntry;

use super::{
    ConsoleState,
    api::{ApiResult, PageRange, parse_query},
    overview::millis,
};
use crate::{
    directory::{ClusterView, DirectoryTopic},
    metrics::BackgroundJob,
    topics::require_view,
};

/// Rows in one response: the default and the maximum.
const PAGE_ROWS: (usize, usize) = (100, 500);

#[derive(Debug, Serialize)]
pub(super) struct AgentListPage {
    agents: Vec<AgentRow>,
    /// Lease duration without a renewal.
    lease_ttl_ms: u64,
    /// Time of the last lease renewal of the serving agent, in milliseconds since 1970; `None`
    /// before the first.
    own_renewal_ms: Option<i64>,
    now_ms: i64,
    /// Sealed incarnations whose orphans have not been swept yet.
    ended_lives: usize,
}

#[derive(Debug, Serialize)]
struct AgentRow {
    agent_id: String,
    node_id: i32,
    incarnation: i64,
    version: String,
    zone: String,
    grpc_address: String,
    http_address: String,
    draining: bool,
    /// Whether this row is the agent that serves the request.
    this: bool,
    /// Topic partitions that the agent leads.
    leases: usize,
    /// Coordinator slots that the agent leads.
    group_slots: usize,
}

pub(super) async fn list_agents(State(console): State<Arc<ConsoleState>>) -> ApiResult<AgentListPage> {
    let deps = &console.deps;
    let view = require_view(&deps.directory).await?;
    let me = deps.session.get().map(|life| life.incarnation);
    let leases = count_leases(&view);
    let mut agents: Vec<AgentRow> = view
        .agents()
        .map(|agent| {
            agent_row(
                agent,
                me,
                leases.get(&agent.incarnation).copied().unwrap_or_default(),
            )
        })
        .collect();
    agents.sort_by(|a, b| a.agent_id.cmp(&b.agent_id));
    Ok(Json(AgentListPage {
        agents,
        lease_ttl_ms: millis(deps.lease_ttl),
        own_renewal_ms: deps.metrics.job_last_success_ms(BackgroundJob::Renew),
        now_ms: deps.clock.now_ms(),
        ended_lives: view.snapshot.unswept.len(),
    }))
}

fn agent_row(agent: &AgentEntry, me: Option<Incarnation>, (leases, group_slots): (usize, usize)) -> AgentRow {
    AgentRow {
        agent_id: agent.agent_id.clone(),
        node_id: agent.node_id,
        incarnation: agent.incarnation.0,
        version: agent.version.clone(),
        zone: agent.zone.clone(),
        grpc_address: agent.grpc_address.clone(),
        http_address: agent.http_address.clone(),
        draining: agent.draining,
        this: Some(agent.incarnation) == me,
        leases,
        group_slots,
    }
}

/// Counts the partitions and coordinator slots that each incarnation leads.
fn count_leases(view: &ClusterView) -> HashMap<Incarnation, (usize, usize)> {
    let mut leases: HashMap<Incarnation, (usize, usize)> = HashMap::new();
    for topic in view.topics() {
        for holder in topic.record.partitions.iter().filter_map(|p| p.holder) {
            let (partitions, slots) = leases.entry(holder).or_default();
            *(if topic.record.internal { slots } else { partitions }) += 1;
        }
    }
    leases
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentDetailsQuery {
    id: String,
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct AgentDetails {
    #[serde(flatten)]
    agent: AgentRow,
    /// Total number of leases.
    total: usize,
    #[serde(flatten)]
    part: PageRange,
    partitions: Vec<LeaseRow>,
}

#[derive(Debug, Serialize)]
struct LeaseRow {
    topic: String,
    partition: usize,
    leader_epoch: i32,
    internal: bool,
}

pub(super) async fn get_agent(State(console): State<Arc<ConsoleState>>, uri: Uri) -> ApiResult<AgentDetails> {
    let wanted: AgentDetailsQuery = parse_query(&uri)?;
    let part = PageRange::new(wanted.offset, wanted.limit, PAGE_ROWS.0, PAGE_ROWS.1);
    let view = require_view(&console.deps.directory).await?;
    let agent = view.agents().find(|agent| agent.agent_id == wanted.id);
    let agent = agent.ok_or_else(|| {
        let message = format!(
            "no live agent has the id {:?}; it stopped or its lease expired",
            wanted.id
        );
        Error::new(ErrorCode::UnknownTopicOrPartition, message)
    })?;
    let counts = count_leases(&view)
        .get(&agent.incarnation)
        .copied()
        .unwrap_or_default();
    let topics: BTreeMap<&str, &Arc<DirectoryTopic>> =
        view.topics().map(|topic| (&*topic.record.name, topic)).collect();
    let led = topics.values().flat_map(|topic| {
        let partitions = topic.record.partitions.iter().enumerate();
        partitions
            .filter(|(_, partition)| partition.holder == Some(agent.incarnation))
            .map(|(partition, record)| LeaseRow {
                topic: topic.record.name.clone(),
                partition,
                leader_epoch: record.epoch,
                internal: topic.record.internal,
            })
    });
    Ok(Json(AgentDetails {
        total: counts.0 + counts.1,
        part,
        partitions: part.select(led),
        agent: agent_row(
            agent,
            console.deps.session.get().map(|life| life.incarnation),
            counts,
        ),
    }))
}
