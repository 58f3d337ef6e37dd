//! Agents as Kafka's clients see them: brokers with a number, a host and a port. Which host and
//! port depends on the listener by which a client has connected.

use std::{collections::BTreeSet, sync::Arc};

use streamhouse_core::protocol::v1;
use streamhouse_metadata::{AgentEntry, PartitionEntry};

use crate::{
    directory::ClusterView,
    listeners::{ListenerAddressBook, ListenerAddresses},
};

/// The addresses at which the clients of one listener reach the agents: those that the agents
/// advertise, unless the listener is one of the listeners file.
#[derive(Debug, Clone, Default)]
pub struct BrokerAddresses {
    listed: Option<(Arc<ListenerAddressBook>, Arc<str>)>,
}

impl BrokerAddresses {
    /// Returns the addresses that the listeners file has for a listener, as of each request. An
    /// agent without one is no broker to the listener's clients.
    pub fn listed(book: Arc<ListenerAddressBook>, listener: &str) -> Self {
        Self {
            listed: Some((book, listener.into())),
        }
    }

    fn current(&self) -> CurrentAddresses {
        let listed = self.listed.as_ref();
        CurrentAddresses(listed.map(|(book, listener)| book.addresses(listener)))
    }
}

/// The addresses of one moment.
struct CurrentAddresses(Option<Arc<ListenerAddresses>>);

impl CurrentAddresses {
    fn address_of<'a>(&'a self, agent: &'a AgentEntry) -> Option<&'a str> {
        match &self.0 {
            Some(listed) => listed.agents.get(&agent.agent_id).map(String::as_str),
            None => Some(&agent.kafka_address),
        }
    }

    /// Returns the broker of an agent, if the listener's clients can reach it.
    fn broker(&self, agent: &AgentEntry) -> Option<KafkaBroker> {
        let (host, port) = self.address_of(agent)?.rsplit_once(':')?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Some(KafkaBroker {
            node_id: agent.node_id,
            host: host.to_owned(),
            port: port.parse().ok()?,
            rack: Some(agent.zone.clone()).filter(|zone| !zone.is_empty()),
        })
    }
}

/// A live agent with a Kafka address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KafkaBroker {
    pub(super) node_id: i32,
    pub(super) host: String,
    pub(super) port: i32,
    /// The agent's zone, if it has one.
    pub(super) rack: Option<String>,
}

/// Returns the brokers in the order of their numbers.
pub(super) fn all(view: &ClusterView, addresses: &BrokerAddresses) -> Vec<KafkaBroker> {
    let addresses = addresses.current();
    let brokers = view.agents().filter_map(|agent| addresses.broker(agent));
    let mut brokers: Vec<KafkaBroker> = brokers.collect();
    brokers.sort_by_key(|broker| broker.node_id);
    brokers
}

/// Returns the broker that leads a partition.
pub(super) fn leader(
    view: &ClusterView,
    addresses: &BrokerAddresses,
    record: &PartitionEntry,
) -> Option<KafkaBroker> {
    let agent = view.agent(record.holder?)?;
    addresses.current().broker(agent)
}

/// Returns the broker with this agent id.
pub(super) fn by_agent_id(
    view: &ClusterView,
    addresses: &BrokerAddresses,
    leader: &v1::Leader,
) -> Option<KafkaBroker> {
    let agent = view.agents().find(|agent| agent.agent_id == leader.agent_id)?;
    addresses.current().broker(agent)
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
