//! Fresh stores for tests: a database each in one shared PostgreSQL, and SQLite in a folder or in
//! memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use streamhouse_testkit::Postgres;
use tokio::sync::OnceCell;

use crate::{ConnectOptions, MetadataStore, connect, migrate};

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
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let server = Postgres::shared().unwrap();
    TEMPLATE
        .get_or_init(async || {
            let url = server.create_database("migrated").unwrap();
            migrate(&url, &options()).await.unwrap();
        })
        .await;
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    // A copy has the same cluster id as the template, which does not matter to the tests.
    server
        .admin_sql(
            "postgres",
            &format!("CREATE DATABASE {name} TEMPLATE migrated OWNER streamhouse"),
        )
        .unwrap();
    server.url(&name)
}

pub(crate) async fn postgres() -> TestStore {
    TestStore {
        store: connect(&database().await, &options()).await.unwrap(),
        _folder: None,
    }
}

pub(crate) async fn sqlite_file() -> TestStore {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("metadata.db").display());
    TestStore {
        store: connect(&url, &options()).await.unwrap(),
        _folder: Some(folder),
    }
}

pub(crate) async fn sqlite_memory() -> TestStore {
    TestStore {
        store: connect("sqlite::memory:", &options()).await.unwrap(),
        _folder: None,
    }
}
