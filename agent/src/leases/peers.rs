//! Detects dead agents long before their leases expire. Every agent regularly connects to the gRPC
//! addresses of a few others, its successors in the ring of incarnations, so that the cost does not
//! grow with the cluster. An incarnation whose address keeps refusing connections is sealed, and
//! one whose address is silent if it also missed a renewal.
//!
//! The observer itself may be cut off. The metadata store therefore decides in one transaction: it
//! ends only a lease that was not renewed meanwhile. Addresses that never responded to this agent
//! are not judged. Ending an incarnation early is safe: commits are fenced (INV-L1), and a live
//! agent starts a new incarnation.

use std::{collections::HashMap, io::ErrorKind};

use futures::future::join_all;
use streamhouse_metadata::{Incarnation, Silence};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant, sleep, timeout},
};

use crate::{directory::View, node::Node};

/// Interval between probes.
const EVERY: Duration = Duration::from_millis(500);
/// Timeout of one probe.
const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum number of agents that one agent probes.
const SUCCESSORS: usize = 3;
/// Consecutive refusals after which an incarnation is sealed.
const REFUSALS: u32 = 3;
/// Consecutive failures after which an incarnation is sealed if not all were refusals.
const SILENCES: u32 = 5;
/// Timeout of the call to the metadata store.
const VERDICT: Duration = Duration::from_secs(5);

/// The outcome of connecting to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probe {
    /// A running process accepted the connection.
    Answers,
    /// The host is up, and no process listens.
    Refuses,
    /// Anything else: a timeout, no route, an unknown name.
    Silent,
}

/// Connects once and shuts down the write half: a running server then closes the connection, with
/// TLS or without. For a stopped process, the operating system only accepts the connection.
pub(crate) async fn probe(address: &str) -> Probe {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.shutdown().await?;
        match stream.read(&mut [0]).await {
            // The server closed the connection or sent something.
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(error),
        }
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(())) => Probe::Answers,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Probe::Refuses,
        _ => Probe::Silent,
    }
}

/// The probe history of one incarnation.
#[derive(Debug, Default, Clone, Copy)]
struct Peer {
    /// Whether its address responded at least once, and so can be reached from here.
    answered: bool,
    /// Consecutive failures, and how many of them were refusals.
    failures: u32,
    refusals: u32,
    /// When the first of them began.
    since: Option<Instant>,
}

impl Peer {
    /// Records the outcome of a probe that began at `begun`. Returns how long the lease must have
    /// been silent for the incarnation to be sealed, if it should be.
    fn observe(&mut self, found: Probe, begun: Instant) -> Option<Silence> {
        if found == Probe::Answers {
            *self = Self {
                answered: true,
                ..Self::default()
            };
            return None;
        }
        let since = *self.since.get_or_insert(begun);
        self.failures = self.failures.saturating_add(1);
        self.refusals += u32::from(found == Probe::Refuses);
        let refused = self.failures == self.refusals;
        match (self.answered, refused) {
            (true, true) if self.failures >= REFUSALS => Some(Silence::For(since.elapsed())),
            (true, false) if self.failures >= SILENCES => Some(Silence::HalfLease),
            _ => None,
        }
    }

    /// Restarts the count of failures.
    fn forgive(&mut self) {
        *self = Self {
            answered: self.answered,
            ..Self::default()
        };
    }
}

/// Returns the incarnations that `me` probes: those that follow it in the ring of all incarnations,
/// with their addresses.
fn successors(view: &View, me: Incarnation) -> Vec<(Incarnation, String)> {
    let mut others: Vec<_> = view
        .agents()
        .filter(|agent| agent.incarnation != me && !agent.grpc_address.is_empty())
        .map(|agent| (agent.incarnation, agent.grpc_address.clone()))
        .collect();
    others.sort_unstable_by_key(|(incarnation, _)| (*incarnation < me, *incarnation));
    others.truncate(SUCCESSORS);
    others
}

/// Probes the successors of this incarnation; never returns.
pub(super) async fn watch(node: &Node, me: Incarnation) {
    let mut peers: HashMap<Incarnation, Peer> = HashMap::new();
    loop {
        sleep(EVERY).await;
        let successors = successors(&node.directory.view(), me);
        peers.retain(|life, _| successors.iter().any(|(successor, _)| successor == life));
        let begun = Instant::now();
        let found = join_all(successors.iter().map(|(_, address)| probe(address))).await;
        for ((life, address), found) in successors.iter().zip(found) {
            let peer = peers.entry(*life).or_default();
            let Some(silence) = peer.observe(found, begun) else {
                continue;
            };
            if seal(node, *life, address, silence).await {
                peers.remove(life);
            } else {
                peer.forgive();
            }
        }
    }
}

/// Seals an incarnation if its lease is as silent as its address.
async fn seal(node: &Node, life: Incarnation, address: &str, silence: Silence) -> bool {
    match timeout(VERDICT, node.metadata.seal_silent(life, silence)).await {
        Ok(Ok(true)) => {
            tracing::warn!(
                incarnation = life.0,
                address,
                ?silence,
                "an agent neither responds nor renews its lease: sealed its incarnation"
            );
            node.directory.want();
            true
        }
        Ok(Ok(false)) => {
            tracing::info!(
                incarnation = life.0,
                address,
                "an agent does not respond to this one, but renews its lease"
            );
            false
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "an agent that does not respond could not be sealed");
            false
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn observe_all(peer: &mut Peer, found: &[Probe]) -> Vec<Option<Silence>> {
        let begun = Instant::now();
        found.iter().map(|found| peer.observe(*found, begun)).collect()
    }

    #[test]
    fn a_life_is_judged_after_refusals_in_a_row_and_by_how_long_they_last() {
        let mut peer = Peer::default();
        let begun = Instant::now() - EVERY * 2;
        assert_eq!(peer.observe(Probe::Answers, begun), None);
        assert_eq!(observe_all(&mut peer, &[Probe::Refuses; 2]), [None, None]);
        assert_eq!(peer.observe(Probe::Answers, begun), None);
        assert_eq!(peer.observe(Probe::Refuses, begun), None);
        assert_eq!(peer.observe(Probe::Refuses, Instant::now()), None);
        let verdict = peer.observe(Probe::Refuses, Instant::now());
        assert!(
            matches!(verdict, Some(Silence::For(silence)) if silence >= EVERY * 2),
            "since the first refusal: {verdict:?}"
        );
        peer.forgive();
        assert_eq!(observe_all(&mut peer, &[Probe::Refuses; 2]), [None, None]);
    }

    #[test]
    fn an_address_that_says_nothing_needs_more_and_a_missed_renewal() {
        let mut peer = Peer::default();
        peer.observe(Probe::Answers, Instant::now());
        let verdicts = observe_all(
            &mut peer,
            &[
                Probe::Refuses,
                Probe::Silent,
                Probe::Silent,
                Probe::Refuses,
                Probe::Refuses,
            ],
        );
        assert_eq!(verdicts, [None, None, None, None, Some(Silence::HalfLease)]);
    }

    #[test]
    fn an_address_that_never_answered_is_not_judged() {
        let mut peer = Peer::default();
        for found in [Probe::Refuses, Probe::Silent] {
            assert!(observe_all(&mut peer, &[found; 20]).iter().all(Option::is_none));
        }
    }

    #[tokio::test]
    async fn a_port_answers_refuses_or_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepting = async { drop(listener.accept().await.unwrap()) };
        let (answer, ()) = tokio::join!(probe(&address), accepting);
        assert_eq!(answer, Probe::Answers);
        // Like a stopped process: the operating system accepts the connection.
        assert_eq!(probe(&address).await, Probe::Silent);
        drop(listener);
        assert_eq!(probe(&address).await, Probe::Refuses);
        assert_eq!(probe("no such address").await, Probe::Silent);
    }
}
