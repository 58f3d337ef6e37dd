//! Owns the readiness of this agent, with the reasons why it is not ready. Reported by the lease
//! keeper, the checks at start and the drain; read by `GET /ready`, gRPC health and the admin
//! calls.

use std::{collections::BTreeMap, fmt};

use parking_lot::Mutex;
use tokio::sync::watch;

/// A condition of readiness, in the order in which they are usually met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadinessCondition {
    /// The object store was checked and works.
    ObjectStore,
    /// The metadata store answers.
    Metadata,
    /// The two stores belong to one cluster, and the metadata store is not an older copy.
    Cluster,
    /// The agent is registered and its lease is renewed.
    Joined,
    /// The agent leads its share of the partitions.
    Leases,
    /// Produced records are stored and committed in time.
    Writes,
    /// The agent is not shutting down.
    Serving,
}

impl ReadinessCondition {
    /// All conditions.
    pub const ALL: [Self; 7] = [
        Self::ObjectStore,
        Self::Metadata,
        Self::Cluster,
        Self::Joined,
        Self::Leases,
        Self::Writes,
        Self::Serving,
    ];

    /// Returns the name in responses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ObjectStore => "object_store",
            Self::Metadata => "metadata",
            Self::Cluster => "cluster",
            Self::Joined => "joined",
            Self::Leases => "leases",
            Self::Writes => "writes",
            Self::Serving => "serving",
        }
    }

    const fn initial_reason(self) -> Option<&'static str> {
        match self {
            Self::ObjectStore => Some("not checked yet"),
            Self::Metadata => Some("not reached yet"),
            Self::Cluster => Some("not verified yet"),
            Self::Joined => Some("not registered yet"),
            Self::Leases => Some("no leases yet"),
            Self::Writes | Self::Serving => None,
        }
    }
}

impl fmt::Display for ReadinessCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The unmet conditions, each with the reason.
#[derive(Debug)]
pub struct AgentHealth {
    unmet: Mutex<BTreeMap<ReadinessCondition, String>>,
    ready: watch::Sender<bool>,
    changed: watch::Sender<()>,
}

impl Default for AgentHealth {
    fn default() -> Self {
        let unmet = ReadinessCondition::ALL
            .into_iter()
            .filter_map(|c| c.initial_reason().map(|why| (c, why.to_owned())))
            .collect();
        Self {
            unmet: Mutex::new(unmet),
            ready: watch::Sender::new(false),
            changed: watch::Sender::new(()),
        }
    }
}

impl AgentHealth {
    /// Marks the condition as met. Returns `true` if it was unmet.
    pub fn set_met(&self, condition: ReadinessCondition) -> bool {
        let mut unmet = self.unmet.lock();
        let changed = unmet.remove(&condition).is_some();
        self.publish(&unmet);
        changed
    }

    /// Marks the condition as unmet. Returns `true` if it was met: the time to log it.
    pub fn set_unmet(&self, condition: ReadinessCondition, why: impl Into<String>) -> bool {
        let mut unmet = self.unmet.lock();
        let changed = unmet.insert(condition, why.into()).is_none();
        self.publish(&unmet);
        changed
    }

    fn publish(&self, unmet: &BTreeMap<ReadinessCondition, String>) {
        let now = unmet.is_empty();
        self.ready
            .send_if_modified(|ready| std::mem::replace(ready, now) != now);
        self.changed.send_replace(());
    }

    /// Returns why this agent cannot store records, if a store is the cause.
    pub fn storage_problem(&self) -> Option<String> {
        let causes = [
            ReadinessCondition::ObjectStore,
            ReadinessCondition::Writes,
            ReadinessCondition::Metadata,
        ];
        causes.into_iter().find_map(|condition| {
            let why = self.reason(condition)?;
            Some(match condition {
                ReadinessCondition::ObjectStore => format!("the object store: {why}"),
                ReadinessCondition::Metadata => format!("the metadata store: {why}"),
                _ => why,
            })
        })
    }

    /// Returns why a condition is unmet; `None` if it is met.
    pub fn reason(&self, condition: ReadinessCondition) -> Option<String> {
        self.unmet.lock().get(&condition).cloned()
    }

    /// Waits until the condition is met.
    pub async fn wait_met(&self, condition: ReadinessCondition) {
        let mut changed = self.changed.subscribe();
        while self.unmet.lock().contains_key(&condition) {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns whether every condition is met.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns whether the agent is shutting down and hands its leases over.
    pub fn is_draining(&self) -> bool {
        self.unmet.lock().contains_key(&ReadinessCondition::Serving)
    }

    /// Returns the unmet conditions with their reasons.
    pub fn reasons(&self) -> Vec<(ReadinessCondition, String)> {
        self.unmet
            .lock()
            .iter()
            .map(|(condition, why)| (*condition, why.clone()))
            .collect()
    }

    /// Returns a receiver that follows readiness.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_that_nothing_is_missing() {
        let health = AgentHealth::default();
        assert!(!health.is_ready());
        for condition in ReadinessCondition::ALL {
            health.set_met(condition);
        }
        assert!(health.is_ready() && health.reasons().is_empty());
        assert!(health.set_unmet(ReadinessCondition::Metadata, "no answer"));
        assert!(!health.set_unmet(ReadinessCondition::Metadata, "still no answer"));
        assert_eq!(
            health.reasons(),
            [(ReadinessCondition::Metadata, "still no answer".to_owned())]
        );
        assert!(!health.is_ready() && !health.is_draining());
        assert!(health.set_met(ReadinessCondition::Metadata) && health.is_ready());
        health.set_unmet(ReadinessCondition::Serving, "draining");
        assert!(health.is_draining() && !health.is_ready());
    }
}
