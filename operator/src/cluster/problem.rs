//! A problem that prevents a step of a cluster's reconciliation, in the form of its condition.
//! Created by `validate` and by the steps that read.

use crate::crd::{ConditionReason, ConditionType};

/// A problem: the affected condition, its reason, and what to do. Never contains a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClusterProblem {
    /// The affected condition.
    pub condition: ConditionType,
    /// The reason of the condition.
    pub reason: ConditionReason,
    /// The message of the condition.
    pub message: String,
}

impl ClusterProblem {
    /// Creates a problem of an invalid spec.
    pub fn invalid_spec(message: impl Into<String>) -> Self {
        Self {
            condition: ConditionType::Ready,
            reason: ConditionReason::InvalidSpec,
            message: message.into(),
        }
    }
}
