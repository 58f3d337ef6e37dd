//! The dispatcher: one task per producer that decides which batch goes to which agent and when. It owns the lanes and the
//! links; appenders, agents and the metadata cache only tell it that something happened.
//!
//! A lane with something to send stands in the queue of its leader's link, at most once. A link with room for a request
//! takes one batch from each lane in its queue until the request is full. Everything else is a reason to look at a lane
//! again: an answer, a timer, a new leader, a producer id.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use streamhouse_core::protocol::v1;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    encode::Identity,
    lane::{Lane, Next},
    link::{Event, Link},
    partition::{Partition, Pullable},
    shared::{Note, Shared},
    topic::Topic,
};
use crate::connection;

/// Between two looks at time-outs.
const TICK: Duration = Duration::from_millis(100);
/// A lane without a leader is looked at again after this long at the latest.
const LEADERLESS: Duration = Duration::from_millis(100);

/// A lane and what the dispatcher knows about it.
pub(super) struct Entry {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    pub(super) lane: Lane,
    /// Where its batches on their way went, and under which leader epoch.
    pub(super) sent_to: Option<(usize, i32)>,
    /// Nothing is sent before.
    pub(super) not_before: Option<Instant>,
    pub(super) queued: bool,
    timer: Option<Instant>,
}

/// The dispatcher's state.
pub(super) struct Dispatcher {
    pub(super) shared: Arc<Shared>,
    pub(super) lanes: Vec<Entry>,
    pub(super) links: Vec<Link>,
    by_uri: HashMap<Arc<str>, usize>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    identity: Option<Identity>,
    wants_identity: Vec<usize>,
    asking: JoinSet<()>,
    /// When it was last logged that the cluster cannot store records.
    pub(super) complained: Option<Instant>,
    pub(super) events: mpsc::Sender<Event>,
}

/// Runs until `stop`, then fails what is left.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let (events, inbox) = mpsc::channel(1024);
    let mut dispatcher = Dispatcher {
        shared: shared.clone(),
        lanes: Vec::new(),
        links: Vec::new(),
        by_uri: HashMap::new(),
        timers: BinaryHeap::new(),
        identity: None,
        wants_identity: Vec::new(),
        asking: JoinSet::new(),
        complained: None,
        events,
    };
    stop.run_until_cancelled(dispatcher.work(inbox)).await;
    // The links' tasks end with it, and no answer can settle a batch any more.
    drop(dispatcher);
    shared.stop();
}

impl Dispatcher {
    async fn work(&mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut metadata = self.shared.client.cache().watch();
        let tick = TICK
            .min(self.shared.config.delivery_timeout / 4)
            .max(Duration::from_millis(1));
        let mut next_tick = Instant::now() + tick;
        loop {
            let shared = self.shared.clone();
            tokio::select! {
                () = shared.wake.notified() => {}
                Some(event) = inbox.recv() => {
                    self.handle(event);
                    while let Ok(event) = inbox.try_recv() {
                        self.handle(event);
                    }
                }
                Ok(()) = metadata.changed() => self.metadata_changed(),
                () = sleep_until(self.next_timer().map_or(next_tick, |at| at.min(next_tick))) => {}
            }
            let now = Instant::now();
            self.take_notes();
            self.run_timers(now);
            if now >= next_tick {
                self.tick(now);
                next_tick = now + tick;
            }
            for link in 0..self.links.len() {
                self.pump(link, now);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Answer {
                link,
                stream,
                response,
            } => self.answered(link, stream, response),
            Event::Broken { link, stream, error } => self.broken(link, stream, &error),
            Event::Identity(identity) => {
                self.identity = Some(identity);
                for lane in std::mem::take(&mut self.wants_identity) {
                    self.schedule(lane);
                }
            }
        }
    }

    fn take_notes(&mut self) {
        let notes = self.shared.take_notes();
        for (topic, partition) in self.shared.lanes_from(self.lanes.len()) {
            self.lanes.push(Entry {
                topic,
                partition,
                lane: Lane::new(self.shared.config.idempotent),
                sent_to: None,
                not_before: None,
                queued: false,
                timer: None,
            });
        }
        let linger = self.linger();
        for note in notes {
            match note {
                Note::Filled(lane) => self.schedule(lane),
                Note::Opened(lane, _) if linger.is_zero() => self.schedule(lane),
                Note::Opened(lane, at) => self.look_again(lane, at + linger),
            }
        }
    }

    pub(super) fn linger(&self) -> Duration {
        if self.shared.is_hurried() {
            Duration::ZERO
        } else {
            self.shared.config.linger
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let paused = self
            .links
            .iter()
            .filter(|link| !link.ready.is_empty())
            .filter_map(|link| link.not_before)
            .min();
        let lane = self.timers.peek().map(|Reverse((at, _))| *at);
        // A pause that is over is no reason to wake: the queue then waits for answers.
        let now = Instant::now();
        paused.filter(|at| *at > now).into_iter().chain(lane).min()
    }

    /// Looks at a lane again at `at`.
    pub(super) fn look_again(&mut self, lane: usize, at: Instant) {
        let Some(entry) = self.lanes.get_mut(lane) else {
            return;
        };
        if entry.timer.is_none_or(|timer| at < timer) {
            entry.timer = Some(at);
            self.timers.push(Reverse((at, lane)));
        }
    }

    fn run_timers(&mut self, now: Instant) {
        // In a hurry nothing waits for its linger; what waits for another reason sets its timer again.
        let hurried = self.shared.is_hurried();
        let mut due = Vec::new();
        while self
            .timers
            .peek()
            .is_some_and(|Reverse((at, _))| hurried || *at <= now)
        {
            due.extend(self.timers.pop());
        }
        for Reverse((at, lane)) in due {
            if let Some(entry) = self.lanes.get_mut(lane)
                && entry.timer == Some(at)
            {
                entry.timer = None;
            }
            self.schedule(lane);
        }
    }

    /// Queues a lane at its leader's link if it has something to send, or sees to it that it is looked at again.
    pub(super) fn schedule(&mut self, lane: usize) {
        let now = Instant::now();
        let linger = self.linger();
        let Some(entry) = self.lanes.get_mut(lane) else {
            return;
        };
        if entry.queued {
            return;
        }
        if let Some(at) = entry.not_before.filter(|at| *at > now) {
            self.look_again(lane, at);
            return;
        }
        match entry.lane.next() {
            Next::Blocked => return,
            Next::Again(_) => {}
            Next::New | Next::NeedsIdentity(_) if entry.lane.is_empty() => {
                match entry.partition.pullable(now, linger) {
                    Pullable::Nothing => return,
                    Pullable::Later(at) => return self.look_again(lane, at),
                    Pullable::Batch(_) => {}
                }
            }
            Next::New => match entry.partition.pullable(now, linger) {
                Pullable::Nothing => return,
                Pullable::Later(at) => return self.look_again(lane, at),
                Pullable::Batch(_) => {}
            },
            Next::NeedsIdentity(_) => {}
        }
        if matches!(entry.lane.next(), Next::NeedsIdentity(_))
            && !self.identity.is_some_and(|identity| entry.lane.adopt(identity))
        {
            self.wants_identity.push(lane);
            self.ask_for_identity();
            return;
        }
        self.queue(lane, now);
    }

    /// Queues a lane that has something to send.
    fn queue(&mut self, lane: usize, now: Instant) {
        let Some(entry) = self.lanes.get(lane) else { return };
        let cache = self.shared.client.cache();
        let Some(leader) = cache.leader(&entry.partition.topic, entry.partition.index) else {
            cache.want(&entry.partition.topic);
            cache.request_refresh();
            self.look_again(lane, now + LEADERLESS);
            return;
        };
        let link = self.link_of(&leader.uri);
        let Some(entry) = self.lanes.get_mut(lane) else {
            return;
        };
        if entry.lane.in_flight() > 0
            && let Some((old, epoch)) = entry.sent_to
            && old != link
        {
            // Its answers from the old leader decide first, unless that leader surely cannot store any more.
            if !self.shared.config.idempotent || leader.epoch <= epoch {
                return;
            }
            entry.lane.abandon(&moved());
        }
        entry.sent_to = Some((link, leader.epoch));
        entry.queued = true;
        self.links[link].ready.push_back(lane);
    }

    fn link_of(&mut self, uri: &Arc<str>) -> usize {
        if let Some(link) = self.by_uri.get(uri) {
            return *link;
        }
        self.links
            .push(Link::new(uri.clone(), self.shared.client.backoff()));
        self.by_uri.insert(uri.clone(), self.links.len() - 1);
        self.links.len() - 1
    }

    fn ask_for_identity(&mut self) {
        while self.asking.try_join_next().is_some() {}
        if !self.asking.is_empty() {
            return;
        }
        let (client, events) = (self.shared.client.clone(), self.events.clone());
        self.asking.spawn(async move {
            let mut backoff = client.backoff();
            loop {
                let answer = client.call_any(
                    "getting a producer id",
                    client.api_deadline(),
                    |channel| async move {
                        connection::data(channel)
                            .init_producer_id(v1::InitProducerIdRequest {})
                            .await
                    },
                );
                match answer.await {
                    Ok((answer, _)) => {
                        let epoch = i16::try_from(answer.producer_epoch).unwrap_or(0);
                        let _ = events
                            .send(Event::Identity(Identity {
                                id: answer.producer_id,
                                epoch,
                            }))
                            .await;
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "cannot get a producer id; trying again"),
                }
                tokio::time::sleep(backoff.next(Duration::ZERO)).await;
            }
        });
    }

    /// Leaders may have moved, topics may have grown.
    fn metadata_changed(&mut self) {
        let shared = self.shared.clone();
        let cache = shared.client.cache();
        for topic in shared.topics() {
            if let crate::metadata_cache::TopicKnown::Partitions(count) = cache.topic(&topic.name) {
                shared.grow(&topic, count);
            }
        }
        self.take_notes();
        for link in &mut self.links {
            for lane in std::mem::take(&mut link.ready) {
                self.lanes[lane].queued = false;
            }
        }
        for lane in 0..self.lanes.len() {
            let entry = &mut self.lanes[lane];
            let leader = cache.leader(&entry.partition.topic, entry.partition.index);
            entry.partition.set_led(leader.is_some());
            let moved_on = match (&leader, entry.sent_to) {
                (Some(leader), Some((link, epoch))) => {
                    leader.epoch > epoch && self.links[link].uri != leader.uri && entry.lane.in_flight() > 0
                }
                _ => false,
            };
            if moved_on && shared.config.idempotent {
                // The old leader cannot store any more, so nothing is gained by waiting for its answers.
                entry.lane.abandon(&moved());
            }
            self.schedule(lane);
        }
    }
}

fn moved() -> streamhouse_core::Error {
    streamhouse_core::Error::new(
        streamhouse_core::ErrorCode::NotLeader,
        "the partition has another leader",
    )
}
