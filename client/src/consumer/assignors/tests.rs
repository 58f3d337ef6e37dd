//! The properties of the assignors: complete, balanced, sticky, and never two owners at once.

use proptest::prelude::*;

use super::*;

fn member(id: &str, topics: &[&str]) -> MemberSubscription {
    let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
    MemberSubscription {
        id: id.to_owned(),
        topics,
        ..MemberSubscription::default()
    }
}

fn topics(of: &[(&str, i32)]) -> BTreeMap<String, i32> {
    of.iter()
        .map(|(topic, count)| ((*topic).to_owned(), *count))
        .collect()
}

fn shown(assignment: &GroupAssignment) -> Vec<String> {
    let list = |partitions: &Vec<TopicPartition>| {
        let mut all: Vec<String> = partitions.iter().map(ToString::to_string).collect();
        all.sort();
        all.join(" ")
    };
    assignment
        .iter()
        .map(|(member, partitions)| format!("{member}: {}", list(partitions)))
        .collect()
}

#[test]
fn range_gives_the_first_members_the_remainder() {
    let members = [member("a", &["t", "u"]), member("b", &["t", "u"])];
    let assignment = Assignor::Range.assign(&members, &topics(&[("t", 3), ("u", 3)]));
    assert_eq!(shown(&assignment), ["a: t-0 t-1 u-0 u-1", "b: t-2 u-2"]);
}

#[test]
fn round_robin_alternates_over_all_topics() {
    let members = [member("a", &["t", "u"]), member("b", &["t", "u"])];
    let assignment = Assignor::RoundRobin.assign(&members, &topics(&[("t", 3), ("u", 3)]));
    assert_eq!(shown(&assignment), ["a: t-0 t-2 u-1", "b: t-1 u-0 u-2"]);
}

#[test]
fn round_robin_passes_over_members_that_do_not_want_a_topic() {
    let members = [
        member("a", &["t"]),
        member("b", &["t", "u"]),
        member("c", &["t", "u", "v"]),
    ];
    let assignment = Assignor::RoundRobin.assign(&members, &topics(&[("t", 1), ("u", 2), ("v", 3)]));
    assert_eq!(shown(&assignment), ["a: t-0", "b: u-0", "c: u-1 v-0 v-1 v-2"]);
}

#[test]
fn static_members_come_first() {
    let mut late = member("a", &["t"]);
    late.instance_id = Some("z".to_owned());
    let assignment = Assignor::Range.assign(&[member("0", &["t"]), late], &topics(&[("t", 1)]));
    assert_eq!(shown(&assignment), ["0: ", "a: t-0"]);
}

#[test]
fn a_new_member_gets_its_partitions_in_the_second_round() {
    let wants = topics(&[("t", 4)]);
    let mut members = vec![member("a", &["t"])];
    let first = Assignor::CooperativeSticky.assign(&members, &wants);
    members[0].owned = first["a"].clone();
    members.push(member("b", &["t"]));
    let second = Assignor::CooperativeSticky.assign(&members, &wants);
    assert_eq!((second["a"].len(), second["b"].len()), (2, 0));
    members[0].owned = second["a"].clone();
    let third = Assignor::CooperativeSticky.assign(&members, &wants);
    assert_eq!((third["a"].clone(), third["b"].len()), (second["a"].clone(), 2));
}

#[test]
fn the_later_generation_wins_a_disputed_partition() {
    let held = vec![TopicPartition::new("t", 0)];
    let old = MemberSubscription {
        owned: held.clone(),
        generation: Some(3),
        ..member("a", &["t"])
    };
    let new = MemberSubscription {
        owned: held.clone(),
        generation: Some(4),
        ..member("b", &["t"])
    };
    let assignment = Assignor::CooperativeSticky.assign(&[old, new], &topics(&[("t", 1)]));
    assert_eq!(shown(&assignment), ["a: ", "b: t-0"]);
}

#[test]
fn names_lead_back() {
    for assignor in [Assignor::CooperativeSticky, Assignor::Range, Assignor::RoundRobin] {
        assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
    }
    assert_eq!(Assignor::from_name("other"), None);
}

/// Members with random subscriptions and owned partitions, which may contradict each other.
fn groups() -> impl Strategy<Value = (Vec<MemberSubscription>, BTreeMap<String, i32>)> {
    let one = (
        prop::collection::btree_set(0..4_usize, 1..4),
        prop::collection::vec((0..4_usize, 0..9_i32), 0..8),
        0..3,
    );
    (
        prop::collection::vec(one, 1..7),
        prop::collection::vec(0..8_i32, 4),
    )
        .prop_map(|(members, counts)| {
            let name = |topic: usize| format!("t{topic}");
            let members = members
                .into_iter()
                .enumerate()
                .map(|(at, (wants, owned, generation))| MemberSubscription {
                    id: format!("m{at}"),
                    instance_id: None,
                    topics: wants.into_iter().map(name).collect(),
                    owned: owned
                        .into_iter()
                        .map(|(topic, p)| TopicPartition::new(name(topic), p))
                        .collect(),
                    generation: Some(generation),
                })
                .collect();
            (
                members,
                counts
                    .into_iter()
                    .enumerate()
                    .map(|(at, count)| (name(at), count))
                    .collect(),
            )
        })
}

/// Asserts that every partition of a subscribed topic is assigned to exactly one subscriber.
fn assert_complete(
    members: &[MemberSubscription],
    topics: &BTreeMap<String, i32>,
    assignment: &GroupAssignment,
) {
    let mut given = BTreeSet::new();
    for member in members {
        for partition in &assignment[&member.id] {
            assert!(
                member.topics.contains(&partition.topic),
                "{partition} is not wanted by {}",
                member.id
            );
            assert!(given.insert(partition.clone()), "{partition} is given twice");
        }
    }
    let wanted: BTreeSet<_> = wanted_topics(members)
        .into_iter()
        .flat_map(|topic| partitions_of(topic, topics))
        .collect();
    assert_eq!(given, wanted);
}

/// Runs the sticky assignor in rounds until nothing moves.
fn settle(
    mut members: Vec<MemberSubscription>,
    topics: &BTreeMap<String, i32>,
) -> (Vec<MemberSubscription>, i32) {
    let mut round = 0;
    loop {
        round += 1;
        let assignment = Assignor::CooperativeSticky.assign(&members, topics);
        let mut changed = false;
        for member in &mut members {
            let next = assignment[&member.id].clone();
            changed |= next != member.owned;
            member.owned = next;
            member.generation = Some(10 + round);
        }
        if !changed {
            return (members, round);
        }
        assert!(round < 5, "the group does not settle");
    }
}

proptest! {
    #[test]
    fn eager_assignments_are_complete((members, topics) in groups()) {
        for assignor in [Assignor::Range, Assignor::RoundRobin] {
            assert_complete(&members, &topics, &assignor.assign(&members, &topics));
        }
    }

    #[test]
    fn sticky_is_complete_and_balanced((members, topics) in groups()) {
        let assignment = sticky::assign(&members, &topics);
        assert_complete(&members, &topics, &assignment);
        for from in &members {
            for partition in &assignment[&from.id] {
                for to in members.iter().filter(|to| to.topics.contains(&partition.topic)) {
                    let (have, other) = (assignment[&from.id].len(), assignment[&to.id].len());
                    prop_assert!(have <= other + 1, "{partition} should move from {} to {}", from.id, to.id);
                }
            }
        }
    }

    #[test]
    fn cooperative_never_gives_what_another_member_still_holds((members, topics) in groups()) {
        let assignment = Assignor::CooperativeSticky.assign(&members, &topics);
        for to in &members {
            for partition in assignment[&to.id].iter().filter(|partition| !to.owned.contains(partition)) {
                prop_assert!(!members.iter().any(|holder| holder.owned.contains(partition)));
            }
        }
    }

    #[test]
    fn cooperative_rounds_end_complete((members, topics) in groups()) {
        let (members, _) = settle(members, &topics);
        let assignment = members.iter().map(|member| (member.id.clone(), member.owned.clone())).collect();
        assert_complete(&members, &topics, &assignment);
    }

    #[test]
    fn with_equal_wishes_a_join_moves_no_more_than_the_newcomers_share(count in 1..6_usize, partitions in 0..40_i32) {
        let wants = topics(&[("t", partitions)]);
        let members = (0..count).map(|at| member(&format!("m{at}"), &["t"])).collect();
        let (mut members, _) = settle(members, &wants);
        let before: BTreeMap<_, _> =
            members.iter().flat_map(|m| m.owned.iter().map(|p| (p.clone(), m.id.clone()))).collect();
        members.push(member("new", &["t"]));
        let after = sticky::assign(&members, &wants);
        let moved = after.iter().flat_map(|(id, all)| all.iter().map(move |p| (id, p))).filter(|(id, p)| before.get(p) != Some(*id));
        prop_assert!(moved.count() <= partitions as usize / (count + 1));
    }

    #[test]
    fn a_settled_group_does_not_move((members, topics) in groups()) {
        let (members, _) = settle(members, &topics);
        let again = Assignor::CooperativeSticky.assign(&members, &topics);
        for member in &members {
            prop_assert_eq!(&again[&member.id], &member.owned);
        }
    }
}
