//! The dispatcher: one task per producer that decides when each batch is sent, and to which agent.
//! It owns the lanes (one per partition) and the links (one per agent); appenders, agents and the
//! metadata cache only notify it.
//!
//! A lane with something to send is in the queue of its leader's link, at most once. A link with
//! room for a request takes one batch from each queued lane until the request is full. Answers,
//! timers, new leaders and producer ids make the dispatcher check a lane again.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use streamhouse_core::{Error as ClusterError, ErrorCode, protocol::v1};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    agent_link::{AgentLink, StreamEvent},
    encode::ProducerIdentity,
    leader_backoff::LeaderLookupBackoff,
    partition_buffer::{PartitionBuffer, PullState},
    partition_sender::{NextSend, PartitionSender},
    shared::{DispatchEvent, ProducerShared},
    shutdown::ProducerEndGuard,
    topic::ProducerTopic,
};
use crate::connection;

/// Interval between time-out checks.
const TIMEOUT_CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A lane: one partition as the dispatcher sees it.
pub(super) struct DispatchLane {
    pub(super) topic: Arc<ProducerTopic>,
    pub(super) partition: Arc<PartitionBuffer>,
    pub(super) sender: PartitionSender,
    /// Link and leader epoch of the batches in flight.
    pub(super) sent_to: Option<(usize, i32)>,
    /// Nothing is sent before this time.
    pub(super) not_before: Option<Instant>,
    pub(super) queued: bool,
    /// Whether the partition had no leader at the last check.
    pub(super) leaderless: bool,
    timer: Option<Instant>,
}

/// State of the dispatcher.
pub(super) struct Dispatcher {
    pub(super) shared: Arc<ProducerShared>,
    pub(super) lanes: Vec<DispatchLane>,
    pub(super) links: Vec<AgentLink>,
    pub(super) by_uri: HashMap<Arc<str>, usize>,
    /// Links to departed agents, to be reused.
    pub(super) free_links: Vec<usize>,
    pub(super) leaderless: LeaderLookupBackoff,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    identity: Option<ProducerIdentity>,
    awaiting_identity: Vec<usize>,
    identity_requests: JoinSet<()>,
    /// When it was last logged that the cluster cannot store records.
    pub(super) storage_error_logged_at: Option<Instant>,
    pub(super) events: mpsc::Sender<StreamEvent>,
}

/// Runs until `stop`. Then `guard` fails the remaining records, as it does if this task panics or
/// is dropped.
pub(super) async fn run(shared: Arc<ProducerShared>, guard: ProducerEndGuard, stop: CancellationToken) {
    let (events, inbox) = mpsc::channel(1024);
    let mut dispatcher = Dispatcher::new(shared, events);
    stop.run_until_cancelled(dispatcher.run_loop(inbox)).await;
    // Ends the links' tasks, so that no answer can settle a batch any more.
    drop(dispatcher);
    drop(guard);
}

impl Dispatcher {
    pub(super) fn new(shared: Arc<ProducerShared>, events: mpsc::Sender<StreamEvent>) -> Self {
        Self {
            leaderless: LeaderLookupBackoff::new(shared.client.backoff()),
            shared,
            lanes: Vec::new(),
            links: Vec::new(),
            by_uri: HashMap::new(),
            free_links: Vec::new(),
            timers: BinaryHeap::new(),
            identity: None,
            awaiting_identity: Vec::new(),
            identity_requests: JoinSet::new(),
            storage_error_logged_at: None,
            events,
        }
    }

    async fn run_loop(&mut self, mut inbox: mpsc::Receiver<StreamEvent>) {
        let mut metadata = self.shared.client.cache().subscribe();
        let tick = TIMEOUT_CHECK_INTERVAL
            .min(self.shared.config.delivery_timeout / 4)
            .max(Duration::from_millis(1));
        let mut next_tick = Instant::now() + tick;
        loop {
            let shared = self.shared.clone();
            tokio::select! {
                () = shared.wake.notified() => {}
                Some(event) = inbox.recv() => {
                    self.handle_event(event);
                    while let Ok(event) = inbox.try_recv() {
                        self.handle_event(event);
                    }
                }
                Ok(()) = metadata.changed() => self.handle_metadata_change(),
                () = sleep_until(self.next_timer().map_or(next_tick, |at| at.min(next_tick))) => {}
            }
            let now = Instant::now();
            if self.process_events() {
                // A topic may have been recreated before its lanes existed here.
                self.apply_topic_metadata();
            }
            self.run_timers(now);
            if now >= next_tick {
                self.check_timeouts(now);
                next_tick = now + tick;
            }
            for link in 0..self.links.len() {
                self.send_ready(link, now);
            }
        }
    }

    fn handle_event(&mut self, event: StreamEvent) {
        match event {
            StreamEvent::Answer {
                link,
                stream,
                response,
            } => self.handle_response(link, stream, response),
            StreamEvent::Broken { link, stream, error } => self.handle_stream_end(link, stream, &error),
            StreamEvent::Identity(identity) => {
                self.identity = Some(identity);
                for lane in std::mem::take(&mut self.awaiting_identity) {
                    self.schedule(lane);
                }
            }
        }
    }

    /// Processes the appenders' events. Returns whether there are new lanes.
    pub(super) fn process_events(&mut self) -> bool {
        let notes = self.shared.take_events();
        let known = self.lanes.len();
        for (topic, partition) in self.shared.lanes_from(known) {
            self.lanes.push(DispatchLane {
                topic,
                partition,
                sender: PartitionSender::new(self.shared.config.idempotent),
                sent_to: None,
                not_before: None,
                queued: false,
                leaderless: false,
                timer: None,
            });
        }
        let linger = self.linger();
        for note in notes {
            match note {
                DispatchEvent::Filled(lane) => self.schedule(lane),
                DispatchEvent::Opened(lane, _) if linger.is_zero() => self.schedule(lane),
                DispatchEvent::Opened(lane, at) => self.schedule_at(lane, at + linger),
            }
        }
        self.lanes.len() > known
    }

    pub(super) fn linger(&self) -> Duration {
        if self.shared.is_flush_requested() {
            Duration::ZERO
        } else {
            self.shared.config.linger
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let paused = self
            .links
            .iter()
            .filter(|link| !link.ready_lanes.is_empty())
            .filter_map(|link| link.not_before)
            .min();
        let lane = self.timers.peek().map(|Reverse((at, _))| *at);
        // A pause that is over is no reason to wake up: the queue then waits for answers.
        let now = Instant::now();
        paused.filter(|at| *at > now).into_iter().chain(lane).min()
    }

    /// Schedules a check of a lane at `at`.
    pub(super) fn schedule_at(&mut self, lane: usize, at: Instant) {
        let Some(entry) = self.lanes.get_mut(lane) else {
            return;
        };
        if entry.timer.is_none_or(|timer| at < timer) {
            entry.timer = Some(at);
            self.timers.push(Reverse((at, lane)));
        }
    }

    fn run_timers(&mut self, now: Instant) {
        // During a flush no lane waits for its linger; lanes that wait for another reason set their
        // timer again.
        let hurried = self.shared.is_flush_requested();
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

    /// Queues a lane at its leader's link if it has something to send, or schedules its next check.
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
            self.schedule_at(lane, at);
            return;
        }
        match entry.sender.next_send() {
            NextSend::Blocked => return,
            NextSend::Resend(_) => {}
            NextSend::New | NextSend::NeedsIdentity(_) if entry.sender.is_empty() => {
                match entry.partition.pull_state(now, linger) {
                    PullState::Nothing => return,
                    PullState::Later(at) => return self.schedule_at(lane, at),
                    PullState::Batch(_) => {}
                }
            }
            NextSend::New => match entry.partition.pull_state(now, linger) {
                PullState::Nothing => return,
                PullState::Later(at) => return self.schedule_at(lane, at),
                PullState::Batch(_) => {}
            },
            NextSend::NeedsIdentity(_) => {}
        }
        if matches!(entry.sender.next_send(), NextSend::NeedsIdentity(_))
            && !self
                .identity
                .is_some_and(|identity| entry.sender.adopt_identity(identity))
        {
            self.awaiting_identity.push(lane);
            self.request_identity();
            return;
        }
        self.enqueue(lane, now);
    }

    /// Queues a lane that has something to send.
    fn enqueue(&mut self, lane: usize, now: Instant) {
        let Some(entry) = self.lanes.get(lane) else { return };
        let cache = self.shared.client.cache();
        let Some(leader) = cache.leader(&entry.partition.topic, entry.partition.index) else {
            let again = self.request_leader(lane, now);
            self.schedule_at(lane, again);
            return;
        };
        self.mark_leader_found(lane);
        let link = self.link_for(&leader.uri);
        let Some(entry) = self.lanes.get_mut(lane) else {
            return;
        };
        if entry.sender.in_flight() > 0
            && let Some((old, epoch)) = entry.sent_to
            && old != link
        {
            // Wait for the old leader's answers, unless it can no longer store anything.
            if !self.shared.config.idempotent || leader.epoch <= epoch {
                return;
            }
            entry.sender.requeue_in_flight(&moved_error());
        }
        entry.sent_to = Some((link, leader.epoch));
        entry.queued = true;
        self.links[link].ready_lanes.push_back(lane);
    }

    /// Requests a producer id if a lane waits for one and no request is in flight.
    pub(super) fn request_identity(&mut self) {
        while self.identity_requests.try_join_next().is_some() {}
        if !self.identity_requests.is_empty() || self.awaiting_identity.is_empty() {
            return;
        }
        let (client, events) = (self.shared.client.clone(), self.events.clone());
        self.identity_requests.spawn(async move {
            let mut backoff = client.backoff();
            loop {
                let answer = client.call_any_agent(
                    "getting a producer id",
                    client.api_deadline(),
                    |channel| async move {
                        connection::data_client(channel)
                            .init_producer_id(v1::InitProducerIdRequest {})
                            .await
                    },
                );
                match answer.await {
                    Ok((answer, _)) => {
                        let epoch = i16::try_from(answer.producer_epoch).unwrap_or(0);
                        let _ = events
                            .send(StreamEvent::Identity(ProducerIdentity {
                                id: answer.producer_id,
                                epoch,
                            }))
                            .await;
                        return;
                    }
                    Err(error) => tracing::warn!(%error, "cannot get a producer id; retrying"),
                }
                tokio::time::sleep(backoff.next_delay(Duration::ZERO)).await;
            }
        });
    }

    /// Handles new metadata: leaders may have moved, topics may have grown.
    fn handle_metadata_change(&mut self) {
        self.process_events();
        self.apply_topic_metadata();
        self.close_departed_links();
        let shared = self.shared.clone();
        let cache = shared.client.cache();
        for link in &mut self.links {
            for lane in std::mem::take(&mut link.ready_lanes) {
                self.lanes[lane].queued = false;
            }
        }
        for lane in 0..self.lanes.len() {
            let entry = &mut self.lanes[lane];
            let leader = cache.leader(&entry.partition.topic, entry.partition.index);
            entry.partition.set_has_leader(leader.is_some());
            let moved_on = match (&leader, entry.sent_to) {
                (Some(leader), Some((link, epoch))) => {
                    leader.epoch > epoch && self.links[link].uri != leader.uri && entry.sender.in_flight() > 0
                }
                _ => false,
            };
            if moved_on && shared.config.idempotent {
                // The old leader can no longer store anything, so its answers need not be awaited.
                entry.sender.requeue_in_flight(&moved_error());
            }
            self.schedule(lane);
        }
    }
}

fn moved_error() -> ClusterError {
    ClusterError::new(ErrorCode::NotLeader, "the partition has another leader")
}
