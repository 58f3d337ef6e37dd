//! Tests of the whole election in a simulation: never two leaders, a new leader soon, and typical
//! failures.

mod simulation;

use std::time::Duration;

use proptest::prelude::*;

use self::simulation::{LeaseSimulation, ReplicaBehavior, SimulatedReplica, run_simulation};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Faults are injected until this time; all delayed requests have arrived by [`QUIET_FROM`].
const FAULTS_END: Duration = seconds(120);
const QUIET_FROM: Duration = seconds(150);
/// How long after that a replica must lead: the duration by the slowest clock, a read that just
/// missed it, and a call.
const ELECTION_LIMIT: Duration = seconds(25);
const SIMULATION_END: Duration = seconds(240);

/// Clock speeds differ by up to a sixth.
fn clock_rate() -> impl Strategy<Value = f64> {
    0.93..1.08
}

fn duration_up_to(longest: Duration) -> impl Strategy<Value = Duration> {
    (0..longest.as_millis() as u64).prop_map(Duration::from_millis)
}

/// A replica that runs, stops or crashes before the quiet period.
fn replica_behavior(pauses: usize) -> impl Strategy<Value = ReplicaBehavior> {
    let pause = (duration_up_to(seconds(90)), duration_up_to(seconds(30)));
    (
        clock_rate(),
        duration_up_to(seconds(20)),
        proptest::option::of(duration_up_to(FAULTS_END)),
        proptest::option::of(duration_up_to(FAULTS_END)),
        proptest::collection::vec(pause, 0..=pauses),
        duration_up_to(seconds(30)),
    )
        .prop_map(|(rate, start, stop, crash, pauses, lingers)| ReplicaBehavior {
            rate,
            start,
            stop,
            crash,
            pauses,
            shutdown_delay: lingers,
        })
}

/// Two or three replicas, of which the first neither stops nor crashes.
fn replica_behaviors(pauses: usize) -> impl Strategy<Value = Vec<ReplicaBehavior>> {
    proptest::collection::vec(replica_behavior(pauses), 2..=3).prop_map(|mut all| {
        all[0].stop = None;
        all[0].crash = None;
        all
    })
}

fn start_replicas(world: &LeaseSimulation, habits: &[ReplicaBehavior]) -> Vec<SimulatedReplica> {
    let name = |place: usize| format!("replica-{place}");
    let enter = |(place, habits): (usize, &ReplicaBehavior)| {
        SimulatedReplica::new(world, &name(place), habits.clone())
    };
    habits.iter().enumerate().map(enter).collect()
}

fn leaders(replicas: &[SimulatedReplica]) -> Vec<&str> {
    replicas
        .iter()
        .filter(|replica| replica.is_leading())
        .map(|replica| replica.name.as_str())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn never_two_lead_and_somebody_leads_soon(
        seed in any::<u64>(), trouble in 0..700_u64, habits in replica_behaviors(2)
    ) {
        let world = LeaseSimulation::new(seed);
        world.set_fault_rate(trouble);
        let mut replicas = start_replicas(&world, &habits);
        let (mut two, mut led_at, mut gap) = (None, None, None);
        run_simulation(&world, &mut replicas, SIMULATION_END, |replicas| {
            let (now, leaders) = (world.now(), leaders(replicas));
            if now >= FAULTS_END {
                world.set_fault_rate(0);
            }
            if leaders.len() > 1 {
                two.get_or_insert_with(|| format!("{leaders:?} at {now:?}"));
            }
            if now >= QUIET_FROM {
                match leaders.is_empty() {
                    false => { led_at.get_or_insert(now); }
                    true if led_at.is_some() => { gap.get_or_insert(now); }
                    true => {}
                }
            }
        });
        prop_assert_eq!(two, None);
        prop_assert!(led_at.is_some_and(|at| at <= QUIET_FROM + ELECTION_LIMIT), "no replica led in time: {:?}", led_at);
        prop_assert_eq!(gap, None, "a leader without faults keeps leading");
    }

    #[test]
    fn the_work_of_one_is_gone_before_that_of_another_begins(
        seed in any::<u64>(), trouble in 0..700_u64, habits in replica_behaviors(0)
    ) {
        let world = LeaseSimulation::new(seed);
        world.set_fault_rate(trouble);
        let mut replicas = start_replicas(&world, &habits);
        let mut two = None;
        run_simulation(&world, &mut replicas, SIMULATION_END, |replicas| {
            if world.now() >= FAULTS_END {
                world.set_fault_rate(0);
            }
            if replicas.iter().filter(|replica| replica.is_working()).count() > 1 {
                two.get_or_insert(world.now());
            }
        });
        prop_assert_eq!(two, None);
    }
}

/// Runs two replicas and returns when each of them led first.
fn run_two_replicas(
    first: ReplicaBehavior,
    second: ReplicaBehavior,
) -> (LeaseSimulation, Vec<Option<Duration>>) {
    let world = LeaseSimulation::new(7);
    let mut replicas = start_replicas(&world, &[first, second]);
    let mut led = vec![None; 2];
    run_simulation(&world, &mut replicas, seconds(120), |replicas| {
        for (replica, led) in replicas.iter().zip(&mut led) {
            if replica.is_leading() {
                led.get_or_insert(world.now());
            }
        }
        assert!(leaders(replicas).len() < 2);
    });
    (world, led)
}

fn starting_later() -> ReplicaBehavior {
    ReplicaBehavior {
        start: seconds(5),
        ..ReplicaBehavior::default()
    }
}

#[test]
fn the_first_leads_at_once_and_keeps_it() {
    let (world, led) = run_two_replicas(ReplicaBehavior::default(), starting_later());
    assert!(led[0].unwrap() < seconds(1));
    assert_eq!(led[1], None);
    let lease = world.lease().unwrap();
    assert_eq!(
        (lease.holder.as_deref(), lease.transitions),
        (Some("replica-0"), 0)
    );
}

#[test]
fn after_an_orderly_stop_the_other_leads_at_its_next_look() {
    let stops = ReplicaBehavior {
        stop: Some(seconds(60)),
        shutdown_delay: seconds(3),
        ..ReplicaBehavior::default()
    };
    let (world, led) = run_two_replicas(stops, starting_later());
    let led = led[1].unwrap();
    assert!(led >= seconds(63), "the work ends first: {led:?}");
    assert!(led < seconds(66), "then one read is enough: {led:?}");
    assert_eq!(world.lease().unwrap().transitions, 1);
}

#[test]
fn work_that_does_not_end_is_dropped_and_the_lease_released() {
    let stops = ReplicaBehavior {
        stop: Some(seconds(60)),
        shutdown_delay: seconds(1000),
        ..ReplicaBehavior::default()
    };
    let (_, led) = run_two_replicas(stops, starting_later());
    let led = led[1].unwrap();
    assert!(
        led >= seconds(80) && led < seconds(83),
        "after the 20 seconds of a drain: {led:?}"
    );
}

#[test]
fn after_a_crash_the_other_leads_when_the_lease_expires() {
    let crashes = ReplicaBehavior {
        crash: Some(seconds(60)),
        ..ReplicaBehavior::default()
    };
    let (_, led) = run_two_replicas(crashes, starting_later());
    let led = led[1].unwrap();
    assert!(led >= seconds(72) && led < seconds(79), "{led:?}");
}

#[test]
fn a_process_that_slept_too_long_finds_another_leader_and_stands_by() {
    let sleeps = ReplicaBehavior {
        pauses: vec![(seconds(40), seconds(40))],
        ..ReplicaBehavior::default()
    };
    let (world, led) = run_two_replicas(sleeps, starting_later());
    assert!(led[1].is_some());
    assert_eq!(world.lease().unwrap().holder.as_deref(), Some("replica-1"));
}

#[test]
fn a_replica_that_stops_while_it_stands_by_leaves_the_lease_alone() {
    let stops = ReplicaBehavior {
        stop: Some(seconds(60)),
        ..starting_later()
    };
    let (world, led) = run_two_replicas(ReplicaBehavior::default(), stops);
    assert_eq!(led[1], None);
    assert_eq!(world.lease().unwrap().transitions, 0);
}

#[test]
fn a_lease_that_somebody_deletes_makes_no_second_leader() {
    let world = LeaseSimulation::new(7);
    let mut replicas = start_replicas(&world, &[ReplicaBehavior::default(), starting_later()]);
    let mut deleted = false;
    run_simulation(&world, &mut replicas, seconds(120), |replicas| {
        if !deleted && world.now() >= seconds(30) {
            world.delete_lease();
            deleted = true;
        }
        assert!(leaders(replicas).len() < 2);
    });
    assert_eq!(leaders(&replicas).len(), 1, "a replica leads again");
    assert!(replicas.iter().all(SimulatedReplica::is_running));
}
