//! Assigns slots to agents, without side effects. Used by the observation of pods.
//!
//! Guarantees: two agents never have one slot; an agent keeps its slot as long as it lives; a new
//! agent gets the lowest free slot.

use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of slots, more than a cluster can have agents.
const MAX_SLOTS: u16 = 5000;

/// A pod that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotPod {
    /// Name of the pod.
    pub(super) name: String,
    /// Creation time, to which the older of two pods owes its slot.
    pub(super) created_ms: i64,
    /// Whether the pod is being deleted: it keeps its slot and gets none.
    pub(super) terminating: bool,
    /// Label of the pod, as stored.
    pub(super) label: Option<String>,
}

/// Returns the slot of each pod that has one. Slots below `capacity` are given to pods without one;
/// a pod for which none is free waits until another agent is gone.
pub(super) fn assign_slots(pods: &[SlotPod], capacity: u16) -> BTreeMap<String, u16> {
    let mut by_age: Vec<&SlotPod> = pods.iter().collect();
    by_age.sort_by(|one, other| (one.created_ms, &one.name).cmp(&(other.created_ms, &other.name)));
    let mut used = BTreeSet::new();
    let mut slots = BTreeMap::new();
    for pod in &by_age {
        // Two pods with one label were labelled by hand: the older keeps it.
        if let Some(slot) = pod.label.as_deref().and_then(parse_slot)
            && used.insert(slot)
        {
            slots.insert(pod.name.clone(), slot);
        }
    }
    let mut free = (0..capacity.min(MAX_SLOTS)).filter(|slot| !used.contains(slot));
    for pod in by_age {
        if pod.terminating || slots.contains_key(&pod.name) {
            continue;
        }
        let Some(slot) = free.next() else { break };
        slots.insert(pod.name.clone(), slot);
    }
    slots
}

/// Parses a label in the form in which it is written: a selector compares text.
pub(super) fn parse_slot(label: &str) -> Option<u16> {
    let slot: u16 = label.parse().ok().filter(|slot| *slot < MAX_SLOTS)?;
    (slot.to_string() == label).then_some(slot)
}

/// The number of slots that have Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotPool {
    /// Number of slots.
    pub(super) size: u16,
    /// Since when there are more than needed.
    pub(super) surplus_since_ms: Option<i64>,
}

impl SlotPool {
    /// Returns the pool for `needed` slots, of which `existing` have Services now. It grows at once
    /// and shrinks after `grace_ms`, since clients may know the addresses, and a load balancer is
    /// slow to come back.
    pub(super) fn resize(
        needed: u16,
        existing: u16,
        surplus_since_ms: Option<i64>,
        now_ms: i64,
        grace_ms: i64,
    ) -> Self {
        if existing <= needed {
            return Self {
                size: needed,
                surplus_since_ms: None,
            };
        }
        let since = surplus_since_ms.unwrap_or(now_ms).min(now_ms);
        let late = now_ms.saturating_sub(since) >= grace_ms;
        Self {
            size: if late { needed } else { existing },
            surplus_since_ms: Some(since),
        }
    }
}

#[cfg(test)]
mod tests;
