//! Liveness and readiness of the operator, by component. Components report their state here; the
//! HTTP server and the log show it. A standby is ready: it can take over at any time.

use std::{collections::BTreeMap, fmt};

use parking_lot::RwLock;

/// A component whose state determines readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HealthComponent {
    /// The API server answers.
    ApiServer,
    /// The custom resource definitions are installed.
    Definitions,
    /// The process is not shutting down.
    Process,
}

impl HealthComponent {
    /// Returns the name in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiServer => "api-server",
            Self::Definitions => "custom-resource-definitions",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for HealthComponent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of all components.
#[derive(Debug)]
pub struct HealthState {
    unready: RwLock<BTreeMap<HealthComponent, String>>,
    ended_loops: RwLock<Vec<String>>,
}

impl Default for HealthState {
    /// The state after the start: nothing has been checked.
    fn default() -> Self {
        let unknown = [HealthComponent::ApiServer, HealthComponent::Definitions];
        let missing = unknown
            .into_iter()
            .map(|part| (part, "not checked yet".to_owned()))
            .collect();
        Self {
            unready: RwLock::new(missing),
            ended_loops: RwLock::default(),
        }
    }
}

impl HealthState {
    /// Marks a component as ready.
    pub fn mark_healthy(&self, part: HealthComponent) {
        if let Some(was) = self.unready.write().remove(&part) {
            tracing::info!(%part, was, "ready now");
        }
    }

    /// Marks a component as not ready. Logs each new reason once.
    pub fn mark_unready(&self, part: HealthComponent, why: impl Into<String>) {
        let why = why.into();
        let before = self.unready.write().insert(part, why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(%part, why, "not ready");
        }
    }

    /// Returns the components that are not ready with their reasons; empty if the operator is
    /// ready.
    pub fn unready_reasons(&self) -> BTreeMap<HealthComponent, String> {
        self.unready.read().clone()
    }

    /// Reports that a background loop has ended: the process must be restarted.
    pub fn mark_loop_ended(&self, what: impl Into<String>) {
        self.ended_loops.write().push(what.into());
    }

    /// Returns the background loops that have ended.
    pub fn ended_loops(&self) -> Vec<String> {
        self.ended_loops.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_part_is_fine() {
        let health = HealthState::default();
        assert_eq!(health.unready_reasons().len(), 2);
        health.mark_healthy(HealthComponent::ApiServer);
        health.mark_unready(HealthComponent::Definitions, "topics");
        assert_eq!(
            health.unready_reasons(),
            BTreeMap::from([(HealthComponent::Definitions, "topics".to_owned())])
        );
        health.mark_healthy(HealthComponent::Definitions);
        assert!(health.unready_reasons().is_empty() && health.ended_loops().is_empty());
        health.mark_loop_ended("the watch");
        assert_eq!(health.ended_loops(), ["the watch"]);
    }
}
