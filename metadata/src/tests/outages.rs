//! PostgreSQL that does not respond, fails over under open connections, or gets many calls at once:
//! every call ends, unusable connections are discarded, and reads delay neither writes nor
//! renewals.

use std::time::Duration;

use sqlx::{Connection, PgConnection, query};
use streamhouse_testkit::{Postgres, SilentProxy};

use super::support::{count_lock_waiters, database, options, sqlite_url};
use crate::{
    ConnectOptions, Error, LogPosition, PartitionOutcome,
    conformance::fixture::{SharedStore, TestLog, batch, create_topic, object_commit, register_agent},
    connect, drop_schema, inspect, live_agent, migrate, schema,
};

/// Short enough to wait for, and long enough for a busy machine.
fn short_timeouts() -> ConnectOptions {
    let limit = Duration::from_millis(1500);
    ConnectOptions {
        acquire_timeout: limit,
        statement_timeout: limit,
        ..options()
    }
}

fn assert_unavailable<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
}

/// Opens a store behind a proxy, with a log that holds one record; also returns the address without
/// the proxy.
async fn store_behind_proxy(options: &ConnectOptions) -> (SilentProxy, SharedStore, TestLog, String) {
    let proxy = SilentProxy::start(Postgres::shared().unwrap().port()).unwrap();
    let url = database().await;
    let store: SharedStore = connect(&proxy.url(&url), options).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(1).await;
    (proxy, store, log, url)
}

/// A call whose connection becomes silent ends, and does not affect the next ones.
#[tokio::test]
async fn a_silent_connection_ends_its_calls_and_is_never_used_again() {
    let (proxy, store, mut log, _) = store_behind_proxy(&short_timeouts()).await;
    // Every pool has connections that were just used.
    store.renew(log.lease.incarnation).await.unwrap();
    log.read(0).await;
    let uids = [log.lease.partition];
    proxy.silence_established();
    assert_unavailable(log.commit(&[batch(1)]).await);
    // The first failure discards all idle connections.
    let commit = object_commit(log.lease.incarnation, 9, &[(log.lease, &[batch(1)])]);
    store.commit_object(&commit).await.unwrap();
    store.renew(log.lease.incarnation).await.unwrap();
    assert_eq!(store.bounds(&uids).await.unwrap()[0].1.high_watermark, 2);
    assert!(store.snapshot(None).await.unwrap().is_some());
}

/// The answer to COMMIT is lost: the call fails with an unknown outcome, and a repeated call
/// returns it.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_when_asked_again() {
    let (proxy, store, log, url) = store_behind_proxy(&short_timeouts()).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    // COMMIT itself waits for a lock.
    let slow_commit = "
        CREATE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON wal_objects
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_at_commit();
        SELECT pg_advisory_lock(42)";
    sqlx::raw_sql(slow_commit).execute(&mut other).await.unwrap();
    let commit = object_commit(log.lease.incarnation, 5, &[(log.lease, &[batch(3)])]);
    let (callee, asked) = (store.clone(), commit.clone());
    let calling = tokio::spawn(async move { callee.commit_object(&asked).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'advisory' AND query = 'COMMIT'";
    while sqlx::query_scalar::<_, i64>(waiting)
        .fetch_one(&mut other)
        .await
        .unwrap()
        == 0
    {
        assert!(!calling.is_finished());
    }
    proxy.silence_responses();
    query("SELECT pg_advisory_unlock(42)")
        .execute(&mut other)
        .await
        .unwrap();
    assert_unavailable(calling.await.unwrap());
    assert_eq!(log.read(0).await.bounds.high_watermark, 4, "it happened");
    let outcome = store.commit_object(&commit).await.unwrap();
    assert!(matches!(
        outcome.partitions[0],
        PartitionOutcome::Committed {
            high_watermark: 4,
            ..
        }
    ));
    assert_eq!(log.read(0).await.bounds.high_watermark, 4, "and once");
}

/// A call that is dropped while its connection is silent releases its place in the pool.
#[tokio::test]
async fn a_dropped_call_on_a_silent_connection_leaves_its_place() {
    let few = ConnectOptions {
        max_connections: 3,
        ..short_timeouts()
    };
    let (proxy, store, log, _) = store_behind_proxy(&few).await;
    // New connections are silent too; otherwise a fast machine opens one and commits before the
    // call is dropped.
    proxy.silence_new(true);
    proxy.silence_established();
    let commit = object_commit(log.lease.incarnation, 5, &[(log.lease, &[batch(1)])]);
    for _ in 0..3 {
        let call = store.commit_object(&commit);
        assert!(
            tokio::time::timeout(Duration::from_millis(20), call)
                .await
                .is_err()
        );
    }
    proxy.silence_new(false);
    store.commit_object(&commit).await.unwrap();
}

/// Every function that opens a connection of its own is bounded in time.
#[tokio::test]
async fn opening_a_silent_store_has_an_end() {
    let proxy = SilentProxy::start(Postgres::shared().unwrap().port()).unwrap();
    let url = proxy.url(&database().await);
    proxy.silence_new(true);
    assert_unavailable(connect(&url, &short_timeouts()).await.map(|_| ()));
    assert_unavailable(migrate(&url, &short_timeouts()).await);
    assert_unavailable(schema(&url, &short_timeouts()).await);
    assert_unavailable(live_agent(&url, &short_timeouts()).await);
    assert_unavailable(drop_schema(&url, &short_timeouts()).await);
    assert_unavailable(inspect::sample_tables(&url, 1).await);
}

/// After a failover the old connections may lead to a server that is now a standby.
#[tokio::test]
async fn connections_that_became_read_only_are_thrown_away_at_once() {
    let server = Postgres::shared().unwrap();
    let url = database().await;
    let name = url.rsplit('/').next().unwrap().to_owned();
    let mut log = TestLog::new(&(connect(&url, &options()).await.unwrap())).await;
    log.append(1).await;
    // Sessions that begin now stay read-only.
    let set = |to: &str| {
        let sql = format!("ALTER DATABASE {name} SET default_transaction_read_only = {to}");
        server.admin_sql("postgres", &sql).unwrap();
    };
    set("on");
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let incarnation = log.lease.incarnation;
    for result in [
        store.renew(incarnation).await.map(drop),
        store.allocate_producer_id().await.map(drop),
        store.seal(incarnation).await,
    ] {
        assert_unavailable(result);
    }
    // Idle in each pool, and read-only.
    store.snapshot(None).await.unwrap();
    log.store = store.clone();
    log.read(0).await;
    let idle = (0..4).map(|_| store.topics_overview());
    for overview in futures::future::join_all(idle).await {
        overview.unwrap();
    }
    set("off");
    // Succeeds at once, without a repeated call.
    store.renew(incarnation).await.unwrap();
    log.append(1).await;
    create_topic(&store, "after", 1).await;
    store.allocate_producer_id().await.unwrap();
}

/// An idle connection that the server closed does not fail a transaction.
#[tokio::test]
async fn a_connection_that_was_ended_is_replaced_within_the_call() {
    let server = Postgres::shared().unwrap();
    let url = database().await;
    let name = url.rsplit('/').next().unwrap();
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    for _ in 0..5 {
        log.append(1).await;
        let end = format!(
            "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        assert_ne!(server.admin_sql("postgres", &end).unwrap(), "0");
        log.append(1).await;
    }
}

/// Reads that hold all their connections do not delay renewals and commits.
#[tokio::test]
async fn a_flood_of_reads_holds_up_neither_renewals_nor_commits() {
    let url = database().await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    // Only `topics_overview` reads this table.
    query("LOCK TABLE topic_owners IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let flood: Vec<_> = (0..50)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.topics_overview().await })
        })
        .collect();
    let mut watch = PgConnection::connect(&url).await.unwrap();
    // Two of six connections are for reads.
    loop {
        let waiting = count_lock_waiters(&mut watch).await;
        assert!(waiting <= 2, "{waiting} connections read");
        if waiting == 2 {
            break;
        }
    }
    store.renew(log.lease.incarnation).await.unwrap();
    log.append(1).await;
    register_agent(&store, "agent-1").await;
    assert!(store.snapshot(None).await.unwrap().is_some());
    assert!(flood.iter().all(|read| !read.is_finished()));
    lock.rollback().await.unwrap();
    for read in flood {
        read.await.unwrap().unwrap();
    }
}

/// Commits that wait do not delay a renewal or a read.
#[tokio::test]
async fn waiting_commits_hold_up_neither_renewals_nor_reads() {
    let url = database().await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let log = TestLog::new(&store).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    query("SELECT FROM partitions FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let waiting: Vec<_> = (0..20)
        .map(|sequence| {
            let (store, lease) = (store.clone(), log.lease);
            let commit = object_commit(lease.incarnation, sequence, &[(lease, &[batch(1)])]);
            tokio::spawn(async move { store.commit_object(&commit).await })
        })
        .collect();
    store.renew(log.lease.incarnation).await.unwrap();
    store
        .read_log(log.lease.partition, LogPosition::Offset(0), 1)
        .await
        .unwrap();
    lock.rollback().await.unwrap();
    for commit in waiting {
        commit.await.unwrap().unwrap();
    }
}

/// While another process holds the write lock of the file, calls end; they succeed after its
/// release.
#[tokio::test]
async fn a_sqlite_file_that_stays_locked_ends_the_calls() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let hasty = ConnectOptions {
        acquire_timeout: Duration::from_millis(200),
        statement_timeout: Duration::from_millis(200),
        ..options()
    };
    let store: SharedStore = connect(&url, &hasty).await.unwrap();
    let mut log = TestLog::new(&store).await;
    let mut other = sqlx::SqliteConnection::connect(&url).await.unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_unavailable(log.commit(&[batch(1)]).await);
    assert_unavailable(store.renew(log.lease.incarnation).await);
    // Six attempts that each wait for the lock would take longer than any call may.
    assert!(begun.elapsed() <= hasty.call_limit() * 2 + Duration::from_secs(5));
    assert_eq!(log.read(0).await.bounds.high_watermark, 0, "readers pass");
    lock.rollback().await.unwrap();
    loop {
        match store.renew(log.lease.incarnation).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
        }
    }
    log.append(1).await;
}
