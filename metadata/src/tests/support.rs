//! What the tests share: fresh stores (a database each in one shared PostgreSQL, and SQLite in a
//! folder or in memory), access to the tables behind a store, and random cases.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proptest::{prelude::ProptestConfig, strategy::Strategy, test_runner::TestRunner};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection, query, query_scalar};
use streamhouse_testkit::Postgres;
use tokio::sync::OnceCell;

use crate::{
    ConnectOptions, MetadataStore, MigrationRequest, SCHEMA_WINDOW, conformance::fixture::SharedStore,
    connect, connect_existing, migrate_to,
};

/// A store and the directory that must outlive it.
pub(crate) struct TestStore {
    pub(crate) store: Arc<dyn MetadataStore>,
    _folder: Option<tempfile::TempDir>,
}

/// Returns options with few connections, because many stores share the server, and long timeouts,
/// so that tests do not time out on a busy machine.
pub(crate) fn options() -> ConnectOptions {
    let patience = Duration::from_secs(60);
    ConnectOptions {
        max_connections: 6,
        acquire_timeout: patience,
        statement_timeout: patience,
        ..ConnectOptions::default()
    }
}

/// Returns the URL of a new, migrated database in the shared server.
pub(crate) async fn database() -> String {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    copy_of(&TEMPLATE, "migrated", SCHEMA_WINDOW.max).await
}

/// Returns the URL of a new database; the first call migrates its template to this version.
async fn copy_of(template: &OnceCell<()>, name: &str, version: i64) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = Postgres::shared().unwrap();
    template
        .get_or_init(async || {
            let url = server.create_database(name).unwrap();
            let request = MigrationRequest {
                to: Some(version),
                ..MigrationRequest::default()
            };
            migrate_to(&url, &options(), &request).await.unwrap();
        })
        .await;
    let copy = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    // A copy has the same cluster id as the template, which does not matter to the tests.
    server
        .admin_sql(
            "postgres",
            &format!("CREATE DATABASE {copy} TEMPLATE {name} OWNER streamhouse"),
        )
        .unwrap();
    server.url(&copy)
}

/// Returns the URL of a SQLite file in a folder.
pub(crate) fn sqlite_url(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("metadata.db").display())
}

/// Opens a store of each kind; returns them with their addresses.
pub(crate) async fn stores_of_each_kind() -> (tempfile::TempDir, Vec<(String, SharedStore)>) {
    let folder = tempfile::tempdir().unwrap();
    let mut stores = Vec::new();
    for url in [sqlite_url(&folder), database().await] {
        let store = connect(&url, &options()).await.unwrap();
        stores.push((url, store));
    }
    (folder, stores)
}

/// Executes SQL on the store's tables, bypassing the store.
pub(crate) async fn execute_sql(url: &str, sql: &str) {
    if url.starts_with("sqlite") {
        let mut conn = SqliteConnection::connect(url).await.unwrap();
        query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    } else {
        let mut conn = PgConnection::connect(url).await.unwrap();
        query(AssertSqlSafe(sql)).execute(&mut conn).await.unwrap();
    }
}

/// Returns how many of the database's connections wait for a lock. `conn` must not be in a
/// transaction, because the statistics would be frozen there.
pub(crate) async fn count_lock_waiters(conn: &mut PgConnection) -> i64 {
    let count = "SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'";
    query_scalar(count).fetch_one(conn).await.unwrap()
}

pub(crate) async fn postgres() -> TestStore {
    TestStore {
        store: connect(&database().await, &options()).await.unwrap(),
        _folder: None,
    }
}

pub(crate) async fn postgres_of_oldest_schema() -> TestStore {
    static TEMPLATE: OnceCell<()> = OnceCell::const_new();
    let url = copy_of(&TEMPLATE, "migrated_to_oldest", SCHEMA_WINDOW.min).await;
    TestStore {
        store: connect(&url, &options()).await.unwrap(),
        _folder: None,
    }
}

pub(crate) async fn sqlite_file() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    TestStore {
        store: connect(&url, &options()).await.unwrap(),
        _folder: Some(folder),
    }
}

pub(crate) async fn sqlite_file_of_oldest_schema() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let request = MigrationRequest {
        to: Some(SCHEMA_WINDOW.min),
        ..MigrationRequest::default()
    };
    migrate_to(&url, &options(), &request).await.unwrap();
    TestStore {
        store: connect_existing(&url, &options()).await.unwrap(),
        _folder: Some(folder),
    }
}

pub(crate) async fn sqlite_memory() -> TestStore {
    TestStore {
        store: connect("sqlite::memory:", &options()).await.unwrap(),
        _folder: None,
    }
}

/// Runs `check` on random values, and shrinks the first one on which it panics.
pub(crate) fn run_random_cases<S: Strategy>(cases: u32, values: &S, check: impl AsyncFn(S::Value)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(values, |value| {
        // The runner catches the panic of a failed comparison.
        runtime.block_on(check(value));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
