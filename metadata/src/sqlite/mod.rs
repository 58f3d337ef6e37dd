//! The metadata store in one SQLite file, the embedded default.
//!
//! One connection writes, so transactions are serialized; readers have their own connections. A
//! commit is on disk before it returns (WAL journal, synchronous=FULL).

mod agents;
mod cluster;
mod commit;
mod garbage;
mod groups;
mod leases;
mod log;
mod migrate;
mod owners;
mod recovery;
mod security;
mod segments;
mod topics;

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction, query_scalar,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub(crate) use self::migrate::{backup, drop_schema, migrate, overview};
use crate::{
    AclRow, ActiveProducer, AgentIdentity, AgentRegistration, AgentSecret, ClusterSnapshot, ClusterState,
    CommitOutcome, CommittedOffset, ConnectOptions, Error, GarbageBatch, GarbagePolicy, GroupLag, GroupQuery,
    GroupWrite, Incarnation, Lease, LeaseMove, LeaseMoveOutcome, LeaseRenewal, LogBounds, LogPosition,
    LogView, MetadataStore, MigrationRequest, NewSegment, NewTopic, ObjectCommit, OffsetCommit,
    OffsetCommitOutcome, OffsetDeletion, PartitionUid, PersistedGroup, QuotaAlteration, RecoveryOutcome,
    RecoveryRequest, Result, SchemaWindow, ScramAlteration, ScramAlterationOutcome, SecuritySnapshot,
    SegmentIntent, SilenceThreshold, Timeline, TopicChange, TopicEntry, TopicOwner, TopicsOverview,
    UnownedRows, UserRows,
    rows::to_unsigned,
    schema::{SchemaState, check_window},
    transaction::{SqliteErrorClass, TransactionResult, transact, with_timeout},
};

/// A [`MetadataStore`] in SQLite.
pub(crate) struct SqliteStore {
    /// One connection: SQLite allows one writer, and a queue here avoids lock waits inside SQLite.
    writer: SqlitePool,
    /// The readers; the same pool as `writer` for an in-memory store, which exists in one
    /// connection.
    reader: SqlitePool,
    /// Whether the two pools are distinct.
    is_file: bool,
    /// The time limit of a call. A call that was given up continues on its connection, which serves
    /// no other call before it ends.
    call_limit: Duration,
    /// The schema versions that an agent of this build registers on.
    window: SchemaWindow,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

/// Opens the store, creates it if it does not exist, and migrates it.
pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    let settings = connect_options(url)?.busy_timeout(options.statement_timeout);
    let writer = open_pool(options, is_in_memory(url), 1, settings.clone()).await?;
    // A file has one agent, or several of one build: none holds a migration up.
    let newest = MigrationRequest {
        ignore_agents: true,
        ..MigrationRequest::default()
    };
    migrate::run_migrations(&writer, options.schema, &newest).await?;
    open_store(url, options, writer, settings).await
}

/// Opens the store as it is.
pub(crate) async fn connect_existing(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    // Also refuses a file that does not exist, before it would be opened.
    let SchemaState { found, window } = overview(url, options).await?.schema;
    check_window(window, found)?;
    let settings = connect_options(url)?
        .create_if_missing(false)
        .busy_timeout(options.statement_timeout);
    let writer = open_pool(options, is_in_memory(url), 1, settings.clone()).await?;
    open_store(url, options, writer, settings).await
}

fn is_in_memory(url: &str) -> bool {
    url.contains(":memory:") || url.contains("mode=memory")
}

async fn open_pool(
    options: &ConnectOptions,
    in_memory: bool,
    connections: u32,
    settings: SqliteConnectOptions,
) -> Result<SqlitePool> {
    let pool = SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(options.acquire_timeout)
        // An in-memory store exists as long as its connection.
        .min_connections(u32::from(in_memory))
        .idle_timeout(None)
        .max_lifetime(None)
        // A connection to a file does not break by itself.
        .test_before_acquire(false);
    let opened = async { pool.connect_with(settings).await.map_err(store_error) };
    with_timeout(options.call_limit(), opened).await
}

/// Opens the readers of a store whose writer is open.
async fn open_store(
    url: &str,
    options: &ConnectOptions,
    writer: SqlitePool,
    settings: SqliteConnectOptions,
) -> Result<Arc<dyn MetadataStore>> {
    let in_memory = is_in_memory(url);
    let reader = if in_memory {
        writer.clone()
    } else {
        let readers = options.max_connections.max(1);
        open_pool(options, in_memory, readers, settings.read_only(true)).await?
    };
    Ok(Arc::new(SqliteStore {
        writer,
        reader,
        is_file: !in_memory,
        call_limit: options.call_limit(),
        window: options.schema,
    }))
}

/// Validates an address.
pub(crate) fn check_address(url: &str) -> Result<()> {
    parse_address(url).map(drop)
}

/// Returns the file that an address names.
pub(crate) fn file_path(url: &str) -> Result<PathBuf> {
    Ok(parse_address(url)?.get_filename().to_owned())
}

/// Parses an address.
fn parse_address(url: &str) -> Result<SqliteConnectOptions> {
    SqliteConnectOptions::from_str(url).map_err(|error| {
        Error::InvalidAddress(format!(
            "the SQLite address cannot be read: {error}; expected sqlite:PATH"
        ))
    })
}

/// Returns the options of every connection.
fn connect_options(url: &str) -> Result<SqliteConnectOptions> {
    Ok(parse_address(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .statement_cache_capacity(200))
}

/// Classifies an error of SQLite.
fn classify_error(error: sqlx::Error) -> SqliteErrorClass {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    let text = error.to_string();
    // The low byte of an extended code is the kind of failure: https://sqlite.org/rescode.html
    match code.map(|code| code & 0xff) {
        // BUSY, LOCKED: another process holds the file.
        Some(5 | 6) => SqliteErrorClass::Retryable(Error::Unavailable(text)),
        // READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
        Some(8 | 9 | 10 | 13 | 14 | 15) => SqliteErrorClass::Final(Error::Unavailable(text)),
        // CORRUPT, NOTADB.
        Some(11 | 26) => {
            SqliteErrorClass::Final(Error::Inconsistent(format!("the SQLite file is damaged: {text}")))
        }
        Some(_) => SqliteErrorClass::Final(Error::Inconsistent(text)),
        None => SqliteErrorClass::Final(match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Error::Inconsistent(text)
            }
            _ => Error::Unavailable(text),
        }),
    }
}

/// Converts an error of SQLite to the crate's error.
fn store_error(error: sqlx::Error) -> Error {
    match classify_error(error) {
        SqliteErrorClass::Retryable(error) | SqliteErrorClass::Final(error) => error,
    }
}

/// Returns the current time in milliseconds by SQLite's clock, which is the system's.
async fn current_time_ms(conn: &mut SqliteConnection) -> TransactionResult<i64> {
    Ok(query_scalar("SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)")
        .fetch_one(conn)
        .await?)
}

/// Returns the version of the snapshot.
async fn snapshot_version(conn: &mut SqliteConnection) -> TransactionResult<u64> {
    let version = query_scalar("SELECT version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(to_unsigned("the version", version)?)
}

impl SqliteStore {
    /// Begins a transaction that may write. It takes the write lock at once, so that it cannot fail
    /// later for lack of it.
    async fn begin_write(&self) -> TransactionResult<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Begins a transaction that reads one snapshot.
    async fn begin_read(&self) -> TransactionResult<Transaction<'static, Sqlite>> {
        Ok(self.reader.begin().await?)
    }
}

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn ping(&self) -> Result<()> {
        let version =
            transact!(self.call_limit, self.begin_read(), classify_error, tx => snapshot_version(&mut tx));
        version.map(|_: u64| ())
    }

    async fn close(&self) -> Result<()> {
        // The writer is closed last: with the last connection SQLite moves the journal into the
        // file.
        if self.is_file {
            self.reader.close().await;
        }
        self.writer.close().await;
        Ok(())
    }

    async fn cluster_state(&self) -> Result<ClusterState> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => cluster::cluster_state(&mut tx))
    }

    async fn advance_timeline(&self) -> Result<Timeline> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => cluster::advance_timeline(&mut tx))
    }

    async fn report_divergence(&self) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => cluster::report_divergence(&mut tx))
    }

    async fn recover(&self, recovery: &RecoveryRequest) -> Result<RecoveryOutcome> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => recovery::recover(&mut tx, recovery))
    }

    async fn unknown_objects(&self, keys: &[String]) -> Result<Vec<String>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => recovery::unknown_objects(&mut tx, keys))
    }

    async fn register_agent(&self, registration: &AgentRegistration) -> Result<AgentIdentity> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => agents::register(&mut tx, registration, self.window))
    }

    async fn renew(&self, incarnation: Incarnation) -> Result<LeaseRenewal> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => agents::renew_lease(&mut tx, incarnation))
    }

    async fn drain(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => agents::mark_draining(&mut tx, incarnation))
    }

    async fn seal(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => agents::seal(&mut tx, incarnation))
    }

    async fn seal_if_silent(&self, incarnation: Incarnation, silence: SilenceThreshold) -> Result<bool> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => agents::seal_if_silent(&mut tx, incarnation, silence))
    }

    async fn snapshot(&self, known: Option<u64>) -> Result<Option<ClusterSnapshot>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => leases::snapshot(&mut tx, known))
    }

    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<LeaseMoveOutcome>> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => leases::move_leases(&mut tx, moves))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicEntry> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => topics::create_topic(&mut tx, topic))
    }

    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicEntry> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => topics::alter_topic(&mut tx, name, change))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => topics::delete_topic(&mut tx, name))
    }

    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => owners::claim(&mut tx, name, owner))
    }

    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => owners::release(&mut tx, name, uid))
    }

    async fn topics_overview(&self) -> Result<TopicsOverview> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => owners::topics_overview(&mut tx))
    }

    async fn allocate_producer_id(&self) -> Result<i64> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => log::allocate_producer_id(&mut tx))
    }

    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => commit::commit_object(&mut tx, commit))
    }

    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => log::read_log(&mut tx, partition, from, limit))
    }

    async fn active_producers(&self, partition: PartitionUid, limit: usize) -> Result<Vec<ActiveProducer>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => log::active_producers(&mut tx, partition, limit))
    }

    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => log::bounds(&mut tx, partitions))
    }

    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => segments::begin_segment(&mut tx, lease, base_offset))
    }

    async fn reassign_segment_key(
        &self,
        lease: Lease,
        base_offset: i64,
        taken: &str,
    ) -> Result<SegmentIntent> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => segments::reassign_segment_key(&mut tx, lease, base_offset, taken))
    }

    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => segments::finish_segment(&mut tx, lease, segment))
    }

    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => segments::advance_log_start(&mut tx, lease, log_start))
    }

    async fn collect_garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<GarbageBatch> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => garbage::collect_garbage(&mut tx, policy, limit))
    }

    async fn confirm_deleted(&self, keys: &[String]) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => garbage::confirm_deleted(&mut tx, keys))
    }

    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => garbage::orphans(&mut tx, incarnation, sequences))
    }

    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => garbage::mark_swept(&mut tx, incarnation))
    }

    async fn groups(&self, which: &GroupQuery) -> Result<Vec<PersistedGroup>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => groups::groups(&mut tx, which))
    }

    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => groups::put_group(&mut tx, lease, group))
    }

    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetCommitOutcome>> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => groups::commit_offsets(&mut tx, lease, commit))
    }

    async fn delete_offsets(&self, lease: Lease, deletion: &OffsetDeletion) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => groups::delete_offsets(&mut tx, lease, deletion))
    }

    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => groups::group_lags(&mut tx, slots, limit))
    }

    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => groups::fetch_offsets(&mut tx, group_id))
    }

    async fn load_security(&self) -> Result<SecuritySnapshot> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => security::load_security(&mut tx))
    }

    async fn agent_secret(&self) -> Result<AgentSecret> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::agent_secret(&mut tx))
    }

    async fn alter_scram_credentials(
        &self,
        alteration: &ScramAlteration,
    ) -> Result<BTreeMap<String, ScramAlterationOutcome>> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::alter_scram_credentials(&mut tx, alteration))
    }

    async fn create_acls(&self, rows: &[AclRow]) -> Result<Vec<bool>> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::create_acls(&mut tx, rows))
    }

    async fn delete_acls(&self, rows: &[AclRow]) -> Result<Vec<bool>> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::delete_acls(&mut tx, rows))
    }

    async fn alter_client_quotas(&self, alteration: &QuotaAlteration) -> Result<()> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::alter_client_quotas(&mut tx, alteration))
    }

    async fn apply_user(&self, owner: &str, user: &UserRows, unowned: UnownedRows) -> Result<bool> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::apply_user(&mut tx, owner, user, unowned))
    }

    async fn delete_user(&self, owner: &str) -> Result<bool> {
        transact!(self.call_limit, self.begin_write(), classify_error, tx => security::delete_user(&mut tx, owner))
    }

    async fn find_owned_user(&self, owner: &str) -> Result<Option<UserRows>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => security::find_owned_user(&mut tx, owner))
    }

    async fn list_owned_users(&self, prefix: &str) -> Result<BTreeMap<String, UserRows>> {
        transact!(self.call_limit, self.begin_read(), classify_error, tx => security::list_owned_users(&mut tx, prefix))
    }
}
