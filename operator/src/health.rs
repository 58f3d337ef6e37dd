//! Whether the operator lives and whether it is ready, and what is missing. Each part says for itself how it is; the HTTP server and the
//! log tell others. A replica that stands by is ready: it can take over at any moment.

use std::{collections::BTreeMap, fmt};

use parking_lot::RwLock;

/// What the operator needs to do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The API server answers.
    ApiServer,
    /// The custom resource definitions are installed.
    Definitions,
    /// The operator goes on.
    Process,
}

impl Part {
    /// Its name in answers.
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

/// How the parts are.
#[derive(Debug)]
pub struct Health {
    missing: RwLock<BTreeMap<Part, String>>,
    dead: RwLock<Vec<String>>,
}

impl Default for Health {
    /// Just started: nothing has been looked at.
    fn default() -> Self {
        let unknown = [Part::ApiServer, Part::Definitions];
        let missing = unknown
            .into_iter()
            .map(|part| (part, "not looked at yet".to_owned()))
            .collect();
        Self {
            missing: RwLock::new(missing),
            dead: RwLock::default(),
        }
    }
}

impl Health {
    /// The part is as it should be.
    pub fn fine(&self, part: Part) {
        if let Some(was) = self.missing.write().remove(&part) {
            tracing::info!(%part, was, "fine now");
        }
    }

    /// The part is not, and why. Said in the log once for each reason.
    pub fn missing(&self, part: Part, why: impl Into<String>) {
        let why = why.into();
        let before = self.missing.write().insert(part, why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(%part, why, "not ready");
        }
    }

    /// What is missing, and why; nothing when it is ready.
    pub fn reasons(&self) -> BTreeMap<Part, String> {
        self.missing.read().clone()
    }

    /// A loop that must run for ever has ended: the process must be started anew.
    pub fn died(&self, what: impl Into<String>) {
        self.dead.write().push(what.into());
    }

    /// The loops that have ended.
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
