//! The metadata store in PostgreSQL, for production.
//!
//! Uses READ COMMITTED with explicit row locks; see `agents` for their order. Each call is bounded
//! in time: the acquisition of a connection, each statement, each lock, and an idle transaction.

mod address;
mod agents;
mod cluster;
mod commit;
mod connection;
mod errors;
mod garbage;
mod groups;
mod leases;
mod log;
mod migrate;
mod owners;
#[cfg(test)]
mod plans;
mod pool;
mod recovery;
mod security;
mod segments;
mod store_call;
mod tls;
mod topics;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{timeout, timeout_at};

use self::{
    address::PostgresAddress,
    errors::store_error,
    pool::{ConnectionPools, PoolPurpose, unresponsive_error},
    store_call::StoreCall,
};
pub(crate) use self::{
    connection::{PostgresConnector, ServerTimeouts, StoreConnection, TransactionScope},
    migrate::{drop_schema, migrate, overview},
};
use crate::{
    AclRow, ActiveProducer, AgentIdentity, AgentRegistration, AgentSecret, ClusterSnapshot, ClusterState,
    CommitOutcome, CommittedOffset, ConnectOptions, GarbageBatch, GarbagePolicy, GroupLag, GroupQuery,
    GroupWrite, Incarnation, Lease, LeaseMove, LeaseMoveOutcome, LeaseRenewal, LogBounds, LogPosition,
    LogView, MetadataStore, NewSegment, NewTopic, ObjectCommit, OffsetCommit, OffsetCommitOutcome,
    OffsetDeletion, PartitionUid, PersistedGroup, QuotaAlteration, RecoveryOutcome, RecoveryRequest, Result,
    ScramAlteration, ScramAlterationOutcome, SecuritySnapshot, SegmentIntent, SilenceThreshold, Timeline,
    TopicChange, TopicEntry, TopicOwner, TopicsOverview, UnownedRows, UserRows,
    transaction::{TransactionError, TransactionResult, with_timeout},
};

/// A [`MetadataStore`] in PostgreSQL.
pub(crate) struct PostgresStore {
    pools: ConnectionPools,
    /// Which schema versions an agent of this build registers on.
    fence: migrate::RegistrationFence,
    /// The time limits of an attempt that has a connection, and of a call as a whole.
    limits: (Duration, Duration),
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the pools: their settings contain the password.
        f.debug_struct("PostgresStore")
            .field("idle_connections", &self.pools.idle_count())
            .finish_non_exhaustive()
    }
}

/// Validates an address.
pub(crate) fn check_address(url: &str) -> Result<()> {
    url.parse::<PostgresAddress>().map(drop)
}

/// Opens one connection outside the pools, and returns the exact error if that fails.
pub(crate) async fn connect_once(
    opening: &PostgresConnector,
    options: &ConnectOptions,
) -> Result<StoreConnection> {
    match timeout(options.acquire_timeout, opening.open()).await {
        Ok(connected) => connected.map_err(store_error),
        Err(_) => Err(unresponsive_error(opening)),
    }
}

/// Opens the store and checks its schema.
pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    let opening = PostgresConnector::new(url, options, ServerTimeouts::from_options(options))?;
    let mut first = connect_once(&opening, options).await?;
    let fence = with_timeout(options.attempt_limit(), async {
        let fence = migrate::check_schema(&mut first, options.schema).await?;
        first.close().await.map_err(store_error)?;
        Ok(fence)
    })
    .await?;
    Ok(Arc::new(PostgresStore {
        fence,
        pools: ConnectionPools::new(opening, options),
        limits: (options.attempt_limit(), options.call_limit()),
    }))
}

/// Runs `$body` in `$scope` on a connection `$conn` for `$purpose`. Every wait is bounded, and a
/// call that failed because of its connection is retried on another one.
macro_rules! call {
    ($store:expr, $purpose:ident, $scope:ident, $conn:ident => $body:expr) => {{
        let mut call = $store.call(PoolPurpose::$purpose, TransactionScope::$scope);
        loop {
            let (connection, outcome) = match call.acquire().await {
                Ok(mut connection) => {
                    let attempt = async {
                        call.begin(&mut connection).await?;
                        let $conn = &mut connection.conn;
                        let done: TransactionResult<_> = $body.await;
                        connection.end_transaction(done).await
                    };
                    let outcome = timeout_at(call.attempt_deadline(), attempt).await;
                    (
                        Some(connection),
                        outcome.unwrap_or(Err(TransactionError::TimedOut)),
                    )
                }
                Err(failure) => (None, Err(failure)),
            };
            if let Some(result) = call.finish_attempt(connection, outcome).await {
                break result;
            }
        }
    }};
}

/// Runs `$body` with [`call!`] in a transaction.
macro_rules! transact {
    ($store:expr, $purpose:ident, $conn:ident => $body:expr) => {
        call!($store, $purpose, Transaction, $conn => $body)
    };
}

/// Runs `$body` with [`call!`] without a transaction: one statement, or several independent ones.
macro_rules! statement {
    ($store:expr, $purpose:ident, $conn:ident => $body:expr) => {
        call!($store, $purpose, Statement, $conn => $body)
    };
}

impl PostgresStore {
    fn call(&self, purpose: PoolPurpose, scope: TransactionScope) -> StoreCall<'_> {
        StoreCall::new(self.pools.pool_for(purpose), purpose, scope, self.limits)
    }

    /// Seals agents with an expired lease. The caller's renewal has succeeded, so a failure is only
    /// logged.
    async fn seal_expired(&self) -> Option<LeaseRenewal> {
        let sealed: Result<Option<LeaseRenewal>> =
            transact!(self, Leases, conn => agents::seal_expired(conn));
        sealed.unwrap_or_else(|error| {
            tracing::warn!(%error, "agents with an expired lease could not be sealed; the next renewal tries again");
            None
        })
    }
}

#[async_trait]
impl MetadataStore for PostgresStore {
    async fn ping(&self) -> Result<()> {
        statement!(self, Reads, conn => leases::snapshot_version(conn)).map(|_| ())
    }

    async fn close(&self) -> Result<()> {
        self.pools.close(self.limits.0).await;
        Ok(())
    }

    async fn cluster_state(&self) -> Result<ClusterState> {
        statement!(self, Leases, conn => cluster::cluster_state(conn))
    }

    async fn advance_timeline(&self) -> Result<Timeline> {
        transact!(self, Leases, conn => cluster::advance_timeline(conn))
    }

    async fn report_divergence(&self) -> Result<()> {
        statement!(self, Leases, conn => cluster::report_divergence(conn))
    }

    async fn recover(&self, recovery: &RecoveryRequest) -> Result<RecoveryOutcome> {
        transact!(self, Writes, conn => recovery::recover(conn, recovery))
    }

    async fn unknown_objects(&self, keys: &[String]) -> Result<Vec<String>> {
        statement!(self, Reads, conn => recovery::unknown_objects(conn, keys))
    }

    async fn register_agent(&self, registration: &AgentRegistration) -> Result<AgentIdentity> {
        transact!(self, Leases, conn => agents::register(conn, registration, self.fence))
    }

    async fn renew(&self, incarnation: Incarnation) -> Result<LeaseRenewal> {
        let (renewed, expired) = statement!(self, Leases, conn => agents::renew_lease(conn, incarnation))?;
        let sealed = if expired { self.seal_expired().await } else { None };
        Ok(sealed.unwrap_or(renewed))
    }

    async fn drain(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self, Leases, conn => agents::mark_draining(conn, incarnation))
    }

    async fn seal(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self, Leases, conn => agents::seal(conn, incarnation))
    }

    async fn seal_if_silent(&self, incarnation: Incarnation, silence: SilenceThreshold) -> Result<bool> {
        transact!(self, Leases, conn => agents::seal_if_silent(conn, incarnation, silence))
    }

    async fn snapshot(&self, known: Option<u64>) -> Result<Option<ClusterSnapshot>> {
        if let Some(known) = known
            && statement!(self, Leases, conn => leases::snapshot_version(conn))? == known
        {
            return Ok(None);
        }
        let snapshot: Result<ClusterSnapshot> =
            call!(self, Leases, ReadOnlySnapshot, conn => leases::snapshot(conn));
        snapshot.map(Some)
    }

    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<LeaseMoveOutcome>> {
        transact!(self, Leases, conn => leases::move_leases(conn, moves))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicEntry> {
        transact!(self, Writes, conn => topics::create_topic(conn, topic))
    }

    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicEntry> {
        transact!(self, Writes, conn => topics::alter_topic(conn, name, change))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        transact!(self, Writes, conn => topics::delete_topic(conn, name))
    }

    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        statement!(self, Writes, conn => owners::claim(conn, name, owner))
    }

    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
        statement!(self, Writes, conn => owners::release(conn, name, uid))
    }

    async fn topics_overview(&self) -> Result<TopicsOverview> {
        statement!(self, Reads, conn => owners::topics_overview(conn))
    }

    async fn allocate_producer_id(&self) -> Result<i64> {
        statement!(self, Writes, conn => log::allocate_producer_id(conn))
    }

    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
        transact!(self, Writes, conn => commit::commit_object(conn, commit))
    }

    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView> {
        statement!(self, Reads, conn => log::read_log(conn, partition, from, limit))
    }

    async fn active_producers(&self, partition: PartitionUid, limit: usize) -> Result<Vec<ActiveProducer>> {
        statement!(self, Reads, conn => log::active_producers(conn, partition, limit))
    }

    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
        statement!(self, Reads, conn => log::bounds(conn, partitions))
    }

    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent> {
        transact!(self, Writes, conn => segments::begin_segment(conn, lease, base_offset))
    }

    async fn reassign_segment_key(
        &self,
        lease: Lease,
        base_offset: i64,
        taken: &str,
    ) -> Result<SegmentIntent> {
        transact!(self, Writes, conn => segments::reassign_segment_key(conn, lease, base_offset, taken))
    }

    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()> {
        transact!(self, Writes, conn => segments::finish_segment(conn, lease, segment))
    }

    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64> {
        transact!(self, Writes, conn => segments::advance_log_start(conn, lease, log_start))
    }

    async fn collect_garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<GarbageBatch> {
        // Each step is a short transaction of its own; one that fails does not prevent the others.
        let purged: Result<bool> = transact!(self, Reads, conn => garbage::purge_topics(conn));
        let producers: Result<bool> =
            statement!(self, Reads, conn => garbage::expire_producers(conn, policy));
        let offsets: Result<bool> = transact!(self, Reads, conn => garbage::expire_offsets(conn, policy));
        let incarnations: Result<bool> =
            transact!(self, Reads, conn => garbage::delete_swept_incarnations(conn, policy));
        let abandoned: Result<bool> = statement!(self, Reads, conn => garbage::queue_abandoned(conn, policy));
        let found: GarbageBatch =
            statement!(self, Reads, conn => garbage::find_unreferenced(conn, policy, limit))?;
        let steps = [
            ("purging deleted topics", purged),
            ("removing idle producers", producers),
            ("expiring group offsets", offsets),
            ("removing sealed incarnations", incarnations),
            ("queueing abandoned segments", abandoned),
        ];
        let more = steps
            .into_iter()
            .fold(found.more, |more, (step, done)| match done {
                Ok(left) => more | left,
                Err(error) => {
                    tracing::warn!(step, %error, "a step of garbage collection failed; the next round tries again");
                    more
                }
            });
        Ok(GarbageBatch { more, ..found })
    }

    async fn confirm_deleted(&self, keys: &[String]) -> Result<()> {
        transact!(self, Reads, conn => garbage::confirm_deleted(conn, keys))
    }

    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>> {
        statement!(self, Reads, conn => garbage::orphans(conn, incarnation, sequences))
    }

    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self, Reads, conn => garbage::mark_swept(conn, incarnation))
    }

    async fn groups(&self, which: &GroupQuery) -> Result<Vec<PersistedGroup>> {
        match which {
            GroupQuery::All => statement!(self, Reads, conn => groups::groups(conn, which)),
            // A coordinator cannot work without them, so they do not compete with other reads.
            GroupQuery::Slot(_) | GroupQuery::Id(_) => {
                statement!(self, Writes, conn => groups::groups(conn, which))
            }
        }
    }

    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()> {
        transact!(self, Writes, conn => groups::put_group(conn, lease, group))
    }

    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetCommitOutcome>> {
        transact!(self, Writes, conn => groups::commit_offsets(conn, lease, commit))
    }

    async fn delete_offsets(&self, lease: Lease, deletion: &OffsetDeletion) -> Result<()> {
        transact!(self, Writes, conn => groups::delete_offsets(conn, lease, deletion))
    }

    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>> {
        statement!(self, Reads, conn => groups::group_lags(conn, slots, limit))
    }

    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
        statement!(self, Reads, conn => groups::fetch_offsets(conn, group_id))
    }

    async fn load_security(&self) -> Result<SecuritySnapshot> {
        // An agent cannot judge anyone without it, so it does not compete with other reads.
        call!(self, Writes, ReadOnlySnapshot, conn => security::load_security(conn))
    }

    async fn agent_secret(&self) -> Result<AgentSecret> {
        transact!(self, Writes, conn => security::agent_secret(conn))
    }

    async fn alter_scram_credentials(
        &self,
        alteration: &ScramAlteration,
    ) -> Result<BTreeMap<String, ScramAlterationOutcome>> {
        transact!(self, Writes, conn => security::alter_scram_credentials(conn, alteration))
    }

    async fn create_acls(&self, rows: &[AclRow]) -> Result<Vec<bool>> {
        transact!(self, Writes, conn => security::create_acls(conn, rows))
    }

    async fn delete_acls(&self, rows: &[AclRow]) -> Result<Vec<bool>> {
        transact!(self, Writes, conn => security::delete_acls(conn, rows))
    }

    async fn alter_client_quotas(&self, alteration: &QuotaAlteration) -> Result<()> {
        transact!(self, Writes, conn => security::alter_client_quotas(conn, alteration))
    }

    async fn apply_user(&self, owner: &str, user: &UserRows, unowned: UnownedRows) -> Result<bool> {
        transact!(self, Writes, conn => security::apply_user(conn, owner, user, unowned))
    }

    async fn delete_user(&self, owner: &str) -> Result<bool> {
        transact!(self, Writes, conn => security::delete_user(conn, owner))
    }

    async fn find_owned_user(&self, owner: &str) -> Result<Option<UserRows>> {
        call!(self, Reads, ReadOnlySnapshot, conn => security::find_owned_user(conn, owner))
    }

    async fn list_owned_users(&self, prefix: &str) -> Result<BTreeMap<String, UserRows>> {
        call!(self, Reads, ReadOnlySnapshot, conn => security::list_owned_users(conn, prefix))
    }
}
