//! PostgreSQL that is down, slow, too old, too new, or refuses the credentials; and concurrent
//! migrations.

use std::time::Duration;

use sqlx::{Connection, PgConnection, query};
use streamhouse_testkit::Postgres;

use super::support::{count_lock_waiters, database, options, sqlite_url};
use crate::{
    ConnectOptions, Error, MetadataStore, MigrationOutcome,
    conformance::fixture::{SharedStore, TestLog, batch, create_topic, object_commit, register_agent},
    connect, migrate,
    postgres::{PostgresConnector, ServerTimeouts},
};

/// Returns options with short timeouts.
fn short_timeouts() -> ConnectOptions {
    ConnectOptions {
        max_connections: 3,
        acquire_timeout: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(1),
        ..options()
    }
}

fn assert_unavailable<T: std::fmt::Debug>(result: crate::Result<T>) {
    assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
}

/// Repeats a call, as its callers do, until the store answers.
async fn retry_while_unavailable<T, F: Future<Output = crate::Result<T>>>(call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(value) => return value,
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn calls_fail_while_the_server_is_down_and_work_again_after() {
    let server = Postgres::start().unwrap();
    let url = server.create_database("metadata").unwrap();
    migrate(&url, &options()).await.unwrap();
    let store: SharedStore = connect(&url, &short_timeouts()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(5).await;
    server.stop().unwrap();
    let commit = object_commit(log.lease.incarnation, 1, &[(log.lease, &[batch(3)])]);
    for _ in 0..2 {
        assert_unavailable(store.ping().await);
        assert_unavailable(store.commit_object(&commit).await);
        assert_unavailable(store.renew(log.lease.incarnation).await);
    }
    assert_unavailable(connect(&url, &short_timeouts()).await);
    server.start_again().unwrap();
    retry_while_unavailable(|| store.ping()).await;
    retry_while_unavailable(|| store.renew(log.lease.incarnation)).await;
    retry_while_unavailable(|| store.commit_object(&commit)).await;
    assert_eq!(log.read(0).await.bounds.high_watermark, 8);
}

#[tokio::test]
async fn broken_connections_are_replaced() {
    let server = Postgres::shared().unwrap();
    let url = database().await;
    let name = url.rsplit('/').next().unwrap();
    let store: SharedStore = connect(&url, &short_timeouts()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(1).await;
    let end =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'");
    assert_ne!(server.admin_sql("postgres", &end).unwrap(), "0");
    retry_while_unavailable(|| store.ping()).await;
    let uids = [log.lease.partition];
    assert_eq!(
        retry_while_unavailable(|| store.bounds(&uids)).await[0]
            .1
            .high_watermark,
        1
    );
}

#[tokio::test]
async fn a_statement_that_waits_too_long_is_given_up() {
    let url = database().await;
    let store: SharedStore = connect(&url, &short_timeouts()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    query("SELECT FROM partitions FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    assert_unavailable(log.commit(&[batch(1)]).await);
    // All connections wait: the next call does not get one.
    let commit = object_commit(log.lease.incarnation, 7, &[(log.lease, &[batch(1)])]);
    let waiting = (0..6).map(|_| {
        let (store, commit) = (store.clone(), commit.clone());
        tokio::spawn(async move { store.commit_object(&commit).await })
    });
    for waiting in waiting.collect::<Vec<_>>() {
        assert_unavailable(waiting.await.unwrap());
    }
    lock.rollback().await.unwrap();
    retry_while_unavailable(|| store.commit_object(&commit)).await;
    assert_eq!(
        log.read(0).await.bounds.high_watermark,
        1,
        "the calls that timed out had no effect"
    );
}

/// An agent that hangs within a commit blocks only itself, and not for long.
#[tokio::test]
async fn an_agent_that_stands_still_in_a_transaction_is_cut_off() {
    let url = database().await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let log = TestLog::new(&store).await;
    let live = register_agent(&store, "agent-1").await.incarnation;
    let cut_off = ConnectOptions {
        statement_timeout: Duration::from_secs(2),
        ..short_timeouts()
    };
    let opening = PostgresConnector::new(&url, &cut_off, ServerTimeouts::from_options(&cut_off)).unwrap();
    let mut other = PgConnection::connect_with(opening.direct()).await.unwrap();
    query("UPDATE agents SET lease_expires_at = now() - interval '1 s' WHERE incarnation = $1")
        .bind(log.lease.incarnation.0)
        .execute(&mut other)
        .await
        .unwrap();
    let mut standing = other.begin().await.unwrap();
    query("SELECT FROM agents WHERE incarnation = $1 FOR KEY SHARE")
        .bind(log.lease.incarnation.0)
        .execute(&mut *standing)
        .await
        .unwrap();
    // The renewal of another agent does not wait for it.
    assert_eq!(store.renew(live).await.unwrap().sealed_others, 0);
    // The seal does, until the database ends the transaction.
    retry_while_unavailable(|| store.seal(log.lease.incarnation)).await;
    assert!(
        query("SELECT 1").execute(&mut *standing).await.is_err(),
        "the database ended it"
    );
    assert!(matches!(
        store.renew(log.lease.incarnation).await,
        Err(Error::Sealed(_))
    ));
}

/// INV-L1, step by step: the seal returns after a commit that began before it, and a renewal does
/// not wait.
#[tokio::test]
async fn a_seal_waits_for_a_commit_under_way_and_a_renewal_does_not() {
    let url = database().await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let log = TestLog::new(&store).await;
    let incarnation = log.lease.incarnation;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut watch = PgConnection::connect(&url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    query("SELECT FROM partitions FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let commit = object_commit(incarnation, 0, &[(log.lease, &[batch(1)])]);
    let callee = store.clone();
    let committing = tokio::spawn(async move { callee.commit_object(&commit).await });
    while count_lock_waiters(&mut watch).await < 1 {}
    store.renew(incarnation).await.unwrap();
    let callee = store.clone();
    let sealing = tokio::spawn(async move { callee.seal(incarnation).await });
    while count_lock_waiters(&mut watch).await < 2 {
        assert!(!sealing.is_finished(), "the seal did not wait for the commit");
    }
    lock.rollback().await.unwrap();
    committing.await.unwrap().unwrap();
    sealing.await.unwrap().unwrap();
    assert_eq!(log.read(0).await.bounds.high_watermark, 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_half_way_did_not_happen() {
    let url = database().await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let log = TestLog::new(&store).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut watch = PgConnection::connect(&url).await.unwrap();
    for sequence in 0..10 {
        let mut lock = other.begin().await.unwrap();
        query("SELECT FROM partitions FOR UPDATE")
            .execute(&mut *lock)
            .await
            .unwrap();
        let commit = object_commit(log.lease.incarnation, sequence, &[(log.lease, &[batch(1)])]);
        let (calling, callee) = (commit.clone(), store.clone());
        let call = tokio::spawn(async move { callee.commit_object(&calling).await });
        // The call waits for the lock of this test and is cancelled there.
        while count_lock_waiters(&mut watch).await < 1 {}
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        lock.rollback().await.unwrap();
        store.ping().await.unwrap();
    }
    let outcome = store
        .commit_object(&object_commit(
            log.lease.incarnation,
            99,
            &[(log.lease, &[batch(1)])],
        ))
        .await
        .unwrap();
    assert_eq!(
        crate::conformance::fixture::batch_outcomes(&outcome, 0),
        [crate::BatchOutcome::Appended { base_offset: 0 }]
    );
}

fn assert_schema_error(result: crate::Result<impl std::fmt::Debug>, says: &str) {
    match result {
        Err(Error::SchemaMismatch(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_schema_that_is_missing_too_new_or_changed_is_refused() {
    let server = Postgres::shared().unwrap();
    let url = server.create_database("schemas").unwrap();
    assert_schema_error(
        connect(&url, &options()).await,
        "is empty, this build runs on versions 5 to 7: run `streamhouse-agent migrate`",
    );
    assert_eq!(
        migrate(&url, &options()).await.unwrap(),
        MigrationOutcome { from: 0, to: 7 }
    );
    assert_eq!(
        migrate(&url, &options()).await.unwrap(),
        MigrationOutcome { from: 7, to: 7 }
    );
    let store = connect(&url, &options()).await.unwrap();
    store.ping().await.unwrap();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', true, '', 0)")
        .execute(&mut raw)
        .await
        .unwrap();
    assert_schema_error(
        connect(&url, &options()).await,
        "has version 999, this build runs on versions 5 to 7: run a newer build",
    );
    assert_schema_error(migrate(&url, &options()).await, "has version 999");
    query("DELETE FROM _sqlx_migrations WHERE version = 999")
        .execute(&mut raw)
        .await
        .unwrap();
    query("UPDATE _sqlx_migrations SET checksum = 'x'")
        .execute(&mut raw)
        .await
        .unwrap();
    assert_schema_error(
        connect(&url, &options()).await,
        "migration 1 of the metadata schema is not the one that was run",
    );
    assert_schema_error(
        migrate(&url, &options()).await,
        "migration 1 of the metadata schema is not the one that was run",
    );
}

#[tokio::test]
async fn a_sqlite_schema_that_is_too_new_or_changed_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    assert_eq!(
        migrate(&url, &options()).await.unwrap(),
        MigrationOutcome { from: 0, to: 7 }
    );
    assert_eq!(
        migrate(&url, &options()).await.unwrap(),
        MigrationOutcome { from: 7, to: 7 }
    );
    let mut raw = sqlx::SqliteConnection::connect(&url).await.unwrap();
    query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', true, x'', 0)")
        .execute(&mut raw)
        .await
        .unwrap();
    assert_schema_error(connect(&url, &options()).await, "run a newer build");
    query("DELETE FROM _sqlx_migrations WHERE version = 999")
        .execute(&mut raw)
        .await
        .unwrap();
    query("UPDATE _sqlx_migrations SET checksum = x'00'")
        .execute(&mut raw)
        .await
        .unwrap();
    assert_schema_error(connect(&url, &options()).await, "is not the one that was run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_migrate_at_once() {
    let server = Postgres::shared().unwrap();
    let postgres = server.create_database("together").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sqlite_url(&folder);
    for url in [postgres, sqlite] {
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let url = url.clone();
                tokio::spawn(async move { migrate(&url, &options()).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap().to, 7);
        }
        let store = connect(&url, &options()).await.unwrap();
        assert_eq!(store.snapshot(None).await.unwrap().unwrap().topics.len(), 1);
    }
}

#[tokio::test]
async fn what_sqlite_acknowledged_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(5).await;
    let cluster_id = store.snapshot(None).await.unwrap().unwrap().cluster_id;
    // A second process on the same file: both use one store.
    let second: SharedStore = connect(&url, &options()).await.unwrap();
    create_topic(&second, "payments", 1).await;
    assert_eq!(store.snapshot(None).await.unwrap().unwrap().topics.len(), 3);
    drop((store, second));
    log.store = connect(&url, &options()).await.unwrap();
    assert_eq!(log.read(0).await.bounds.high_watermark, 5);
    assert_eq!(log.append(1).await, 5);
    assert_eq!(
        log.store.snapshot(None).await.unwrap().unwrap().cluster_id,
        cluster_id
    );
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    std::fs::write(
        &path,
        "this is no database, and it is long enough to be looked at. ".repeat(100),
    )
    .unwrap();
    let refused = connect(&format!("sqlite:{}", path.display()), &options()).await;
    assert!(matches!(refused, Err(Error::Inconsistent(_))), "{refused:?}");
}

#[tokio::test]
async fn a_wrong_address_is_told_without_its_password() {
    let server = Postgres::shared().unwrap();
    database().await;
    let port = server.port();
    let secret = "sEcReT";
    for (url, says) in [
        (
            format!("postgres://streamhouse:{secret}@127.0.0.1:{port}/migrated"),
            "password authentication failed",
        ),
        (
            format!("postgres://nobody:{secret}@127.0.0.1:{port}/migrated"),
            "password authentication failed",
        ),
        (
            format!("postgres://streamhouse:{secret}@127.0.0.1:1/migrated"),
            "refused",
        ),
        (
            format!("postgres://streamhouse:{secret}@127.0.0.1:{port}/migrated?sslmode=maybe"),
            "ssl",
        ),
        (
            format!("postgres://streamhouse:{secret}@127.0.0.1:{port}/migrated?sslmode=require"),
            "TLS",
        ),
        (
            format!("postgres://streamhouse:{secret}@127.0.0.1:no/migrated"),
            "port",
        ),
        (
            format!("mysql://streamhouse:{secret}@127.0.0.1/migrated"),
            "must begin with postgres://",
        ),
        (
            format!("streamhouse:{secret}@127.0.0.1"),
            "must begin with postgres://",
        ),
        (server.url("never_made"), "does not exist"),
        ("sqlite:/never/made/metadata.db".to_owned(), "unable to open"),
        ("sqlite:metadata.db?mode=odd".to_owned(), "cannot be read"),
    ] {
        for result in [
            connect(&url, &short_timeouts()).await.map(|_| ()),
            migrate(&url, &short_timeouts()).await.map(|_| ()),
        ] {
            let Err(Error::Unavailable(message) | Error::InvalidAddress(message)) = result else {
                panic!("{result:?}")
            };
            assert!(message.contains(says), "{message}");
            assert!(!message.contains(secret), "{message}");
        }
    }
    let store: std::sync::Arc<dyn MetadataStore> =
        connect(&server.url("migrated"), &options()).await.unwrap();
    let printed = format!("{store:?}");
    assert!(
        !printed.contains("password") && !printed.contains("streamhouse:"),
        "{printed}"
    );
}
