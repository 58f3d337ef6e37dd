//! The schema as a whole: looking at it, bringing an older one up to date, dropping it.

use std::time::Duration;

use sqlx::{Connection, PgConnection, SqliteConnection, migrate::Migrator, query, query_scalar};
use streamhouse_testkit::Postgres;

use super::support::options;
use crate::{
    ConnectOptions, Error, Migrated, SchemaState,
    conformance::fixture::{Log, Store, agent, owner, registration, snapshot, topic},
    connect, drop_schema, live_agent, migrate, schema,
};

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

const NEEDED: i64 = 7;

async fn found(url: &str) -> i64 {
    let SchemaState { found, needed } = schema(url, &options()).await.unwrap();
    assert_eq!(needed, NEEDED);
    found
}

/// Everything in the database that is not PostgreSQL's own.
async fn relations(conn: &mut PgConnection) -> Vec<String> {
    let names = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1";
    query_scalar(names).fetch_all(conn).await.unwrap()
}

fn schema_error(result: crate::Result<impl std::fmt::Debug>, says: &str) {
    match result {
        Err(Error::Schema(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_look_changes_nothing() {
    let url = Postgres::shared().unwrap().create_database("looked_at").unwrap();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    assert_eq!(found(&url).await, 0);
    assert_eq!(relations(&mut raw).await, Vec::<String>::new());
    migrate(&url, &options()).await.unwrap();
    assert_eq!(found(&url).await, NEEDED);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    assert_eq!(found(&url).await, 0);
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    assert_eq!(found(&url).await, 0);
    assert_eq!(std::fs::read(&path).unwrap(), Vec::<u8>::new());
    migrate(&url, &options()).await.unwrap();
    assert_eq!(found(&url).await, NEEDED);
    assert_eq!(found("sqlite::memory:").await, 0);
}

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_up_to_date_with_what_it_holds() {
    let postgres = Postgres::shared().unwrap().create_database("older").unwrap();
    let mut raw = PgConnection::connect(&postgres).await.unwrap();
    POSTGRES.run_to(1, &mut raw).await.unwrap();
    schema_error(
        connect(&postgres, &options()).await,
        "has version 1, this build needs version 7: run `streamhouse-agent migrate`",
    );
    let folder = tempfile::tempdir().unwrap();
    let sqlite = format!("sqlite:{}", folder.path().join("metadata.db").display());
    let mut file = SqliteConnection::connect(&format!("{sqlite}?mode=rwc"))
        .await
        .unwrap();
    SQLITE.run_to(1, &mut file).await.unwrap();
    let id = "SELECT cluster_id FROM cluster";
    let ids: [String; 2] = [
        query_scalar(id).fetch_one(&mut raw).await.unwrap(),
        query_scalar(id).fetch_one(&mut file).await.unwrap(),
    ];
    file.close().await.unwrap();
    for (url, id) in [postgres, sqlite].iter().zip(ids) {
        assert_eq!(found(url).await, 1);
        assert_eq!(
            migrate(url, &options()).await.unwrap(),
            Migrated { from: 1, to: NEEDED }
        );
        let store: Store = connect(url, &options()).await.unwrap();
        assert_eq!(snapshot(&store).await.cluster_id, id);
        store.claim_topic("orders", &owner("first")).await.unwrap();
    }
}

#[tokio::test]
async fn a_schema_that_is_too_new_is_told() {
    let url = Postgres::shared().unwrap().create_database("newer").unwrap();
    migrate(&url, &options()).await.unwrap();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    query("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (999, 'later', true, '', 0)")
        .execute(&mut raw)
        .await
        .unwrap();
    let says = "has version 999, this build knows versions up to 7: run a newer build";
    schema_error(schema(&url, &options()).await, says);
    schema_error(drop_schema(&url, &options()).await, says);
}

#[tokio::test]
async fn dropping_leaves_what_is_not_ours() {
    let url = Postgres::shared().unwrap().create_database("dropped").unwrap();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    query("CREATE TABLE mine (n int)")
        .execute(&mut raw)
        .await
        .unwrap();
    assert!(!drop_schema(&url, &options()).await.unwrap(), "nothing is there");
    migrate(&url, &options()).await.unwrap();
    let store: Store = connect(&url, &options()).await.unwrap();
    let mut log = Log::new(&store).await;
    log.append(5).await;
    store.claim_topic("orders", &owner("first")).await.unwrap();
    let id = snapshot(&store).await.cluster_id;
    store.seal(log.lease.incarnation).await.unwrap();
    assert_eq!(live_agent(&url, &options()).await.unwrap(), None, "it is sealed");
    assert!(drop_schema(&url, &options()).await.unwrap());
    assert_eq!(
        live_agent(&url, &options()).await.unwrap(),
        None,
        "there is no table"
    );
    assert_eq!(relations(&mut raw).await, ["mine"]);
    assert!(!drop_schema(&url, &options()).await.unwrap());
    assert_eq!(found(&url).await, 0);
    let late = registration("agent-1", Duration::from_secs(60));
    schema_error(
        store.register_agent(&late).await,
        "run `streamhouse-agent migrate`",
    );
    migrate(&url, &options()).await.unwrap();
    let store: Store = connect(&url, &options()).await.unwrap();
    assert_ne!(snapshot(&store).await.cluster_id, id);
    topic(&store, "orders", 1).await;
}

#[tokio::test]
async fn dropping_a_file_leaves_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    assert!(!drop_schema(&url, &options()).await.unwrap());
    assert_eq!(live_agent(&url, &options()).await.unwrap(), None);
    assert!(!path.exists());
    let store: Store = connect(&url, &options()).await.unwrap();
    let mut log = Log::new(&store).await;
    log.append(5).await;
    refused_while_live(&url, "agent-0").await;
    store.seal(log.lease.incarnation).await.unwrap();
    assert!(drop_schema(&url, &options()).await.unwrap());
    assert!(!drop_schema(&url, &options()).await.unwrap());
    let mut raw = SqliteConnection::connect(&url).await.unwrap();
    let left = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'";
    let left: Vec<String> = query_scalar(left).fetch_all(&mut raw).await.unwrap();
    assert_eq!(left, Vec::<String>::new());
    let again: Store = connect(&url, &options()).await.unwrap();
    assert_eq!(snapshot(&again).await.topics.len(), 1);
}

async fn refused_while_live(url: &str, agent_id: &str) {
    let refused = drop_schema(url, &options()).await;
    assert!(
        matches!(&refused, Err(Error::AgentLives(live)) if live == agent_id),
        "{refused:?}"
    );
    assert_eq!(found(url).await, NEEDED, "nothing was dropped");
    let live = live_agent(url, &options()).await.unwrap();
    assert_eq!(live.as_deref(), Some(agent_id));
}

#[tokio::test]
async fn an_agent_that_lives_keeps_the_tables() {
    let url = Postgres::shared().unwrap().create_database("lived_in").unwrap();
    migrate(&url, &options()).await.unwrap();
    let store: Store = connect(&url, &options()).await.unwrap();
    let live = agent(&store, "agent-0").await.incarnation;
    refused_while_live(&url, "agent-0").await;
    store.drain(live).await.unwrap();
    refused_while_live(&url, "agent-0").await;
    store.ping().await.unwrap();
    store.seal(live).await.unwrap();
    // One that is gone without a word keeps them until its lease expires.
    let gone = registration("agent-1", Duration::from_secs(3600));
    let gone = store.register_agent(&gone).await.unwrap().incarnation;
    refused_while_live(&url, "agent-1").await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    query("UPDATE agents SET lease_expires_at = now() - interval '1 s' WHERE incarnation = $1")
        .bind(gone.0)
        .execute(&mut raw)
        .await
        .unwrap();
    assert_eq!(
        live_agent(&url, &options()).await.unwrap(),
        None,
        "its lease has expired"
    );
    assert!(drop_schema(&url, &options()).await.unwrap());
}

/// It waits for whoever is in the middle of a transaction, but not for ever, and then nothing has happened.
#[tokio::test]
async fn dropping_gives_up_on_tables_in_use() {
    let url = Postgres::shared().unwrap().create_database("in_use").unwrap();
    migrate(&url, &options()).await.unwrap();
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut standing = other.begin().await.unwrap();
    query("SELECT FROM partitions FOR UPDATE")
        .execute(&mut *standing)
        .await
        .unwrap();
    let hasty = ConnectOptions {
        statement_timeout: Duration::from_millis(200),
        ..options()
    };
    let refused = drop_schema(&url, &hasty).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(found(&url).await, NEEDED);
    connect(&url, &options()).await.unwrap();
    standing.rollback().await.unwrap();
    assert!(drop_schema(&url, &hasty).await.unwrap());
}

#[tokio::test]
async fn tables_of_another_program_are_not_dropped() {
    let url = Postgres::shared().unwrap().create_database("anothers").unwrap();
    migrate(&url, &options()).await.unwrap();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    query("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 1")
        .execute(&mut raw)
        .await
        .unwrap();
    let before = relations(&mut raw).await;
    schema_error(
        drop_schema(&url, &options()).await,
        "migration 1 of the metadata schema is not the one that was run",
    );
    assert_eq!(relations(&mut raw).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_drop_at_once() {
    let url = Postgres::shared().unwrap().create_database("drops").unwrap();
    migrate(&url, &options()).await.unwrap();
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { drop_schema(&url, &options()).await.unwrap() })
        })
        .collect();
    let mut dropped = Vec::new();
    for task in tasks {
        dropped.push(task.await.unwrap());
    }
    dropped.sort_unstable();
    assert_eq!(dropped, [false, false, false, true]);
}
