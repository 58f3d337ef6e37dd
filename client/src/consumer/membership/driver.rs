//! The membership driver: one task per consumer in a group, which executes the state machine's
//! orders (joins, heartbeats, leaves) and reports the results to it. It runs independently of the
//! application, so a member stays in its group during long processing and within `on_revoked`.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    super::{
        ConsumerShared, heartbeat,
        join::{self, AssignedTopics, JoinOutcome},
    },
    machine::{DriverOrders, MemberIdentity},
    pattern::TopicPattern,
};
use crate::{
    error::{Error, Result},
    metadata_cache::TopicLookup,
    retry::Backoff,
};

/// Interval between metadata requests while a subscribed topic does not exist.
const MISSING_TOPIC_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Interval between listings of the topics that match a pattern.
const PATTERN_REFRESH_INTERVAL: Duration = Duration::from_secs(5);

type BoxedCall<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The driver's calls in flight.
struct MembershipDriver {
    shared: Arc<ConsumerShared>,
    join: Option<(u64, BoxedCall<Result<JoinOutcome>>)>,
    beat: Option<(MemberIdentity, BoxedCall<Result<()>>)>,
    leave: Option<BoxedCall<()>>,
    backoff: Backoff,
    /// What this member assigned as the group leader, to detect changed topics.
    assigned_topics: Option<AssignedTopics>,
    /// When to request the metadata of a missing topic again.
    next_metadata_request: Instant,
    /// A listing of the topics that match a pattern, in flight.
    listing: Option<(TopicPattern, BoxedCall<Result<Vec<String>>>)>,
    next_listing: Instant,
}

/// Runs until the consumer is dropped.
pub(in crate::consumer) async fn run(shared: Arc<ConsumerShared>) {
    let mut changes = shared.member_changes.subscribe();
    let mut metadata = shared.client.cache().subscribe();
    let mut driver = MembershipDriver {
        backoff: shared.client.backoff(),
        shared,
        join: None,
        beat: None,
        leave: None,
        assigned_topics: None,
        next_metadata_request: Instant::now(),
        listing: None,
        next_listing: Instant::now(),
    };
    loop {
        changes.borrow_and_update();
        let now = Instant::now();
        driver.check_assigned_topics();
        driver.start_listing(now);
        let wake = driver.execute_orders(now);
        tokio::select! {
            (serial, outcome) = await_call(&mut driver.join) => driver.end_join(serial, outcome),
            (sent, outcome) = await_call(&mut driver.beat) => driver.end_beat(&sent, outcome),
            () = await_leave(&mut driver.leave) => {
                driver.leave = None;
                driver.shared.update_member(|member| member.complete_leave());
            }
            (pattern, topics) = await_call(&mut driver.listing) => driver.end_listing(&pattern, topics),
            _ = changes.changed() => {}
            _ = metadata.changed() => {}
            () = sleep_until(wake) => {}
        }
    }
}

/// Waits for the result of a call, and returns it with the call's key. Pending forever without a
/// call.
async fn await_call<K: Clone, T>(running: &mut Option<(K, BoxedCall<T>)>) -> (K, T) {
    match running {
        Some((key, call)) => {
            let outcome = call.await;
            (key.clone(), outcome)
        }
        None => std::future::pending().await,
    }
}

async fn await_leave(running: &mut Option<BoxedCall<()>>) {
    match running {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

impl MembershipDriver {
    /// Starts and aborts calls as ordered. Returns when to run again.
    fn execute_orders(&mut self, now: Instant) -> Instant {
        let orders = self.orders(now);
        if self.join.as_ref().map(|(serial, _)| *serial) != orders.joining {
            self.join = None;
        }
        if self.beat.as_ref().map(|(sent, _)| sent) != orders.identity.as_ref() {
            self.beat = None;
        }
        if let Some(order) = orders.join {
            self.assigned_topics = None;
            let serial = order.serial;
            self.join = Some((serial, Box::pin(join::join_group(self.shared.clone(), order))));
        }
        if let Some(identity) = orders.beat {
            let beat = heartbeat::send_heartbeat(self.shared.clone(), identity.clone());
            self.beat = Some((identity, Box::pin(beat)));
        }
        if let Some(member_id) = orders.leave {
            self.leave = Some(Box::pin(heartbeat::leave_group(self.shared.clone(), member_id)));
        }
        if self.has_missing_topics() && now >= self.next_metadata_request {
            self.shared.client.cache().request_refresh();
            self.next_metadata_request = now + MISSING_TOPIC_REFRESH_INTERVAL;
        }
        // Upper bound, so that the driver runs regularly.
        let idle = now + self.shared.config.heartbeat.min(MISSING_TOPIC_REFRESH_INTERVAL);
        orders.wake.unwrap_or(idle).min(idle)
    }

    fn orders(&self, now: Instant) -> DriverOrders {
        let (orders, dropped) = {
            let mut member = self.shared.member.lock();
            let orders = member.orders(now);
            let dropped = self.shared.remove_dropped(&mut member);
            (orders, dropped)
        };
        if orders.changed || dropped {
            self.shared.notify_member_changed();
        }
        orders
    }

    fn end_join(&mut self, serial: u64, outcome: Result<JoinOutcome>) {
        self.join = None;
        let joined = match outcome {
            Ok(joined) => joined,
            Err(error) => return self.end_failed_join(serial, error),
        };
        self.backoff.reset();
        let partitions: BTreeSet<_> = joined.partitions.into_iter().collect();
        let count = partitions.len();
        let generation = self.shared.update_member(|member| {
            member.handle_assignment(serial, partitions, joined.assignor.is_cooperative());
            member.generation()
        });
        tracing::info!(
            group = self.shared.group(),
            generation,
            partitions = count,
            "joined the group"
        );
        self.assigned_topics = joined.assigned_topics;
    }

    fn end_failed_join(&mut self, serial: u64, error: Error) {
        let asked = match &error {
            Error::Cluster(error) => Duration::from_millis(error.retry_after_ms().into()),
            _ => Duration::ZERO,
        };
        let pause = self.backoff.next_delay(asked);
        tracing::debug!(%error, group = self.shared.group(), "could not join the group; retrying");
        self.shared
            .update_member(|member| member.handle_join_failure(serial, error, Instant::now(), pause));
    }

    fn end_beat(&mut self, sent: &MemberIdentity, outcome: Result<()>) {
        self.beat = None;
        self.shared
            .update_member(|member| member.handle_heartbeat_result(sent, outcome, Instant::now()));
    }

    /// Starts a rebalance if a topic that this leader assigned has grown or was recreated.
    fn check_assigned_topics(&mut self) {
        let Some(topics) = &self.assigned_topics else {
            return;
        };
        let cache = self.shared.client.cache();
        let changed = topics
            .iter()
            .any(|(topic, (count, id))| match cache.lookup_topic(topic) {
                TopicLookup::Partitions(now) => now > *count || (*count > 0 && cache.topic_id(topic) != *id),
                TopicLookup::Unknown | TopicLookup::Failed(_) => false,
            });
        if changed {
            self.assigned_topics = None;
            self.shared.update_member(|member| member.request_rejoin());
        }
    }

    /// Regularly lists the topics that match the subscribed pattern.
    fn start_listing(&mut self, now: Instant) {
        let pattern = self.shared.pattern.lock().clone();
        if let Some(pattern) = pattern
            && self.listing.is_none()
            && now >= self.next_listing
        {
            let topics = pattern.clone().matching_topics(self.shared.client.clone());
            self.listing = Some((pattern, Box::pin(topics)));
        }
    }

    fn end_listing(&mut self, pattern: &TopicPattern, topics: Result<Vec<String>>) {
        self.listing = None;
        let pause = PATTERN_REFRESH_INTERVAL.min(self.shared.client.config().metadata_max_age);
        self.next_listing = Instant::now() + pause;
        let is_current = self
            .shared
            .pattern
            .lock()
            .as_ref()
            .is_some_and(|now| now.is_same_as(pattern));
        match topics {
            Ok(topics) if is_current => {
                for topic in &topics {
                    self.shared.client.cache().track_topic(topic);
                }
                self.shared.assignment.lock().subscribe_matches(&topics);
                self.shared.update_member(|member| member.change_topics(topics));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot list topics for the pattern; retrying"),
        }
    }

    /// Returns whether a subscribed topic is missing, so that metadata should be requested more
    /// often.
    fn has_missing_topics(&self) -> bool {
        self.assigned_topics
            .as_ref()
            .is_some_and(|topics| topics.values().any(|(count, _)| *count == 0))
    }
}
