//! The state of the agents' Deployment, and how many agents are enough to serve. Used by the
//! reconciliation and by the status; without side effects.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

/// What is known about the agents' Deployment.
#[derive(Debug, Default)]
pub(super) enum ObservedAgents {
    /// It could not be read.
    #[default]
    Unread,
    /// It does not exist.
    Absent,
    /// It exists.
    Present(Box<Deployment>),
}

impl ObservedAgents {
    /// Returns the state of the Deployment, if it exists.
    pub(super) fn rollout(&self) -> Option<RolloutState> {
        match self {
            Self::Present(deployment) => Some(RolloutState::from_deployment(deployment)),
            Self::Unread | Self::Absent => None,
        }
    }
}

/// State of the agents' Deployment in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RolloutState {
    /// Desired number of agents.
    pub(super) wanted: i32,
    /// Number of agents.
    pub(super) replicas: i32,
    /// Number of agents that have been ready for the minimum time.
    pub(super) available: i32,
    /// Number of ready agents.
    pub(super) ready: i32,
    /// Number of agents with the current pod template.
    pub(super) updated: i32,
    /// Whether these numbers describe the current pod template.
    pub(super) observed: bool,
    /// Whether the progress deadline of the Deployment was exceeded.
    pub(super) overdue: bool,
}

impl RolloutState {
    /// Reads a Deployment.
    pub(super) fn from_deployment(deployment: &Deployment) -> Self {
        let spec = deployment.spec.as_ref();
        let status = deployment.status.clone().unwrap_or_default();
        let overdue = status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "Progressing"
                && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
        });
        Self {
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            replicas: status.replicas.unwrap_or(0),
            available: status.available_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            observed: status.observed_generation >= deployment.metadata.generation,
            overdue,
        }
    }

    /// Returns whether every agent has the current pod template.
    pub(super) fn is_complete(self) -> bool {
        self.observed
            && self.updated == self.wanted
            && self.replicas == self.wanted
            && self.available >= self.wanted
    }

    /// Returns whether at least `enough` agents are available, of whichever pod template.
    pub(super) fn is_serving(self, enough: i32) -> bool {
        self.wanted > 0 && self.available >= enough
    }
}

/// Returns how many agents are enough to serve: those that are left during a voluntary disruption,
/// and at least one. Agents that are being added do not count until they have been complete once:
/// `settled` is the number of agents at the last complete rollout.
pub(super) fn enough_agents(wanted: i32, settled: Option<i32>, max_unavailable: Option<&Value>) -> i32 {
    let base = settled.map_or(wanted, |settled| settled.min(wanted));
    let allowed = match max_unavailable {
        Some(Value::Number(number)) => number.as_i64().unwrap_or(1),
        Some(Value::String(share)) => {
            let percent: i64 = share.trim_end_matches('%').parse().unwrap_or(0);
            // As Kubernetes does.
            (i64::from(base) * percent + 99) / 100
        }
        _ => 1,
    };
    let allowed = i32::try_from(allowed).unwrap_or(i32::MAX);
    base.saturating_sub(allowed).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn enough_is_what_a_disruption_leaves_and_at_least_one() {
        for (wanted, settled, max_unavailable, enough) in [
            (3, None, Some(json!(1)), 2),
            (3, None, None, 2),
            (1, None, Some(json!(1)), 1),
            (3, None, Some(json!(0)), 3),
            (10, None, Some(json!("25%")), 7),
            (3, None, Some(json!("100%")), 1),
            // Agents that are being added are not missed.
            (6, Some(3), Some(json!(1)), 2),
            (2, Some(5), Some(json!(1)), 1),
        ] {
            let found = enough_agents(wanted, settled, max_unavailable.as_ref());
            assert_eq!(found, enough, "{wanted} {settled:?} {max_unavailable:?}");
        }
    }
}
