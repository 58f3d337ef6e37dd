//! Conditions of a status: sets, finds and sorts them. Used wherever a status is computed. The
//! transition time changes only with the condition's status, so the same facts always give the same
//! conditions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::crd::{ConditionReason, ConditionType};

/// Messages are truncated to this length; the API server accepts 32 KiB.
const MAX_MESSAGE_CHARS: usize = 1024;

/// Status of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    /// The condition holds.
    True,
    /// The condition does not hold.
    False,
    /// It is unknown whether the condition holds.
    Unknown,
}

impl ConditionStatus {
    /// Returns the value in the resource.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for ConditionStatus {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}

/// The conditions of one resource while its status is computed.
#[derive(Debug, Clone)]
pub struct ConditionSet {
    conditions: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

impl ConditionSet {
    /// Starts with the stored conditions. `generation` is that of the observed spec.
    pub fn from_stored(stored: &[Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self {
            conditions: stored.to_vec(),
            generation,
            now,
        }
    }

    /// Sets a condition.
    pub fn set(
        &mut self,
        kind: ConditionType,
        state: ConditionStatus,
        reason: ConditionReason,
        message: impl Into<String>,
    ) {
        let mut message: String = message.into();
        if let Some((cut, _)) = message.char_indices().nth(MAX_MESSAGE_CHARS) {
            message.truncate(cut);
            message.push('…');
        }
        let old = self
            .conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind.as_str());
        let since = old
            .as_ref()
            .filter(|old| old.status == state.as_str())
            .map_or(Time(self.now), |old| old.last_transition_time.clone());
        let new = Condition {
            type_: kind.as_str().to_owned(),
            status: state.as_str().to_owned(),
            reason: reason.as_str().to_owned(),
            message,
            observed_generation: self.generation,
            last_transition_time: since,
        };
        match old {
            Some(old) => *old = new,
            None => self.conditions.push(new),
        }
    }

    /// Returns the condition of this type, as stored or as set since.
    pub fn get(&self, kind: ConditionType) -> Option<&Condition> {
        find_condition(&self.conditions, kind)
    }

    /// Returns whether the condition of this type is present and holds.
    pub fn is_true(&self, kind: ConditionType) -> bool {
        self.get(kind)
            .is_some_and(|condition| condition.status == ConditionStatus::True.as_str())
    }

    /// Removes a condition.
    pub fn remove(&mut self, kind: ConditionType) {
        self.conditions
            .retain(|condition| condition.type_ != kind.as_str());
    }

    /// Returns the conditions in the order of [`ConditionType::ALL`].
    pub fn into_sorted_vec(mut self) -> Vec<Condition> {
        let place = |condition: &Condition| {
            ConditionType::ALL
                .iter()
                .position(|kind| kind.as_str() == condition.type_)
                .unwrap_or(ConditionType::ALL.len())
        };
        self.conditions.sort_by_key(place);
        self.conditions
    }
}

/// Returns the condition of this type, if present.
pub fn find_condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions
        .iter()
        .find(|condition| condition.type_ == kind.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_changes_with_the_status_only() {
        let (first, later) = (
            Timestamp::from_second(1).unwrap(),
            Timestamp::from_second(2).unwrap(),
        );
        let mut conditions = ConditionSet::from_stored(&[], Some(1), first);
        conditions.set(
            ConditionType::Ready,
            ConditionStatus::False,
            ConditionReason::Progressing,
            "starting",
        );
        let stored = conditions.into_sorted_vec();
        let mut conditions = ConditionSet::from_stored(&stored, Some(2), later);
        conditions.set(
            ConditionType::Ready,
            ConditionStatus::False,
            ConditionReason::AgentsNotReady,
            "1 of 3",
        );
        let stored = conditions.into_sorted_vec();
        assert_eq!(stored[0].last_transition_time, Time(first));
        assert_eq!(
            (stored[0].observed_generation, stored[0].message.as_str()),
            (Some(2), "1 of 3")
        );
        let mut conditions = ConditionSet::from_stored(&stored, Some(2), later);
        conditions.set(
            ConditionType::Ready,
            ConditionStatus::True,
            ConditionReason::AgentsReady,
            "",
        );
        assert_eq!(
            find_condition(&conditions.into_sorted_vec(), ConditionType::Ready)
                .unwrap()
                .last_transition_time,
            Time(later)
        );
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut conditions = ConditionSet::from_stored(&[], None, Timestamp::UNIX_EPOCH);
        conditions.set(
            ConditionType::Ready,
            ConditionStatus::False,
            ConditionReason::InternalError,
            "ä".repeat(5000),
        );
        assert_eq!(
            conditions.into_sorted_vec()[0].message.chars().count(),
            MAX_MESSAGE_CHARS + 1
        );
    }

    #[test]
    fn the_list_is_in_a_fixed_order() {
        let mut conditions = ConditionSet::from_stored(&[], None, Timestamp::UNIX_EPOCH);
        conditions.set(
            ConditionType::Paused,
            ConditionStatus::False,
            ConditionReason::NotPaused,
            "",
        );
        conditions.set(
            ConditionType::Ready,
            ConditionStatus::True,
            ConditionReason::Reconciled,
            "",
        );
        let types: Vec<String> = conditions
            .into_sorted_vec()
            .into_iter()
            .map(|c| c.type_)
            .collect();
        assert_eq!(types, ["Ready", "Paused"]);
    }
}
