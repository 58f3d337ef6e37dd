//! Liveness and readiness of the operator, by component. Components report their state here; the
//! HTTP server and the log show it. A standby is ready: it can take over at any time.

use std::{collections::BTreeMap, fmt};

use parking_lot::RwLock;

/// A component whose state determines readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The API server answers.
    ApiServer,
    /// The custom resource definitions are installed.
    Definitions,
    /// The process is not shutting down.
    Process,
}

impl Part {
    /// Returns the name in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiServer => "api-server",
            Self::Definitions => "custom-resource-definitions",
            Self::Process => "process",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of all components.
#[derive(Debug)]
pub struct Health {
    missing: RwLock<BTreeMap<Part, String>>,
    dead: RwLock<Vec<String>>,
}

impl Default for Health {
    /// The state after the start: nothing has been checked.
    fn default() -> Self {
        let unknown = [Part::ApiServer, Part::Definitions];
        let missing = unknown
            .into_iter()
            .map(|part| (part, "not checked yet".to_owned()))
            .collect();
        Self {
            missing: RwLock::new(missing),
            dead: RwLock::default(),
        }
    }
}

impl Health {
    /// Marks a component as ready.
    pub fn fine(&self, part: Part) {
        if let Some(was) = self.missing.write().remove(&part) {
            tracing::info!(%part, was, "ready now");
        }
    }

    /// Marks a component as not ready. Logs each new reason once.
    pub fn missing(&self, part: Part, why: impl Into<String>) {
        let why = why.into();
        let before = self.missing.write().insert(part, why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(%part, why, "not ready");
        }
    }

    /// Returns the components that are not ready with their reasons; empty if the operator is
    /// ready.
    pub fn reasons(&self) -> BTreeMap<Part, String> {
        self.missing.read().clone()
    }

    /// Reports that a background loop has ended: the process must be restarted.
    pub fn died(&self, what: impl Into<String>) {
        self.dead.write().push(what.into());
    }

    /// Returns the background loops that have ended.
    pub fn dead(&self) -> Vec<String> {
        self.dead.read().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_part_is_fine() {
        let health = Health::default();
        assert_eq!(health.reasons().len(), 2);
        health.fine(Part::ApiServer);
        health.missing(Part::Definitions, "topics");
        assert_eq!(
            health.reasons(),
            BTreeMap::from([(Part::Definitions, "topics".to_owned())])
        );
        health.fine(Part::Definitions);
        assert!(health.reasons().is_empty() && health.dead().is_empty());
        health.died("the watch");
        assert_eq!(health.dead(), ["the watch"]);
    }
}
