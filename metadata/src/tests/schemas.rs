//! The schema as a whole: reading its version, migrating an older one, dropping it.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection, SqliteConnection, migrate::Migrator, query, query_scalar, raw_sql,
};
use streamhouse_testkit::Postgres;

use super::support::{options, sqlite_url};
use crate::{
    ConnectOptions, Error, Lease, LeaseMove, LeaseMoveOutcome, MigrationOutcome, MigrationRequest,
    SCHEMA_WINDOW, SchemaState, backup, cluster_id,
    conformance::fixture::{
        NO_GRACE, SharedStore, TestLog, collect_garbage, create_topic, new_topic, owner, register_agent,
        registration, snapshot,
    },
    connect, connect_existing, drop_schema, embedded_file, live_agent, migrate, migrate_to, schema,
};

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

const NEEDED_VERSION: i64 = SCHEMA_WINDOW.max;

async fn schema_version(url: &str) -> i64 {
    let SchemaState { found, window } = schema(url, &options()).await.unwrap();
    assert_eq!(window, SCHEMA_WINDOW);
    found
}

/// Returns everything in the database that is not PostgreSQL's own.
async fn relations(conn: &mut PgConnection) -> Vec<String> {
    let names = "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY 1";
    query_scalar(names).fetch_all(conn).await.unwrap()
}

fn assert_schema_error(result: crate::Result<impl std::fmt::Debug>, says: &str) {
    match result {
        Err(Error::SchemaMismatch(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_look_changes_nothing() {
    let url = Postgres::shared().unwrap().create_database("looked_at").unwrap();
    let mut raw = PgConnection::connect(&url).await.unwrap();
    assert_eq!(schema_version(&url).await, 0);
    assert_eq!(cluster_id(&url, &options()).await.unwrap(), None);
    assert_eq!(relations(&mut raw).await, Vec::<String>::new());
    migrate(&url, &options()).await.unwrap();
    assert_eq!(schema_version(&url).await, NEEDED_VERSION);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    assert_eq!(schema_version(&url).await, 0);
    assert_eq!(cluster_id(&url, &options()).await.unwrap(), None);
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    assert_eq!(schema_version(&url).await, 0);
    assert_eq!(std::fs::read(&path).unwrap(), Vec::<u8>::new());
    migrate(&url, &options()).await.unwrap();
    assert_eq!(schema_version(&url).await, NEEDED_VERSION);
    assert_eq!(schema_version("sqlite::memory:").await, 0);
}

#[tokio::test]
async fn a_file_that_is_only_looked_at_keeps_its_schema() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    let empty = "the metadata schema is empty";
    assert_schema_error(connect_existing(&url, &options()).await.map(drop), empty);
    assert!(!path.exists());
    let memory = connect_existing("sqlite::memory:", &options()).await;
    assert_schema_error(memory.map(drop), empty);
    for (version, accepted) in [(SCHEMA_WINDOW.min - 1, false), (SCHEMA_WINDOW.min, true)] {
        let request = MigrationRequest {
            to: Some(version),
            ..MigrationRequest::default()
        };
        migrate_to(&url, &options(), &request).await.unwrap();
        match connect_existing(&url, &options()).await {
            Ok(store) => {
                assert!(accepted);
                store.ping().await.unwrap();
                assert!(!store.cluster_state().await.unwrap().in_use);
                store.close().await.unwrap();
            }
            Err(error) => assert!(
                !accepted && error.to_string().contains("has version 4"),
                "{error}"
            ),
        }
        assert_eq!(schema_version(&url).await, version);
    }
    assert_eq!(embedded_file(&url), Some(path));
    assert_eq!(embedded_file("postgres://127.0.0.1:1/none"), None);
}

#[tokio::test]
async fn a_store_of_the_first_version_is_brought_up_to_date_with_what_it_holds() {
    let postgres = Postgres::shared().unwrap().create_database("older").unwrap();
    let mut raw = PgConnection::connect(&postgres).await.unwrap();
    POSTGRES.run_to(1, &mut raw).await.unwrap();
    assert_schema_error(
        connect(&postgres, &options()).await,
        "has version 1, this build runs on versions 5 to 7: run `streamhouse-agent migrate`",
    );
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sqlite_url(&folder);
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
        assert_eq!(schema_version(url).await, 1);
        let stored_id = cluster_id(url, &options()).await.unwrap();
        assert_eq!(stored_id.as_ref(), Some(&id), "also of an older schema");
        assert_eq!(
            migrate(url, &options()).await.unwrap(),
            MigrationOutcome {
                from: 1,
                to: NEEDED_VERSION
            }
        );
        let store: SharedStore = connect(url, &options()).await.unwrap();
        assert_eq!(snapshot(&store).await.cluster_id, id);
        store.claim_topic("orders", &owner("first")).await.unwrap();
    }
}

/// Topics of the version before folders: one that exists, one whose objects are being deleted, and
/// one of which only the number of its partition is left.
const TOPICS_WITHOUT_FOLDERS: [&str; 2] = [
    "INSERT INTO topics (topic_id, name, config, created_at, deleted_at, purged)
     VALUES ('00000000-0000-0000-0000-000000000001', 'orders', '{}', now(), NULL, false),
            ('00000000-0000-0000-0000-000000000002', 'payments', '{}', now(), now(), true);
     INSERT INTO partitions (topic_id, partition, high_watermark)
     VALUES ('00000000-0000-0000-0000-000000000001', 0, 7), ('00000000-0000-0000-0000-000000000002', 0, 0);
     INSERT INTO segment_intents (partition_id, base_offset, key, incarnation)
     SELECT id, 0, 'orders/0/segment_0000000000.dat', 1 FROM partitions WHERE high_watermark = 7;
     INSERT INTO deletions (key, topic_id)
     VALUES ('payments/0/segment_0000000000.dat', '00000000-0000-0000-0000-000000000002');
     DELETE FROM partitions WHERE topic_id = '00000000-0000-0000-0000-000000000002'",
    "INSERT INTO topics (topic_id, name, created_at, deleted_at, purged)
     VALUES (x'00000000000000000000000000000001', 'orders', 0, NULL, 0),
            (x'00000000000000000000000000000002', 'payments', 0, 0, 1);
     INSERT INTO partitions (topic_id, partition, high_watermark)
     VALUES (x'00000000000000000000000000000001', 0, 7), (x'00000000000000000000000000000002', 0, 0);
     INSERT INTO segment_intents (partition_id, base_offset, key, incarnation, created_at)
     SELECT id, 0, 'orders/0/segment_0000000000.dat', 1, 0 FROM partitions WHERE high_watermark = 7;
     INSERT INTO deletions (key, topic_id, queued_at)
     VALUES ('payments/0/segment_0000000000.dat', x'00000000000000000000000000000002', 0);
     DELETE FROM partitions WHERE topic_id = x'00000000000000000000000000000002'",
];

/// INV-K1: objects of the previous version keep their keys, and no later topic gets them.
#[tokio::test]
async fn topics_without_folders_keep_their_keys() {
    let postgres = Postgres::shared().unwrap().create_database("folders").unwrap();
    let mut raw = PgConnection::connect(&postgres).await.unwrap();
    POSTGRES.run_to(2, &mut raw).await.unwrap();
    raw.execute(raw_sql(TOPICS_WITHOUT_FOLDERS[0])).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = sqlite_url(&folder);
    let mut file = SqliteConnection::connect(&format!("{sqlite}?mode=rwc"))
        .await
        .unwrap();
    SQLITE.run_to(2, &mut file).await.unwrap();
    file.execute(raw_sql(TOPICS_WITHOUT_FOLDERS[1])).await.unwrap();
    file.close().await.unwrap();
    for url in [postgres, sqlite] {
        migrate(&url, &options()).await.unwrap();
        let store: SharedStore = connect(&url, &options()).await.unwrap();
        let incarnation = register_agent(&store, "agent-0").await.incarnation;
        let orders = snapshot(&store)
            .await
            .topics
            .into_iter()
            .find(|topic| topic.name == "orders");
        let orders = orders.unwrap();
        assert_eq!((orders.folder.as_str(), orders.partitions.len()), ("orders", 1));
        let old = orders.partitions[0];
        assert_eq!(store.bounds(&[old.uid]).await.unwrap()[0].1.high_watermark, 7);
        // Partition 17 is the topic's, after the 16 coordinator slots; 18 was that of the other
        // topic.
        let next = create_topic(&store, "payments", 1).await;
        assert_eq!(
            (next.folder.as_str(), next.partitions[0].uid.0),
            ("payments@2", 19)
        );
        assert!(matches!(
            store.create_topic(&new_topic("orders", 1)).await,
            Err(Error::TopicAlreadyExists(_))
        ));
        let lease_move = LeaseMove {
            partition: old.uid,
            from: None,
            epoch: old.epoch,
            to: Some(incarnation),
        };
        let LeaseMoveOutcome::Moved { epoch, .. } = store.move_leases(&[lease_move]).await.unwrap()[0] else {
            panic!("the lease was not free")
        };
        let lease = Lease {
            partition: old.uid,
            incarnation,
            epoch,
        };
        let intent = store.begin_segment(lease, 0).await.unwrap();
        assert_eq!(
            (intent.key.as_str(), intent.inherited),
            ("orders/0/segment_0000000000.dat", true)
        );
        assert_eq!(
            collect_garbage(&store, NO_GRACE).await,
            ["payments/0/segment_0000000000.dat"]
        );
        store.delete_topic("orders").await.unwrap();
        assert_eq!(create_topic(&store, "orders", 1).await.folder, "orders@2");
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
    let says = "has version 999, this build runs on versions 5 to 7: run a newer build";
    assert_schema_error(schema(&url, &options()).await, says);
    // `purge` asks for both before it deletes the first object.
    assert_schema_error(cluster_id(&url, &options()).await, says);
    assert_schema_error(live_agent(&url, &options()).await, says);
    assert_schema_error(drop_schema(&url, &options()).await, says);
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
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
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
    assert_eq!(schema_version(&url).await, 0);
    let late = registration("agent-1", Duration::from_secs(60));
    assert_schema_error(
        store.register_agent(&late).await,
        "run `streamhouse-agent migrate`",
    );
    migrate(&url, &options()).await.unwrap();
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    assert_ne!(snapshot(&store).await.cluster_id, id);
    create_topic(&store, "orders", 1).await;
}

#[tokio::test]
async fn dropping_a_file_leaves_an_empty_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    assert!(!drop_schema(&url, &options()).await.unwrap());
    assert_eq!(live_agent(&url, &options()).await.unwrap(), None);
    assert!(!path.exists());
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(5).await;
    assert_refused_while_live(&url, "agent-0").await;
    store.seal(log.lease.incarnation).await.unwrap();
    assert!(drop_schema(&url, &options()).await.unwrap());
    assert!(!drop_schema(&url, &options()).await.unwrap());
    let mut raw = SqliteConnection::connect(&url).await.unwrap();
    let left = "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'";
    let left: Vec<String> = query_scalar(left).fetch_all(&mut raw).await.unwrap();
    assert_eq!(left, Vec::<String>::new());
    let again: SharedStore = connect(&url, &options()).await.unwrap();
    assert_eq!(snapshot(&again).await.topics.len(), 1);
}

async fn assert_refused_while_live(url: &str, agent_id: &str) {
    let refused = drop_schema(url, &options()).await;
    assert!(
        matches!(&refused, Err(Error::AgentHoldsLease(live)) if live == agent_id),
        "{refused:?}"
    );
    assert_eq!(schema_version(url).await, NEEDED_VERSION, "nothing was dropped");
    let live = live_agent(url, &options()).await.unwrap();
    assert_eq!(live.as_deref(), Some(agent_id));
}

#[tokio::test]
async fn an_agent_that_lives_keeps_the_tables() {
    let url = Postgres::shared().unwrap().create_database("lived_in").unwrap();
    migrate(&url, &options()).await.unwrap();
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let live = register_agent(&store, "agent-0").await.incarnation;
    assert_refused_while_live(&url, "agent-0").await;
    store.drain(live).await.unwrap();
    assert_refused_while_live(&url, "agent-0").await;
    store.ping().await.unwrap();
    store.seal(live).await.unwrap();
    // One that crashed keeps the tables until its lease expires.
    let gone = registration("agent-1", Duration::from_secs(3600));
    let gone = store.register_agent(&gone).await.unwrap().incarnation;
    assert_refused_while_live(&url, "agent-1").await;
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

/// Dropping waits for transactions in progress, but not indefinitely, and then changes nothing.
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
    assert_eq!(schema_version(&url).await, NEEDED_VERSION);
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
    assert_schema_error(
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

/// Copies only the file itself, without its journal, and opens the copy.
async fn open_copy(from: &std::path::Path, folder: &std::path::Path) -> SharedStore {
    let copy = folder.join("copied.db");
    std::fs::copy(from, &copy).unwrap();
    connect(&format!("sqlite:{}", copy.display()), &options())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_file_that_was_closed_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(5).await;
    // Its readers have been used too.
    let id = snapshot(&store).await.cluster_id;
    store.close().await.unwrap();
    assert!(!folder.path().join("metadata.db-wal").exists());
    let copy = open_copy(&path, folder.path()).await;
    let seen = snapshot(&copy).await;
    assert_eq!((seen.cluster_id, seen.agents.len()), (id, 1));
    assert!(store.ping().await.is_err(), "it is closed");
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_file_is_copied_while_it_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metadata.db");
    let url = format!("sqlite:{}", path.display());
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(5).await;
    let to = folder.path().join("backup.db");
    assert!(backup(&url, &options(), &to).await.unwrap());
    log.append(7).await;
    let copy: SharedStore = connect(&format!("sqlite:{}", to.display()), &options())
        .await
        .unwrap();
    let copy = TestLog { store: copy, ..log };
    assert_eq!(copy.read(0).await.bounds.high_watermark, 5);
    assert_eq!(
        copy.store.cluster_state().await.unwrap(),
        store.cluster_state().await.unwrap()
    );
    for (from, to, says) in [
        (&url, &to, "it exists; choose another name"),
        (
            &format!("{url}.absent"),
            &folder.path().join("other.db"),
            "there is no SQLite file",
        ),
        (&url, &folder.path().join("no/such/folder.db"), ""),
    ] {
        match backup(from, &options(), to).await {
            Err(error) => assert!(error.to_string().contains(says), "{error}"),
            Ok(copied) => panic!("{from} was copied: {copied}"),
        }
    }
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("partial") || name.contains("other") || name.contains("absent"))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    assert!(
        !backup("postgres://127.0.0.1:1/none", &options(), &to)
            .await
            .unwrap()
    );
}
