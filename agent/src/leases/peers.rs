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
use streamhouse_metadata::{Incarnation, SilenceThreshold};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, Instant, sleep, timeout},
};

use super::LeaseDeps;
use crate::directory::ClusterView;

/// Interval between probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// Timeout of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum number of agents that one agent probes.
const MAX_SUCCESSORS: usize = 3;
/// Consecutive refusals after which an incarnation is sealed.
const MAX_REFUSALS: u32 = 3;
/// Consecutive failures after which an incarnation is sealed if not all were refusals.
const MAX_FAILURES: u32 = 5;
/// Timeout of the call to the metadata store.
const SEAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The outcome of connecting to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProbeResult {
    /// A running process accepted the connection.
    Answers,
    /// The host is up, and no process listens.
    Refuses,
    /// Anything else: a timeout, no route, an unknown name.
    Silent,
}

/// Connects once and shuts down the write half: a running server then closes the connection, with
/// TLS or without. For a stopped process, the operating system only accepts the connection.
pub(crate) async fn probe_address(address: &str) -> ProbeResult {
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
    match timeout(PROBE_TIMEOUT, asked).await {
        Ok(Ok(())) => ProbeResult::Answers,
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => ProbeResult::Refuses,
        _ => ProbeResult::Silent,
    }
}

/// The probe history of one incarnation.
#[derive(Debug, Default, Clone, Copy)]
struct PeerHealth {
    /// Whether its address responded at least once, and so can be reached from here.
    answered: bool,
    /// Consecutive failures, and how many of them were refusals.
    failures: u32,
    refusals: u32,
    /// When the first of them began.
    since: Option<Instant>,
}

impl PeerHealth {
    /// Records the outcome of a probe that began at `begun`. Returns how long the lease must have
    /// been silent for the incarnation to be sealed, if it should be.
    fn record_probe(&mut self, found: ProbeResult, begun: Instant) -> Option<SilenceThreshold> {
        if found == ProbeResult::Answers {
            *self = Self {
                answered: true,
                ..Self::default()
            };
            return None;
        }
        let since = *self.since.get_or_insert(begun);
        self.failures = self.failures.saturating_add(1);
        self.refusals += u32::from(found == ProbeResult::Refuses);
        let refused = self.failures == self.refusals;
        match (self.answered, refused) {
            (true, true) if self.failures >= MAX_REFUSALS => Some(SilenceThreshold::AtLeast(since.elapsed())),
            (true, false) if self.failures >= MAX_FAILURES => Some(SilenceThreshold::HalfLease),
            _ => None,
        }
    }

    /// Restarts the count of failures.
    fn reset_failures(&mut self) {
        *self = Self {
            answered: self.answered,
            ..Self::default()
        };
    }
}

/// Returns the incarnations that `me` probes: those that follow it in the ring of all incarnations,
/// with their addresses.
fn successors(view: &ClusterView, me: Incarnation) -> Vec<(Incarnation, String)> {
    let mut others: Vec<_> = view
        .agents()
        .filter(|agent| agent.incarnation != me && !agent.grpc_address.is_empty())
        .map(|agent| (agent.incarnation, agent.grpc_address.clone()))
        .collect();
    others.sort_unstable_by_key(|(incarnation, _)| (*incarnation < me, *incarnation));
    others.truncate(MAX_SUCCESSORS);
    others
}

/// Probes the successors of this incarnation; never returns.
pub(super) async fn watch_peers(deps: &LeaseDeps, me: Incarnation) {
    let mut peers: HashMap<Incarnation, PeerHealth> = HashMap::new();
    loop {
        sleep(PROBE_INTERVAL).await;
        let successors = successors(&deps.directory.view(), me);
        peers.retain(|life, _| successors.iter().any(|(successor, _)| successor == life));
        let begun = Instant::now();
        let found = join_all(successors.iter().map(|(_, address)| probe_address(address))).await;
        for ((life, address), found) in successors.iter().zip(found) {
            let peer = peers.entry(*life).or_default();
            let Some(silence) = peer.record_probe(found, begun) else {
                continue;
            };
            if seal_peer(deps, *life, address, silence).await {
                peers.remove(life);
            } else {
                peer.reset_failures();
            }
        }
    }
}

/// Seals an incarnation if its lease is as silent as its address.
async fn seal_peer(deps: &LeaseDeps, life: Incarnation, address: &str, silence: SilenceThreshold) -> bool {
    match timeout(SEAL_TIMEOUT, deps.metadata.seal_if_silent(life, silence)).await {
        Ok(Ok(true)) => {
            tracing::warn!(
                incarnation = life.0,
                address,
                ?silence,
                "an agent neither responds nor renews its lease: sealed its incarnation"
            );
            deps.directory.request_refresh();
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

    fn observe_all(peer: &mut PeerHealth, found: &[ProbeResult]) -> Vec<Option<SilenceThreshold>> {
        let begun = Instant::now();
        found
            .iter()
            .map(|found| peer.record_probe(*found, begun))
            .collect()
    }

    #[test]
    fn a_life_is_judged_after_refusals_in_a_row_and_by_how_long_they_last() {
        let mut peer = PeerHealth::default();
        let begun = Instant::now() - PROBE_INTERVAL * 2;
        assert_eq!(peer.record_probe(ProbeResult::Answers, begun), None);
        assert_eq!(observe_all(&mut peer, &[ProbeResult::Refuses; 2]), [None, None]);
        assert_eq!(peer.record_probe(ProbeResult::Answers, begun), None);
        assert_eq!(peer.record_probe(ProbeResult::Refuses, begun), None);
        assert_eq!(peer.record_probe(ProbeResult::Refuses, Instant::now()), None);
        let verdict = peer.record_probe(ProbeResult::Refuses, Instant::now());
        assert!(
            matches!(verdict, Some(SilenceThreshold::AtLeast(silence)) if silence >= PROBE_INTERVAL * 2),
            "since the first refusal: {verdict:?}"
        );
        peer.reset_failures();
        assert_eq!(observe_all(&mut peer, &[ProbeResult::Refuses; 2]), [None, None]);
    }

    #[test]
    fn an_address_that_says_nothing_needs_more_and_a_missed_renewal() {
        let mut peer = PeerHealth::default();
        peer.record_probe(ProbeResult::Answers, Instant::now());
        let verdicts = observe_all(
            &mut peer,
            &[
                ProbeResult::Refuses,
                ProbeResult::Silent,
                ProbeResult::Silent,
                ProbeResult::Refuses,
                ProbeResult::Refuses,
            ],
        );
        assert_eq!(
            verdicts,
            [None, None, None, None, Some(SilenceThreshold::HalfLease)]
        );
    }

    #[test]
    fn an_address_that_never_answered_is_not_judged() {
        let mut peer = PeerHealth::default();
        for found in [ProbeResult::Refuses, ProbeResult::Silent] {
            assert!(observe_all(&mut peer, &[found; 20]).iter().all(Option::is_none));
        }
    }

    #[tokio::test]
    async fn a_port_answers_refuses_or_says_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepting = async { drop(listener.accept().await.unwrap()) };
        let (answer, ()) = tokio::join!(probe_address(&address), accepting);
        assert_eq!(answer, ProbeResult::Answers);
        // Like a stopped process: the operating system accepts the connection.
        assert_eq!(probe_address(&address).await, ProbeResult::Silent);
        drop(listener);
        assert_eq!(probe_address(&address).await, ProbeResult::Refuses);
        assert_eq!(probe_address("no such address").await, ProbeResult::Silent);
    }
}
