//! Drains an agent before its process exits: every lease is handed over to another agent, so that a
//! rolling restart loses nothing and no partition waits for a lease to expire.

use streamhouse_metadata::Error;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::{keeper::LeaseKeeper, lease_set::LeaseSet};
use crate::{health::ReadinessCondition, metrics::LeaseChange};

/// How long clients are redirected to the new leaders after the handover.
const REDIRECT_GRACE: Duration = Duration::from_secs(1);
/// How often the connections are checked during that time.
const CONNECTION_POLL_INTERVAL: Duration = Duration::from_millis(20);

impl LeaseKeeper {
    /// Drains, by `deadline` at the latest:
    /// 1. reports unready and marks this agent as draining, so that it gets no more leases;
    /// 2. batch by batch: stops accepting, stores and commits what is in flight, and hands the
    ///    leases over;
    /// 3. keeps redirecting clients to the new leaders for a while, as long as `connected` returns
    ///    `true`;
    /// 4. seals this incarnation and ends [`run`](Self::run).
    ///
    /// Leases not handed over by then move when they expire; acknowledged records are never lost.
    pub async fn drain(&self, deadline: Instant, connected: impl Fn() -> bool) {
        self.deps
            .health
            .set_unmet(ReadinessCondition::Serving, "draining");
        tracing::info!("draining: handing leases over");
        if let Some(tenure) = self.leases.load_full() {
            let over = tenure.session.ended.clone();
            let work = async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = self.drain_incarnation(&tenure, connected) => {}
                }
            };
            if timeout_at(deadline, work).await.is_err() {
                tracing::warn!("the drain timeout passed; remaining leases move when they expire");
            }
        }
        self.finish.cancel();
    }

    async fn drain_incarnation(&self, tenure: &LeaseSet, connected: impl Fn() -> bool) {
        let me = tenure.session.incarnation;
        let metadata = &self.deps.metadata;
        match tenure
            .retry_until_answered("draining", || metadata.drain(me))
            .await
        {
            Ok(()) => {}
            Err(Error::Sealed(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "could not mark this agent as draining; draining anyway")
            }
        }
        let alone = self.hand_over_all(tenure).await;
        if !alone {
            self.redirect_clients(connected).await;
        }
        if let Err(error) = tenure.retry_until_answered("sealing", || metadata.seal(me)).await {
            tracing::warn!(%error, "could not seal this incarnation; it ends when its lease expires");
        }
    }

    /// Hands over leases until the newest snapshot names this agent no more. Returns `true` if
    /// there was no other agent to hand them to.
    async fn hand_over_all(&self, tenure: &LeaseSet) -> bool {
        let me = tenure.session.incarnation;
        loop {
            let view = self.deps.directory.refresh().await;
            let moves = tenure.planned_handovers(&view, true);
            if moves.is_empty() {
                let mut records = view.topics().flat_map(|topic| &topic.record.partitions);
                if records.all(|record| record.holder != Some(me)) {
                    return !view
                        .agents()
                        .any(|agent| agent.incarnation != me && !agent.draining);
                }
            } else {
                tenure.hand_over(&moves, LeaseChange::Drained, None).await;
            }
        }
    }

    /// Keeps serving so that late producers are redirected to the new leaders.
    async fn redirect_clients(&self, connected: impl Fn() -> bool) {
        let until = Instant::now() + REDIRECT_GRACE;
        while connected() && Instant::now() < until {
            sleep(CONNECTION_POLL_INTERVAL).await;
        }
    }
}
