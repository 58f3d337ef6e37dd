//! The orderly end: every lease goes to another agent before the process exits, so that a rolling restart loses nothing
//! and no partition waits for a lease to expire.

use streamhouse_metadata::Error;
use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::{keeper::Keeper, tenure::Tenure};
use crate::{health::Condition, metrics::LeaseChange};

/// How long clients are told who leads now, after everything is handed over.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often the farewell looks whether anybody is still there.
const LOOK: Duration = Duration::from_millis(20);

impl Keeper {
    /// Drains, by `deadline` at the latest:
    /// 1. not ready any more, and marked as draining, so that nobody gives this agent leases;
    /// 2. batch by batch: stop taking, store and commit what is in flight, hand the leases over;
    /// 3. keep naming the new leaders for a moment, while `connected` says that clients are there;
    /// 4. seal this life and end [`run`](Self::run).
    ///
    /// What could not be handed over by then moves when the lease expires; nothing acknowledged is lost.
    pub async fn drain(&self, deadline: Instant, connected: impl Fn() -> bool) {
        self.node.health.unmet(Condition::Serving, "draining");
        tracing::info!("draining: handing leases over");
        if let Some(tenure) = self.tenure.load_full() {
            let over = tenure.life.over.clone();
            let work = async {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = self.leave(&tenure, connected) => {}
                }
            };
            if timeout_at(deadline, work).await.is_err() {
                tracing::warn!("the drain timeout passed; leases that are left move when they expire");
            }
        }
        self.finish.cancel();
    }

    async fn leave(&self, tenure: &Tenure, connected: impl Fn() -> bool) {
        let me = tenure.life.incarnation;
        let metadata = &self.node.metadata;
        match tenure.insist("draining", || metadata.drain(me)).await {
            Ok(()) => {}
            Err(Error::Sealed(_)) => return,
            Err(error) => {
                tracing::warn!(%error, "the cluster does not know that this agent drains; going on")
            }
        }
        let alone = self.hand_everything_over(tenure).await;
        if !alone {
            self.say_farewell(connected).await;
        }
        if let Err(error) = tenure.insist("sealing", || metadata.seal(me)).await {
            tracing::warn!(%error, "this life could not be sealed; it ends when its lease expires");
        }
    }

    /// Until the newest snapshot has nothing of ours. `true` when there was nobody to give to.
    async fn hand_everything_over(&self, tenure: &Tenure) -> bool {
        let me = tenure.life.incarnation;
        loop {
            let view = self.node.directory.refresh().await;
            let moves = tenure.gifts(&view, true);
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

    /// Producers that come late learn who leads.
    async fn say_farewell(&self, connected: impl Fn() -> bool) {
        let until = Instant::now() + FAREWELL;
        while connected() && Instant::now() < until {
            sleep(LOOK).await;
        }
    }
}
