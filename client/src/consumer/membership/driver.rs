//! The membership driver: one task per consumer in a group, which executes the state machine's
//! orders (joins, heartbeats, leaves) and reports the results to it. It runs independently of the
//! application, so a member stays in its group during long processing and within `on_revoked`.

use std::{collections::BTreeSet, future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    super::{
        Shared,
        group::{self, Joined, SharedTopics},
        heartbeat,
    },
    machine::{MemberIdentity, Orders},
    pattern::TopicPattern,
};
use crate::{
    error::{Error, Result},
    metadata_cache::TopicKnown,
    retry::Backoff,
};

/// Interval between metadata requests while a subscribed topic does not exist.
const MISSING_TOPIC: Duration = Duration::from_secs(1);

/// Interval between listings of the topics that match a pattern.
const LISTING_PAUSE: Duration = Duration::from_secs(5);

type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The driver's calls in flight.
struct Driver {
    shared: Arc<Shared>,
    join: Option<(u64, Call<Result<Joined>>)>,
    beat: Option<(MemberIdentity, Call<Result<()>>)>,
    leave: Option<Call<()>>,
    backoff: Backoff,
    /// What this member assigned as the group leader, to detect changed topics.
    shared_topics: Option<SharedTopics>,
    /// When to request the metadata of a missing topic again.
    next_look: Instant,
    /// A listing of the topics that match a pattern, in flight.
    listing: Option<(TopicPattern, Call<Result<Vec<String>>>)>,
    next_listing: Instant,
}

/// Runs until the consumer is dropped.
pub(in crate::consumer) async fn run(shared: Arc<Shared>) {
    let mut changes = shared.member_changes.subscribe();
    let mut metadata = shared.client.cache().watch();
    let mut driver = Driver {
        backoff: shared.client.backoff(),
        shared,
        join: None,
        beat: None,
        leave: None,
        shared_topics: None,
        next_look: Instant::now(),
        listing: None,
        next_listing: Instant::now(),
    };
    loop {
        changes.borrow_and_update();
        let now = Instant::now();
        driver.look_at_topics();
        driver.list_topics(now);
        let wake = driver.carry_out(now);
        tokio::select! {
            (serial, outcome) = call(&mut driver.join) => driver.end_join(serial, outcome),
            (sent, outcome) = call(&mut driver.beat) => driver.end_beat(&sent, outcome),
            () = leave(&mut driver.leave) => {
                driver.leave = None;
                driver.shared.with_member(|member| member.left());
            }
            (pattern, topics) = call(&mut driver.listing) => driver.end_listing(&pattern, topics),
            _ = changes.changed() => {}
            _ = metadata.changed() => {}
            () = sleep_until(wake) => {}
        }
    }
}

/// Waits for the result of a call, and returns it with the call's key. Pending forever without a
/// call.
async fn call<K: Clone, T>(running: &mut Option<(K, Call<T>)>) -> (K, T) {
    match running {
        Some((key, call)) => {
            let outcome = call.await;
            (key.clone(), outcome)
        }
        None => std::future::pending().await,
    }
}

async fn leave(running: &mut Option<Call<()>>) {
    match running {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Starts and aborts calls as ordered. Returns when to run again.
    fn carry_out(&mut self, now: Instant) -> Instant {
        let orders = self.orders(now);
        if self.join.as_ref().map(|(serial, _)| *serial) != orders.joining {
            self.join = None;
        }
        if self.beat.as_ref().map(|(sent, _)| sent) != orders.identity.as_ref() {
            self.beat = None;
        }
        if let Some(order) = orders.join {
            self.shared_topics = None;
            let serial = order.serial;
            self.join = Some((serial, Box::pin(group::join(self.shared.clone(), order))));
        }
        if let Some(identity) = orders.beat {
            let beat = heartbeat::beat(self.shared.clone(), identity.clone());
            self.beat = Some((identity, Box::pin(beat)));
        }
        if let Some(member_id) = orders.leave {
            self.leave = Some(Box::pin(heartbeat::leave(self.shared.clone(), member_id)));
        }
        if self.misses_topics() && now >= self.next_look {
            self.shared.client.cache().request_refresh();
            self.next_look = now + MISSING_TOPIC;
        }
        // Upper bound, so that the driver runs regularly.
        let idle = now + self.shared.config.heartbeat.min(MISSING_TOPIC);
        orders.wake.unwrap_or(idle).min(idle)
    }

    fn orders(&self, now: Instant) -> Orders {
        let (orders, dropped) = {
            let mut member = self.shared.member.lock();
            let orders = member.orders(now);
            let dropped = self.shared.drop_lost(&mut member);
            (orders, dropped)
        };
        if orders.changed || dropped {
            self.shared.member_changed();
        }
        orders
    }

    fn end_join(&mut self, serial: u64, outcome: Result<Joined>) {
        self.join = None;
        let joined = match outcome {
            Ok(joined) => joined,
            Err(error) => return self.end_failed_join(serial, error),
        };
        self.backoff.reset();
        let partitions: BTreeSet<_> = joined.partitions.into_iter().collect();
        let count = partitions.len();
        let generation = self.shared.with_member(|member| {
            member.synced(serial, partitions, joined.assignor.is_cooperative());
            member.generation()
        });
        tracing::info!(
            group = self.shared.group(),
            generation,
            partitions = count,
            "joined the group"
        );
        self.shared_topics = joined.shared_topics;
    }

    fn end_failed_join(&mut self, serial: u64, error: Error) {
        let asked = match &error {
            Error::Cluster(error) => Duration::from_millis(error.retry_after_ms().into()),
            _ => Duration::ZERO,
        };
        let pause = self.backoff.next(asked);
        tracing::debug!(%error, group = self.shared.group(), "could not join the group; retrying");
        self.shared
            .with_member(|member| member.join_failed(serial, error, Instant::now(), pause));
    }

    fn end_beat(&mut self, sent: &MemberIdentity, outcome: Result<()>) {
        self.beat = None;
        self.shared
            .with_member(|member| member.beat_ended(sent, outcome, Instant::now()));
    }

    /// Starts a rebalance if a topic that this leader assigned has grown or was recreated.
    fn look_at_topics(&mut self) {
        let Some(topics) = &self.shared_topics else {
            return;
        };
        let cache = self.shared.client.cache();
        let changed = topics
            .iter()
            .any(|(topic, (count, id))| match cache.topic(topic) {
                TopicKnown::Partitions(now) => now > *count || (*count > 0 && cache.topic_id(topic) != *id),
                TopicKnown::NotYet | TopicKnown::Failed(_) => false,
            });
        if changed {
            self.shared_topics = None;
            self.shared.with_member(|member| member.ask_rejoin());
        }
    }

    /// Regularly lists the topics that match the subscribed pattern.
    fn list_topics(&mut self, now: Instant) {
        let pattern = self.shared.pattern.lock().clone();
        if let Some(pattern) = pattern
            && self.listing.is_none()
            && now >= self.next_listing
        {
            let topics = pattern.clone().topics(self.shared.client.clone());
            self.listing = Some((pattern, Box::pin(topics)));
        }
    }

    fn end_listing(&mut self, pattern: &TopicPattern, topics: Result<Vec<String>>) {
        self.listing = None;
        let pause = LISTING_PAUSE.min(self.shared.client.settings().metadata_max_age);
        self.next_listing = Instant::now() + pause;
        let is_current = self
            .shared
            .pattern
            .lock()
            .as_ref()
            .is_some_and(|now| now.is(pattern));
        match topics {
            Ok(topics) if is_current => {
                for topic in &topics {
                    self.shared.client.cache().want(topic);
                }
                self.shared.assignment.lock().follow_matches(&topics);
                self.shared.with_member(|member| member.change_topics(topics));
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "cannot list topics for the pattern; retrying"),
        }
    }

    /// Returns whether a subscribed topic is missing, so that metadata should be requested more
    /// often.
    fn misses_topics(&self) -> bool {
        self.shared_topics
            .as_ref()
            .is_some_and(|topics| topics.values().any(|(count, _)| *count == 0))
    }
}
