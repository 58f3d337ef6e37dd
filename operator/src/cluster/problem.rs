//! Why a step of a cluster's reconciliation cannot go on, as its status will say it. Made by `validate` and by the steps that read.

use crate::crd::{ConditionType, Reason};

/// What is wrong: the condition that it makes false, why, and what to do. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// The condition.
    pub condition: ConditionType,
    /// Its reason.
    pub reason: Reason,
    /// Its message.
    pub message: String,
}

impl Problem {
    /// The spec contradicts itself, or says something that cannot be.
    pub fn spec(message: impl Into<String>) -> Self {
        Self {
            condition: ConditionType::Ready,
            reason: Reason::InvalidSpec,
            message: message.into(),
        }
    }
}
