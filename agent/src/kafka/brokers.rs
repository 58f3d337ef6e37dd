//! Agents as Kafka's clients see them: brokers with a number, a host and a port.

use std::collections::BTreeSet;

use streamhouse_core::protocol::v1;
use streamhouse_metadata::{AgentEntry, PartitionEntry};

use crate::directory::ClusterView;

/// A live agent with a Kafka address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KafkaBroker {
    pub(super) node_id: i32,
    pub(super) host: String,
    pub(super) port: i32,
    /// The agent's zone, if it has one.
    pub(super) rack: Option<String>,
}

impl KafkaBroker {
    /// Returns the broker of an agent, if it has a Kafka listener.
    fn of(agent: &AgentEntry) -> Option<Self> {
        let (host, port) = agent.kafka_address.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Some(Self {
            node_id: agent.node_id,
            host: host.to_owned(),
            port: port.parse().ok()?,
            rack: Some(agent.zone.clone()).filter(|zone| !zone.is_empty()),
        })
    }
}

/// Returns the brokers in the order of their numbers.
pub(super) fn all(view: &ClusterView) -> Vec<KafkaBroker> {
    let mut brokers: Vec<KafkaBroker> = view.agents().filter_map(KafkaBroker::of).collect();
    brokers.sort_by_key(|broker| broker.node_id);
    brokers
}

/// Returns the broker that leads a partition.
pub(super) fn leader(view: &ClusterView, record: &PartitionEntry) -> Option<KafkaBroker> {
    view.agent(record.holder?).and_then(KafkaBroker::of)
}

/// Returns the broker with this agent id.
pub(super) fn by_agent_id(view: &ClusterView, leader: &v1::Leader) -> Option<KafkaBroker> {
    let agent = view.agents().find(|agent| agent.agent_id == leader.agent_id)?;
    KafkaBroker::of(agent)
}

/// Returns the brokers that serve a partition: its leader, and the first of each other zone, from
/// which consumers of that zone read.
pub(super) fn replicas(brokers: &[KafkaBroker], leader: &KafkaBroker) -> Vec<i32> {
    let mut zones: BTreeSet<&str> = leader.rack.as_deref().into_iter().collect();
    let others = brokers.iter().filter(|broker| {
        let zone = broker.rack.as_deref();
        leader.rack.is_some() && zone.is_some_and(|zone| zones.insert(zone))
    });
    let mut replicas = vec![leader.node_id];
    replicas.extend(others.map(|broker| broker.node_id));
    replicas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(node_id: i32, rack: Option<&str>) -> KafkaBroker {
        KafkaBroker {
            node_id,
            host: "h".to_owned(),
            port: 9092,
            rack: rack.map(str::to_owned),
        }
    }

    #[test]
    fn a_partition_is_read_in_each_zone() {
        let brokers = [
            broker(1, Some("a")),
            broker(2, Some("a")),
            broker(3, Some("b")),
            broker(4, Some("b")),
            broker(5, None),
        ];
        assert_eq!(replicas(&brokers, &brokers[1]), [2, 3]);
        assert_eq!(replicas(&brokers, &brokers[3]), [4, 1]);
        assert_eq!(replicas(&brokers, &brokers[4]), [5]);
    }
}
