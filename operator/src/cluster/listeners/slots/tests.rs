//! Slots of agents that come and go.

use proptest::prelude::*;

use super::*;

fn pod(name: &str, created_ms: i64, label: Option<&str>) -> SlotPod {
    SlotPod {
        name: name.to_owned(),
        created_ms,
        terminating: false,
        label: label.map(str::to_owned),
    }
}

fn assigned(pods: &[SlotPod], capacity: u16) -> Vec<(String, u16)> {
    assign_slots(pods, capacity).into_iter().collect()
}

#[test]
fn new_agents_get_the_lowest_free_slots_and_others_keep_theirs() {
    let pods = [
        pod("old", 1, Some("2")),
        pod("new", 3, None),
        pod("newer", 4, None),
    ];
    let expected = [("new", 0), ("newer", 1), ("old", 2)].map(|(name, slot)| (name.to_owned(), slot));
    assert_eq!(assigned(&pods, 4), expected);
}

#[test]
fn an_agent_that_ends_keeps_its_slot_and_its_successor_waits() {
    let ending = SlotPod {
        terminating: true,
        ..pod("a", 1, Some("0"))
    };
    let never = SlotPod {
        terminating: true,
        ..pod("b", 2, None)
    };
    let pods = [ending, never, pod("c", 3, None)];
    assert_eq!(assigned(&pods, 1), [("a".to_owned(), 0)]);
    assert_eq!(assigned(&pods[2..], 1), [("c".to_owned(), 0)]);
}

#[test]
fn labels_written_by_hand_are_put_right() {
    let pods = [
        pod("older", 1, Some("0")),
        pod("same", 2, Some("0")),
        pod("text", 3, Some("first")),
        pod("zeros", 4, Some("01")),
        pod("large", 5, Some("70000")),
        pod("scaled", 6, Some("9")),
    ];
    let expected = [
        ("large", 4),
        ("older", 0),
        ("same", 1),
        ("scaled", 9),
        ("text", 2),
        ("zeros", 3),
    ]
    .map(|(name, slot)| (name.to_owned(), slot));
    assert_eq!(assigned(&pods, 6), expected);
}

#[test]
fn surplus_slots_are_removed_late() {
    let pool = SlotPool::resize(3, 0, None, 0, 600);
    assert_eq!((pool.size, pool.surplus_since_ms), (3, None));
    let pool = SlotPool::resize(2, 3, None, 1000, 600);
    assert_eq!((pool.size, pool.surplus_since_ms), (3, Some(1000)));
    let pool = SlotPool::resize(2, 3, pool.surplus_since_ms, 1599, 600);
    assert_eq!((pool.size, pool.surplus_since_ms), (3, Some(1000)));
    // Needed again: the wait starts anew.
    assert_eq!(
        SlotPool::resize(3, 3, pool.surplus_since_ms, 1599, 600).surplus_since_ms,
        None
    );
    let pool = SlotPool::resize(2, 3, pool.surplus_since_ms, 1600, 600);
    assert_eq!(pool.size, 2);
    assert_eq!(
        SlotPool::resize(2, 3, Some(5000), 1000, 600).size,
        3,
        "the clock went back"
    );
}

#[derive(Debug, Clone)]
enum SlotStep {
    Create,
    Terminate(usize),
    Remove(usize),
    Relabel(usize, Option<String>),
    Resize(u16),
    Reconcile,
}

fn steps() -> impl Strategy<Value = Vec<SlotStep>> {
    let label = prop::option::of(prop::sample::select(vec!["0", "1", "2", "7", "x", "", "00"]));
    let step = prop_oneof![
        4 => Just(SlotStep::Create),
        2 => any::<prop::sample::Index>().prop_map(|index| SlotStep::Terminate(index.index(64))),
        2 => any::<prop::sample::Index>().prop_map(|index| SlotStep::Remove(index.index(64))),
        1 => (0..64_usize, label).prop_map(|(index, label)| SlotStep::Relabel(index, label.map(str::to_owned))),
        1 => (1..8_u16).prop_map(SlotStep::Resize),
        6 => Just(SlotStep::Reconcile),
    ];
    prop::collection::vec(step, 1..60)
}

fn at(pods: &mut [SlotPod], index: usize) -> Option<&mut SlotPod> {
    let length = pods.len();
    pods.get_mut(index.checked_rem(length)?)
}

/// Assigns slots, checks what must hold, and writes them as the operator does.
fn reconcile(pods: &mut [SlotPod], capacity: u16, relabelled: bool) -> Result<(), TestCaseError> {
    let slots = assign_slots(pods, capacity);
    let distinct: BTreeSet<u16> = slots.values().copied().collect();
    prop_assert_eq!(distinct.len(), slots.len(), "a slot serves two agents");
    let starting = pods.iter().filter(|pod| !pod.terminating);
    let waiting = starting.filter(|pod| !slots.contains_key(&pod.name)).count();
    let free = (0..capacity).filter(|slot| !distinct.contains(slot)).count();
    prop_assert!(waiting == 0 || free == 0, "an agent waits though a slot is free");
    for pod in pods.iter_mut() {
        let slot = slots.get(&pod.name).copied();
        let before = pod.label.as_deref().and_then(parse_slot);
        if !relabelled && let Some(before) = before {
            prop_assert_eq!(slot, Some(before), "an agent changes its slot");
        }
        if before.is_none()
            && let Some(slot) = slot
        {
            prop_assert!(slot < capacity);
        }
        pod.label = slot.map(|slot| slot.to_string());
    }
    prop_assert_eq!(
        assign_slots(pods, capacity),
        slots,
        "a second pass changes something"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_slot_serves_two_agents_and_no_agent_changes_its_slot(steps in steps()) {
        let mut pods: Vec<SlotPod> = Vec::new();
        let (mut capacity, mut created, mut relabelled) = (3, 0, false);
        for step in steps {
            match step {
                SlotStep::Create => {
                    created += 1;
                    // Several pods are created in one second.
                    pods.push(pod(&format!("agent-{created:03}"), created / 3, None));
                }
                SlotStep::Terminate(index) => if let Some(pod) = at(&mut pods, index) { pod.terminating = true },
                SlotStep::Remove(index) => if !pods.is_empty() { pods.remove(index % pods.len()); },
                SlotStep::Relabel(index, label) => if let Some(pod) = at(&mut pods, index) {
                    pod.label = label;
                    relabelled = true;
                },
                SlotStep::Resize(size) => capacity = size,
                SlotStep::Reconcile => {
                    reconcile(&mut pods, capacity, relabelled)?;
                    relabelled = false;
                }
            }
        }
    }
}
