//! Forwards the parts of a client's produce requests whose partitions other agents lead. One
//! [`ProduceForwarder`] per client's stream.

use std::{collections::HashMap, sync::Arc};

use streamhouse_core::{Error, ErrorCode, Incarnation, protocol::v1};
use streamhouse_metadata::AgentEntry;
use tokio::sync::oneshot;

use super::{
    PeerForwarder,
    admission::ForwardPermit,
    merge::merge_results,
    peer_stream::{ForwardOutcome, PeerStream},
    routes::{RouteGuard, RouteTable},
};
use crate::{directory::ClusterView, listeners::CallOrigin, metrics::ForwardKind, security::ClientAccess};

/// Memory that a part takes besides its records: its names, and its result.
const PART_OVERHEAD_BYTES: usize = 1024;
/// Batches of one request that are forwarded. Each takes memory that the bytes received do not
/// bound.
const MAX_FORWARDED_PARTS: usize = 10_000;
/// Smallest limit on requests to an agent, however large a request was that it refused.
const MIN_REQUEST_BYTES: usize = 64 << 10;
/// Retry delay for a batch that must not overtake others.
const OVERTAKING_RETRY_MS: u32 = 20;

/// Forwards the requests of one client's stream.
#[derive(Debug)]
pub struct ProduceForwarder {
    forwarder: Arc<PeerForwarder>,
    origin: CallOrigin,
    client: ClientAccess,
    peers: HashMap<Incarnation, StreamedPeer>,
    routes: RouteTable,
}

/// An agent that requests of this stream are forwarded to.
#[derive(Debug)]
struct StreamedPeer {
    stream: PeerStream,
    limit: Arc<RequestLimit>,
}

/// The largest request that an agent is known to accept.
#[derive(Debug)]
struct RequestLimit(std::sync::atomic::AtomicUsize);

impl RequestLimit {
    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Lowers the limit after a request of this size was refused.
    fn lower(&self, refused: usize) {
        let half = (refused / 2).max(MIN_REQUEST_BYTES);
        self.0.fetch_min(half, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The parts of one request that were forwarded, and those that were refused instead.
#[derive(Debug, Default)]
pub struct ForwardedProduce {
    results: Vec<(usize, v1::PartitionProduceResult)>,
    chunks: Vec<ForwardedChunk>,
    /// The routes of the parts that this agent serves itself.
    own_routes: Vec<RouteGuard>,
}

/// Parts for one agent that are in one request.
#[derive(Debug)]
struct ForwardedChunk {
    parts: Vec<ForwardedPart>,
    bytes: usize,
    outcome: oneshot::Receiver<ForwardOutcome>,
    limit: Arc<RequestLimit>,
}

/// A part without its records.
#[derive(Debug)]
struct ForwardedPart {
    /// Its index in the client's request.
    at: usize,
    topic: String,
    partition: i32,
    /// The leader, if the client should rather go to it itself.
    leader: Option<v1::Leader>,
    _route: RouteGuard,
}

/// A part that is about to be forwarded.
struct RoutedPart {
    at: usize,
    part: v1::PartitionProduce,
    leader: Option<v1::Leader>,
    route: RouteGuard,
}

impl ProduceForwarder {
    /// Creates the forwarder of one client's stream.
    pub fn new(forwarder: Arc<PeerForwarder>, origin: CallOrigin, client: ClientAccess) -> Self {
        Self {
            forwarder,
            origin,
            client,
            peers: HashMap::new(),
            routes: RouteTable::default(),
        }
    }

    /// Forwards the parts of a request that other agents lead. Leaves the others in the request.
    pub async fn forward(&mut self, request: &mut v1::ProduceRequest) -> ForwardedProduce {
        let view = self.forwarder.deps.directory.view();
        let mut forwarded = ForwardedProduce::default();
        let mut by_peer: Vec<(AgentEntry, Vec<RoutedPart>)> = Vec::new();
        let mut own = Vec::new();
        let refusal = self.check_part_count(&view, request).err();
        for (at, part) in std::mem::take(&mut request.partitions).into_iter().enumerate() {
            match self.route(&view, at, part, refusal.as_ref(), &mut forwarded) {
                PartRoute::Own(part) => own.push(part),
                PartRoute::Refused => {}
                PartRoute::Peer(peer, part) => {
                    match by_peer
                        .iter_mut()
                        .find(|(known, _)| known.incarnation == peer.incarnation)
                    {
                        Some((_, parts)) => parts.push(part),
                        None => by_peer.push((*peer, vec![part])),
                    }
                }
            }
        }
        request.partitions = own;
        if by_peer.is_empty() {
            return forwarded;
        }
        let parts = by_peer.iter().flat_map(|(_, parts)| parts);
        let bytes = parts.map(|routed| memory_of(&routed.part)).sum();
        let admitted = self.forwarder.admission.acquire(bytes).await.map(Arc::new);
        for (peer, parts) in by_peer {
            let sent = match &admitted {
                Ok(memory) => self.send(&view, &peer, parts, request, memory, &mut forwarded),
                Err(error) => Err((parts, error.clone())),
            };
            if let Err((parts, error)) = sent {
                for RoutedPart { at, part, .. } in parts {
                    forwarded.refuse(&self.forwarder, at, part.topic, part.partition, error.clone());
                }
            }
        }
        forwarded
    }

    /// Refuses a request with too many parts for other agents, before any of them takes memory.
    fn check_part_count(&self, view: &ClusterView, request: &v1::ProduceRequest) -> Result<(), Error> {
        let is_led_by_peer = |part: &&v1::PartitionProduce| {
            view.find_partition(&part.topic, &part.topic_id, part.partition)
                .is_ok_and(|record| self.forwarder.leading_peer(view, record).is_some())
        };
        if request.partitions.len() <= MAX_FORWARDED_PARTS
            || request.partitions.iter().filter(is_led_by_peer).count() <= MAX_FORWARDED_PARTS
        {
            return Ok(());
        }
        let message = format!("a request may have at most {MAX_FORWARDED_PARTS} batches for other agents");
        Err(Error::new(ErrorCode::InvalidRequest, message))
    }

    fn route(
        &self,
        view: &ClusterView,
        at: usize,
        part: v1::PartitionProduce,
        refusal: Option<&Error>,
        forwarded: &mut ForwardedProduce,
    ) -> PartRoute {
        let Ok(record) = view.find_partition(&part.topic, &part.topic_id, part.partition) else {
            return PartRoute::Own(part);
        };
        let peer = self.forwarder.leading_peer(view, record);
        if let (Some(_), Some(refusal)) = (peer, refusal) {
            forwarded.refuse(&self.forwarder, at, part.topic, part.partition, refusal.clone());
            return PartRoute::Refused;
        }
        let Some(route) = self.routes.claim(record.uid, peer.map(|peer| peer.incarnation)) else {
            let message = "the partition's leader has changed and earlier batches of this stream are in flight: send again";
            let error = Error::new(ErrorCode::NotLeader, message).with_retry_after_ms(OVERTAKING_RETRY_MS);
            forwarded.refuse(&self.forwarder, at, part.topic, part.partition, error);
            return PartRoute::Refused;
        };
        match peer {
            None => {
                forwarded.own_routes.push(route);
                PartRoute::Own(part)
            }
            Some(peer) => {
                let leader = self.leader_hint(view, peer, record.epoch);
                let routed = RoutedPart {
                    at,
                    part,
                    leader,
                    route,
                };
                PartRoute::Peer(Box::new(peer.clone()), routed)
            }
        }
    }

    /// Returns the leader if its clients reach it at another address than this agent.
    fn leader_hint(&self, view: &ClusterView, leader: &AgentEntry, epoch: i32) -> Option<v1::Leader> {
        let me = view.agent(self.forwarder.own_incarnation()?)?;
        let address = self.origin.address_of(&leader.agent_id, &leader.grpc_address);
        let own = self.origin.address_of(&me.agent_id, &me.grpc_address);
        (address != own).then(|| v1::Leader {
            agent_id: leader.agent_id.clone(),
            epoch,
            address: address.to_owned(),
        })
    }

    /// Sends parts to their leader, in as many requests as it accepts them. Returns those that
    /// cannot be sent.
    #[allow(clippy::type_complexity)]
    fn send(
        &mut self,
        view: &ClusterView,
        peer: &AgentEntry,
        parts: Vec<RoutedPart>,
        request: &v1::ProduceRequest,
        memory: &Arc<ForwardPermit>,
        forwarded: &mut ForwardedProduce,
    ) -> Result<(), (Vec<RoutedPart>, Error)> {
        let Self {
            forwarder,
            client,
            peers,
            ..
        } = self;
        let known = peers.get(&peer.incarnation);
        if !known.is_some_and(|known| known.stream.is_open()) {
            let limit = known.map(|known| known.limit.clone());
            let lease = match forwarder.pool.lease(view, peer, ForwardKind::Produce) {
                Ok(lease) => lease,
                Err(error) => return Err((parts, error)),
            };
            peers.retain(|incarnation, known| {
                known.stream.has_unanswered() || view.agent(*incarnation).is_some()
            });
            let streamed = StreamedPeer {
                stream: PeerStream::open(
                    lease,
                    forwarder.client_headers(client),
                    forwarder.deps.max_answer_bytes,
                ),
                limit: limit.unwrap_or_else(|| Arc::new(RequestLimit(usize::MAX.into()))),
            };
            peers.insert(peer.incarnation, streamed);
        }
        let Some(streamed) = peers.get_mut(&peer.incarnation) else {
            return Ok(());
        };
        for parts in split(parts, streamed.limit.get()) {
            let bytes: usize = parts.iter().map(|routed| routed.part.records.len()).sum();
            forwarder
                .deps
                .metrics
                .forward
                .record_request(ForwardKind::Produce, bytes);
            let mut described = Vec::with_capacity(parts.len());
            let mut partitions = Vec::with_capacity(parts.len());
            for routed in parts {
                described.push(ForwardedPart {
                    at: routed.at,
                    topic: routed.part.topic.clone(),
                    partition: routed.part.partition,
                    leader: routed.leader,
                    _route: routed.route,
                });
                partitions.push(routed.part);
            }
            let chunk = v1::ProduceRequest {
                request_id: 0,
                partitions,
                traceparent: request.traceparent.clone(),
                tracestate: request.tracestate.clone(),
            };
            forwarded.chunks.push(ForwardedChunk {
                parts: described,
                bytes,
                outcome: streamed.stream.send(chunk, memory.clone()),
                limit: streamed.limit.clone(),
            });
        }
        Ok(())
    }
}

/// Where a part goes.
enum PartRoute {
    /// This agent leads it, or answers with the reason why nobody does.
    Own(v1::PartitionProduce),
    Peer(Box<AgentEntry>, RoutedPart),
    /// It is answered already.
    Refused,
}

/// Returns the memory that a part takes while it is forwarded: as received and as encoded again.
fn memory_of(part: &v1::PartitionProduce) -> usize {
    part.records
        .len()
        .saturating_mul(2)
        .saturating_add(2 * (part.topic.len() + part.topic_id.len()))
        .saturating_add(PART_OVERHEAD_BYTES)
}

/// Splits parts into groups of at most `limit` bytes, or of one part that is larger.
fn split(parts: Vec<RoutedPart>, limit: usize) -> Vec<Vec<RoutedPart>> {
    let mut groups: Vec<Vec<RoutedPart>> = Vec::new();
    let mut room = 0;
    for routed in parts {
        let size = memory_of(&routed.part) / 2;
        match groups.last_mut() {
            Some(group) if size <= room => group.push(routed),
            _ => {
                room = limit;
                groups.push(vec![routed]);
            }
        }
        room = room.saturating_sub(size);
    }
    groups
}

impl ForwardedProduce {
    fn refuse(&mut self, forwarder: &PeerForwarder, at: usize, topic: String, partition: i32, error: Error) {
        let metrics = &forwarder.deps.metrics;
        metrics.forward.record_error(ForwardKind::Produce, error.code());
        self.results
            .push((at, v1::PartitionProduceResult::failed(topic, partition, error)));
    }

    /// Waits for the answers, and puts them at their places among the results of the other parts,
    /// whose routes end. Returns how long the client should wait before its next request.
    pub async fn finish(
        self,
        forwarder: &PeerForwarder,
        origin: &CallOrigin,
        results: &mut Vec<v1::PartitionProduceResult>,
    ) -> u32 {
        let mut forwarded = self.results;
        let mut throttle_ms = 0;
        for chunk in self.chunks {
            throttle_ms = throttle_ms.max(chunk.finish(forwarder, origin, &mut forwarded).await);
        }
        for (_, result) in &forwarded {
            let error = result.error.as_ref().map(|error| Error::from(error.clone()));
            if let Some(error) = error.filter(|error| error.code() == ErrorCode::ResourceExhausted) {
                throttle_ms = throttle_ms.max(error.retry_after_ms());
            }
        }
        forwarded.sort_by_key(|(at, _)| *at);
        merge_results(results, forwarded);
        throttle_ms
    }
}

impl ForwardedChunk {
    async fn finish(
        self,
        forwarder: &PeerForwarder,
        origin: &CallOrigin,
        results: &mut Vec<(usize, v1::PartitionProduceResult)>,
    ) -> u32 {
        let outcome = self.outcome.await.unwrap_or_else(|_| {
            let message = "the agent stopped forwarding; it is unknown whether the records are stored";
            Err(Error::new(ErrorCode::NetworkException, message))
        });
        let alone = self.parts.len() == 1;
        let (answers, throttle_ms) = match outcome {
            Ok(response) => (Ok(response.partitions), response.throttle_ms),
            Err(error) if error.code() == ErrorCode::MessageTooLarge && !alone => {
                self.limit.lower(self.bytes);
                let message =
                    "the leader accepts only smaller requests than that of the forwarding agent: send again";
                (Err(Error::new(ErrorCode::LeaderNotAvailable, message)), 0)
            }
            Err(error) => (Err(error), 0),
        };
        let mut answers = answers.map(Vec::into_iter);
        for part in self.parts {
            let answer = match &mut answers {
                Ok(answers) => answers
                    .next()
                    .filter(|answer| answer.topic == part.topic && answer.partition == part.partition)
                    .ok_or_else(|| {
                        let message = "the leader left the partition out of its answer";
                        Error::new(ErrorCode::NetworkException, message)
                    }),
                Err(error) => Err(error.clone()),
            };
            results.push((part.at, part.result(forwarder, origin, answer)));
        }
        throttle_ms
    }
}

impl ForwardedPart {
    /// Returns the client's result from the leader's.
    fn result(
        self,
        forwarder: &PeerForwarder,
        origin: &CallOrigin,
        answer: Result<v1::PartitionProduceResult, Error>,
    ) -> v1::PartitionProduceResult {
        let mut result = answer
            .unwrap_or_else(|error| v1::PartitionProduceResult::failed(self.topic, self.partition, error));
        origin.translate_leader(&mut result.leader);
        match &result.error {
            None => result.leader = self.leader,
            Some(error) => {
                let code = ErrorCode::from_number(error.code);
                forwarder
                    .deps
                    .metrics
                    .forward
                    .record_error(ForwardKind::Produce, code);
                if matches!(code, ErrorCode::NotLeader | ErrorCode::LeaderNotAvailable) {
                    forwarder.deps.directory.request_refresh();
                }
            }
        }
        result
    }
}
