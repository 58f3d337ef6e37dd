//! The metadata store in one SQLite file, the embedded default.
//!
//! One connection writes, so transactions are serialized; readers have their own connections. A
//! commit is on disk before it returns (WAL journal, synchronous=FULL).

mod agents;
mod cluster;
mod commit;
mod garbage;
mod groups;
mod log;
mod migrate;
mod owners;
mod segments;
mod topics;

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    Sqlite, SqliteConnection, SqlitePool, Transaction, query_scalar,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub(crate) use self::migrate::{backup, cluster_id, drop_schema, live_agent, migrate, schema};
use crate::{
    AgentRegistration, ClusterState, CommitOutcome, CommittedOffset, ConnectOptions, Error, Garbage,
    GarbagePolicy, GroupLag, GroupQuery, GroupRecord, GroupWrite, Incarnation, Lease, LeaseMove, LogBounds,
    LogPosition, LogView, MetadataStore, MoveOutcome, NewSegment, NewTopic, ObjectCommit, OffsetCommit,
    OffsetOutcome, PartitionUid, Recovered, Recovery, Registered, Renewed, Result, SegmentIntent, Silence,
    Snapshot, Timeline, TopicChange, TopicOwner, TopicRecord, TopicsOverview,
    failure::{Meaning, Outcome, transact, within},
    rows::unsigned,
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
    limit: Duration,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

/// Opens the store, creates it if it does not exist, and migrates it.
pub(crate) async fn connect(url: &str, options: &ConnectOptions) -> Result<Arc<dyn MetadataStore>> {
    let in_memory = url.contains(":memory:") || url.contains("mode=memory");
    let settings = connect_options(url)?.busy_timeout(options.statement_timeout);
    let pool = |connections| {
        SqlitePoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(options.acquire_timeout)
            // An in-memory store exists as long as its connection.
            .min_connections(u32::from(in_memory))
            .idle_timeout(None)
            .max_lifetime(None)
            // A connection to a file does not break by itself.
            .test_before_acquire(false)
    };
    let open = async |connections, settings| {
        let opened = async { pool(connections).connect_with(settings).await.map_err(refusal) };
        within(options.call_limit(), opened).await
    };
    let writer = open(1, settings.clone()).await?;
    migrate::run(&writer).await?;
    let reader = if in_memory {
        writer.clone()
    } else {
        open(options.max_connections.max(1), settings.read_only(true)).await?
    };
    Ok(Arc::new(SqliteStore {
        writer,
        reader,
        is_file: !in_memory,
        limit: options.call_limit(),
    }))
}

/// Validates an address.
pub(crate) fn check_address(url: &str) -> Result<()> {
    parse(url).map(drop)
}

/// Parses an address.
fn parse(url: &str) -> Result<SqliteConnectOptions> {
    SqliteConnectOptions::from_str(url).map_err(|error| {
        Error::Address(format!(
            "the SQLite address cannot be read: {error}; expected sqlite:PATH"
        ))
    })
}

/// Returns the options of every connection.
fn connect_options(url: &str) -> Result<SqliteConnectOptions> {
    Ok(parse(url)?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .statement_cache_capacity(200))
}

/// Classifies an error of SQLite.
fn meaning(error: sqlx::Error) -> Meaning {
    let code = error
        .as_database_error()
        .and_then(|error| error.code())
        .and_then(|code| code.parse::<i32>().ok());
    let text = error.to_string();
    // The low byte of an extended code is the kind of failure: https://sqlite.org/rescode.html
    match code.map(|code| code & 0xff) {
        // BUSY, LOCKED: another process holds the file.
        Some(5 | 6) => Meaning::TryAgain(Error::Unavailable(text)),
        // READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL.
        Some(8 | 9 | 10 | 13 | 14 | 15) => Meaning::Final(Error::Unavailable(text)),
        // CORRUPT, NOTADB.
        Some(11 | 26) => Meaning::Final(Error::Inconsistent(format!("the SQLite file is damaged: {text}"))),
        Some(_) => Meaning::Final(Error::Inconsistent(text)),
        None => Meaning::Final(match error {
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) | sqlx::Error::RowNotFound => {
                Error::Inconsistent(text)
            }
            _ => Error::Unavailable(text),
        }),
    }
}

/// Converts an error of SQLite to the crate's error.
fn refusal(error: sqlx::Error) -> Error {
    match meaning(error) {
        Meaning::TryAgain(error) | Meaning::Final(error) => error,
    }
}

/// Returns the current time in milliseconds by SQLite's clock, which is the system's.
async fn now(conn: &mut SqliteConnection) -> Outcome<i64> {
    Ok(query_scalar("SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER)")
        .fetch_one(conn)
        .await?)
}

/// Returns the version of the snapshot.
async fn version(conn: &mut SqliteConnection) -> Outcome<u64> {
    let version = query_scalar("SELECT version FROM cluster")
        .fetch_one(conn)
        .await?;
    Ok(unsigned("the version", version)?)
}

impl SqliteStore {
    /// Begins a transaction that may write. It takes the write lock at once, so that it cannot fail
    /// later for lack of it.
    async fn write(&self) -> Outcome<Transaction<'static, Sqlite>> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    /// Begins a transaction that reads one snapshot.
    async fn read(&self) -> Outcome<Transaction<'static, Sqlite>> {
        Ok(self.reader.begin().await?)
    }
}

#[async_trait]
impl MetadataStore for SqliteStore {
    async fn ping(&self) -> Result<()> {
        let version = transact!(self.limit, self.read(), meaning, tx => version(&mut tx));
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

    async fn cluster(&self) -> Result<ClusterState> {
        transact!(self.limit, self.read(), meaning, tx => cluster::state(&mut tx))
    }

    async fn advance_timeline(&self) -> Result<Timeline> {
        transact!(self.limit, self.write(), meaning, tx => cluster::advance(&mut tx))
    }

    async fn report_divergence(&self) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => cluster::diverge(&mut tx))
    }

    async fn recover(&self, recovery: &Recovery) -> Result<Recovered> {
        transact!(self.limit, self.write(), meaning, tx => cluster::recover(&mut tx, recovery))
    }

    async fn unknown_objects(&self, keys: &[String]) -> Result<Vec<String>> {
        transact!(self.limit, self.read(), meaning, tx => cluster::unknown(&mut tx, keys))
    }

    async fn register_agent(&self, registration: &AgentRegistration) -> Result<Registered> {
        transact!(self.limit, self.write(), meaning, tx => agents::register(&mut tx, registration))
    }

    async fn renew(&self, incarnation: Incarnation) -> Result<Renewed> {
        transact!(self.limit, self.write(), meaning, tx => agents::renew(&mut tx, incarnation))
    }

    async fn drain(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => agents::drain(&mut tx, incarnation))
    }

    async fn seal(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => agents::seal(&mut tx, incarnation))
    }

    async fn seal_silent(&self, incarnation: Incarnation, silence: Silence) -> Result<bool> {
        transact!(self.limit, self.write(), meaning, tx => agents::seal_silent(&mut tx, incarnation, silence))
    }

    async fn snapshot(&self, known: Option<u64>) -> Result<Option<Snapshot>> {
        transact!(self.limit, self.read(), meaning, tx => agents::snapshot(&mut tx, known))
    }

    async fn move_leases(&self, moves: &[LeaseMove]) -> Result<Vec<MoveOutcome>> {
        transact!(self.limit, self.write(), meaning, tx => agents::move_leases(&mut tx, moves))
    }

    async fn create_topic(&self, topic: &NewTopic) -> Result<TopicRecord> {
        transact!(self.limit, self.write(), meaning, tx => topics::create(&mut tx, topic))
    }

    async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicRecord> {
        transact!(self.limit, self.write(), meaning, tx => topics::alter(&mut tx, name, change))
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => topics::delete(&mut tx, name))
    }

    async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        transact!(self.limit, self.write(), meaning, tx => owners::claim(&mut tx, name, owner))
    }

    async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
        transact!(self.limit, self.write(), meaning, tx => owners::release(&mut tx, name, uid))
    }

    async fn topics_overview(&self) -> Result<TopicsOverview> {
        transact!(self.limit, self.read(), meaning, tx => owners::topics_overview(&mut tx))
    }

    async fn allocate_producer_id(&self) -> Result<i64> {
        transact!(self.limit, self.write(), meaning, tx => log::allocate_producer_id(&mut tx))
    }

    async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
        transact!(self.limit, self.write(), meaning, tx => commit::commit_object(&mut tx, commit))
    }

    async fn read_log(&self, partition: PartitionUid, from: LogPosition, limit: usize) -> Result<LogView> {
        transact!(self.limit, self.read(), meaning, tx => log::read(&mut tx, partition, from, limit))
    }

    async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
        transact!(self.limit, self.read(), meaning, tx => log::bounds(&mut tx, partitions))
    }

    async fn begin_segment(&self, lease: Lease, base_offset: i64) -> Result<SegmentIntent> {
        transact!(self.limit, self.write(), meaning, tx => segments::begin(&mut tx, lease, base_offset))
    }

    async fn avoid_segment(&self, lease: Lease, base_offset: i64, taken: &str) -> Result<SegmentIntent> {
        transact!(self.limit, self.write(), meaning, tx => segments::avoid(&mut tx, lease, base_offset, taken))
    }

    async fn finish_segment(&self, lease: Lease, segment: &NewSegment) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => segments::finish(&mut tx, lease, segment))
    }

    async fn advance_log_start(&self, lease: Lease, log_start: i64) -> Result<i64> {
        transact!(self.limit, self.write(), meaning, tx => segments::advance(&mut tx, lease, log_start))
    }

    async fn garbage(&self, policy: &GarbagePolicy, limit: usize) -> Result<Garbage> {
        transact!(self.limit, self.write(), meaning, tx => garbage::garbage(&mut tx, policy, limit))
    }

    async fn confirm_deleted(&self, keys: &[String]) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => garbage::confirm(&mut tx, keys))
    }

    async fn orphans(&self, incarnation: Incarnation, sequences: &[u64]) -> Result<Vec<u64>> {
        transact!(self.limit, self.read(), meaning, tx => garbage::orphans(&mut tx, incarnation, sequences))
    }

    async fn mark_swept(&self, incarnation: Incarnation) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => garbage::mark_swept(&mut tx, incarnation))
    }

    async fn groups(&self, which: &GroupQuery) -> Result<Vec<GroupRecord>> {
        transact!(self.limit, self.read(), meaning, tx => groups::groups(&mut tx, which))
    }

    async fn put_group(&self, lease: Lease, group: &GroupWrite) -> Result<()> {
        transact!(self.limit, self.write(), meaning, tx => groups::put(&mut tx, lease, group))
    }

    async fn commit_offsets(&self, lease: Lease, commit: &OffsetCommit) -> Result<Vec<OffsetOutcome>> {
        transact!(self.limit, self.write(), meaning, tx => groups::commit_offsets(&mut tx, lease, commit))
    }

    async fn group_lags(&self, slots: &[i32], limit: usize) -> Result<Vec<GroupLag>> {
        transact!(self.limit, self.read(), meaning, tx => groups::lags(&mut tx, slots, limit))
    }

    async fn fetch_offsets(&self, group_id: &str) -> Result<Vec<CommittedOffset>> {
        transact!(self.limit, self.read(), meaning, tx => groups::fetch_offsets(&mut tx, group_id))
    }
}
