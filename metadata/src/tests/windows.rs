//! Builds that run on different versions of the schema: which migration they allow, and who may
//! register after it.

use std::time::Duration;

use sqlx::{Connection, PgConnection, SqliteConnection, migrate::Migrator, query, query_scalar};
use streamhouse_testkit::Postgres;

use super::support::{options, sqlite_url};
use crate::{
    ConnectOptions, Error, Incarnation, LiveAgent, MigrationOutcome, MigrationRequest, SCHEMA_WINDOW,
    SchemaWindow,
    conformance::{
        fixture::{
            SharedStore, TestLog, batch, create_topic, leases, register_agent, registration, snapshot,
            take_lease,
        },
        security::acl,
    },
    connect, migrate, migrate_to, overview,
};

static POSTGRES: Migrator = sqlx::migrate!("migrations/postgres");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

const OLD: SchemaWindow = SchemaWindow { min: 5, max: 5 };
const NEWEST: i64 = SCHEMA_WINDOW.max;

/// The options of a build that knows nothing of the newest schema.
fn old_build() -> ConnectOptions {
    ConnectOptions {
        schema: OLD,
        ..options()
    }
}

/// Returns a database with the schema of the old build.
async fn old_database(name: &str) -> String {
    let url = Postgres::shared().unwrap().create_database(name).unwrap();
    assert_eq!(
        migrate(&url, &old_build()).await.unwrap(),
        MigrationOutcome { from: 0, to: 5 }
    );
    url
}

/// Returns the live agents with their windows.
async fn windows(url: &str) -> Vec<(String, Option<SchemaWindow>)> {
    let agents = overview(url, &options()).await.unwrap().live_agents;
    agents
        .into_iter()
        .map(|LiveAgent { agent_id, window, .. }| (agent_id, window))
        .collect()
}

/// Registers an agent of a build that no table of releases lists.
async fn register_unknown(store: &SharedStore, agent_id: &str) -> crate::Result<Incarnation> {
    register_for(store, agent_id, "0.0.9", Duration::from_secs(3600)).await
}

async fn register_for(
    store: &SharedStore,
    agent_id: &str,
    version: &str,
    lease_ttl: Duration,
) -> crate::Result<Incarnation> {
    let mut registration = registration(agent_id, lease_ttl);
    registration.version = version.to_owned();
    Ok(store.register_agent(&registration).await?.incarnation)
}

#[test]
fn the_newest_schema_of_this_build_is_its_last_migration() {
    for migrator in [&POSTGRES, &SQLITE] {
        let last = migrator.iter().map(|migration| migration.version).max();
        assert_eq!(last, Some(SCHEMA_WINDOW.max));
    }
    assert!((1..=SCHEMA_WINDOW.max).contains(&SCHEMA_WINDOW.min));
}

#[tokio::test]
async fn agents_of_this_build_serve_before_and_after_the_migration() {
    let url = old_database("window_kept").await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    log.append(5).await;
    assert_eq!(
        windows(&url).await,
        [("agent-0".to_owned(), Some(SCHEMA_WINDOW))],
        "known by its release"
    );
    assert_eq!(
        migrate(&url, &options()).await.unwrap(),
        MigrationOutcome { from: 5, to: NEWEST }
    );
    // The statements that are prepared still serve, and the lease goes on.
    log.append(7).await;
    store.renew(log.lease.incarnation).await.unwrap();
    assert_eq!(log.read(0).await.bounds.high_watermark, 12);
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let stored = "SELECT schema_min || '-' || schema_max FROM agents ORDER BY incarnation DESC LIMIT 1";
    let unknown: Option<String> = query_scalar(stored).fetch_one(&mut raw).await.unwrap();
    assert_eq!(unknown, None, "it registered on schema 5");
    register_agent(&store, "agent-1").await;
    let registered: Option<String> = query_scalar(stored).fetch_one(&mut raw).await.unwrap();
    assert_eq!(registered.as_deref(), Some(format!("5-{NEWEST}").as_str()));
    assert_eq!(windows(&url).await.len(), 2);
}

#[tokio::test]
async fn a_live_agent_of_an_older_build_holds_the_migration_up() {
    let url = old_database("window_old").await;
    let store: SharedStore = connect(&url, &old_build()).await.unwrap();
    let old = register_unknown(&store, "agent-old").await.unwrap();
    assert_eq!(windows(&url).await, [("agent-old".to_owned(), None)]);
    match migrate(&url, &options()).await {
        Err(Error::MigrationBlocked(message)) => {
            assert!(message.contains("agent-old (version 0.0.9"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(overview(&url, &options()).await.unwrap().schema.found, 5);
    store.seal(old).await.unwrap();
    migrate(&url, &options()).await.unwrap();
}

/// A process that was paused may come back at any time, so an expired lease is not enough: what
/// its build does not know must not be written to.
async fn an_expired_agent_is_sealed(url: &str) {
    let store: SharedStore = connect(url, &old_build()).await.unwrap();
    let live = register_unknown(&store, "live-old").await.unwrap();
    let expired = Duration::from_millis(1);
    let old = register_for(&store, "expired-old", "0.0.9", expired)
        .await
        .unwrap();
    let lease = leases(&create_topic(&store, "orders", 1).await)[0];
    let mut log = TestLog::with_lease(&store, take_lease(&store, lease, old).await.unwrap());
    let current = env!("CARGO_PKG_VERSION");
    let new = register_for(&store, "expired-new", current, expired)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let seen = overview(url, &options()).await.unwrap();
    let ids = |agents: &[LiveAgent]| {
        agents
            .iter()
            .map(|agent| agent.agent_id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&seen.live_agents), ["live-old"]);
    assert_eq!(ids(&seen.expired_agents), ["expired-new", "expired-old"]);
    let blocked = migrate(url, &options()).await;
    assert!(matches!(blocked, Err(Error::MigrationBlocked(_))), "{blocked:?}");
    log.commit(&[batch(5)]).await.unwrap();
    store.seal(live).await.unwrap();
    let before = snapshot(&store).await.version;

    migrate(url, &options()).await.unwrap();
    assert_eq!(overview(url, &options()).await.unwrap().schema.found, NEWEST);
    assert!(
        snapshot(&store).await.version > before,
        "the other agents learn of it"
    );
    let late = log.commit(&[batch(7)]).await;
    assert!(
        matches!(late, Err(Error::Sealed(sealed)) if sealed == old),
        "{late:?}"
    );
    let renewed = store.renew(old).await;
    assert!(
        matches!(renewed, Err(Error::Sealed(sealed)) if sealed == old),
        "{renewed:?}"
    );
    let again = register_unknown(&store, "expired-old").await;
    assert!(matches!(again, Err(Error::SchemaMismatch(_))), "{again:?}");
    assert_eq!(log.read(0).await.bounds.high_watermark, 5);
    store.renew(new).await.unwrap();
}

#[tokio::test]
async fn a_migration_seals_an_expired_agent_of_an_older_build() {
    an_expired_agent_is_sealed(&old_database("window_expired").await).await;
}

#[tokio::test]
async fn a_migration_of_a_file_seals_an_expired_agent_of_an_older_build() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    an_expired_agent_is_sealed(&url).await;
}

/// An expired lease can be renewed until the agent is sealed, also at the last moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_renews_before_it_is_sealed_holds_the_migration_up() {
    let url = old_database("window_renewed").await;
    let store: SharedStore = connect(&url, &old_build()).await.unwrap();
    let old = register_for(&store, "agent-old", "0.0.9", Duration::from_millis(1))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let mut committing = raw.begin().await.unwrap();
    query("UPDATE agents SET lease_expires_at = now() + interval '1 h'")
        .execute(&mut *committing)
        .await
        .unwrap();
    let migrating = {
        let url = url.clone();
        tokio::spawn(async move { migrate(&url, &options()).await })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                   AND wait_event_type = 'Lock' AND query LIKE '%FOR UPDATE%'";
    let mut other = PgConnection::connect(&url).await.unwrap();
    loop {
        let seen: i64 = query_scalar(waiting).fetch_one(&mut other).await.unwrap();
        if seen > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    committing.commit().await.unwrap();
    let blocked = migrating.await.unwrap();
    assert!(matches!(blocked, Err(Error::MigrationBlocked(_))), "{blocked:?}");
    store.renew(old).await.unwrap();
}

/// The options of the build before the last migration.
fn former_build() -> ConnectOptions {
    ConnectOptions {
        schema: SchemaWindow {
            max: NEWEST - 1,
            ..SCHEMA_WINDOW
        },
        ..options()
    }
}

/// A migration adds only: whoever runs on the version before works on as if nothing had happened.
async fn a_former_build_works_on(url: &str, store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    log.append(5).await;
    let anyway = MigrationRequest {
        ignore_agents: true,
        ..MigrationRequest::default()
    };
    let migrated = migrate_to(url, &options(), &anyway).await.unwrap();
    assert_eq!((migrated.from, migrated.to), (NEWEST - 1, NEWEST));
    let new: SharedStore = connect(url, &options()).await.unwrap();
    let known = snapshot(store).await.version;
    new.create_acls(&[acl("alice", "orders")]).await.unwrap();
    log.append(7).await;
    log.roll(12).await;
    store.renew(log.lease.incarnation).await.unwrap();
    let seen = store.snapshot(Some(known)).await.unwrap().unwrap();
    assert_eq!((seen.agents.len(), seen.topics.len()), (1, 2));
    create_topic(store, "payments", 2).await;
    store.delete_topic("payments").await.unwrap();
    store.drain(log.lease.incarnation).await.unwrap();
    assert_eq!(log.read(0).await.bounds.high_watermark, 12);
    assert_eq!(new.load_security().await.unwrap().acls, [acl("alice", "orders")]);
    store.seal(log.lease.incarnation).await.unwrap();
    let refused = register_unknown(store, "agent-old").await;
    assert!(matches!(refused, Err(Error::SchemaMismatch(_))), "{refused:?}");
}

#[tokio::test]
async fn a_build_of_the_version_before_works_on_after_the_migration() {
    let url = Postgres::shared()
        .unwrap()
        .create_database("window_former")
        .unwrap();
    migrate(&url, &former_build()).await.unwrap();
    let store = connect(&url, &former_build()).await.unwrap();
    a_former_build_works_on(&url, &store).await;
}

#[tokio::test]
async fn a_build_of_the_version_before_works_on_after_the_migration_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let store = connect(&url, &former_build()).await.unwrap();
    a_former_build_works_on(&url, &store).await;
}

/// The agent goes on until it has to register again, and is then told what is wrong.
#[tokio::test]
async fn an_agent_whose_window_was_left_cannot_register_again() {
    let url = old_database("window_left").await;
    let store: SharedStore = connect(&url, &old_build()).await.unwrap();
    let old = register_unknown(&store, "agent-old").await.unwrap();
    let anyway = MigrationRequest {
        ignore_agents: true,
        ..MigrationRequest::default()
    };
    assert_eq!(
        migrate_to(&url, &options(), &anyway).await.unwrap(),
        MigrationOutcome { from: 5, to: NEWEST }
    );
    store.renew(old).await.unwrap();
    let says =
        format!("the metadata schema has version {NEWEST}, this build runs on version 5: run a newer build");
    for refused in [
        register_unknown(&store, "agent-old").await.map(drop),
        connect(&url, &old_build()).await.map(drop),
        migrate(&url, &old_build()).await.map(drop),
        overview(&url, &old_build()).await.map(drop),
    ] {
        assert_eq!(refused.unwrap_err().to_string(), says);
    }
}

#[tokio::test]
async fn a_file_goes_the_same_way() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let old: SharedStore = connect(&url, &old_build()).await.unwrap();
    register_unknown(&old, "agent-old").await.unwrap();
    assert_eq!(windows(&url).await, [("agent-old".to_owned(), None)]);
    let blocked = migrate(&url, &options()).await;
    assert!(matches!(blocked, Err(Error::MigrationBlocked(_))), "{blocked:?}");
    // An embedded agent migrates its own file.
    let new: SharedStore = connect(&url, &options()).await.unwrap();
    let refused = register_unknown(&old, "agent-old").await.unwrap_err().to_string();
    assert!(
        refused.contains(&format!("has version {NEWEST}, this build runs on version 5")),
        "{refused}"
    );
    register_agent(&new, "agent-new").await;
    assert_eq!(
        windows(&url).await,
        [
            ("agent-new".to_owned(), Some(SCHEMA_WINDOW)),
            ("agent-old".to_owned(), None)
        ]
    );
    let mut raw = SqliteConnection::connect(&url).await.unwrap();
    let stored = "SELECT schema_min || '-' || schema_max FROM agents WHERE agent_id = 'agent-new'";
    let stored: Option<String> = query_scalar(stored).fetch_one(&mut raw).await.unwrap();
    assert_eq!(stored.as_deref(), Some(format!("5-{NEWEST}").as_str()));
}

/// A backup reads a table for a long time. A migration that waited for it would stop every commit
/// behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_does_not_block_agents_while_it_waits_for_a_table() {
    let url = old_database("window_waits").await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let mut log = TestLog::new(&store).await;
    let mut backup = PgConnection::connect(&url).await.unwrap();
    let mut reading = backup.begin().await.unwrap();
    query("SELECT count(*) FROM agents")
        .execute(&mut *reading)
        .await
        .unwrap();
    let migrating = {
        let url = url.clone();
        tokio::spawn(async move { migrate(&url, &options()).await })
    };
    let mut raw = PgConnection::connect(&url).await.unwrap();
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'
                   AND relation = 'agents'::regclass";
    loop {
        let seen: i64 = query_scalar(waiting).fetch_one(&mut raw).await.unwrap();
        if seen > 0 {
            break;
        }
        tokio::task::yield_now().await;
    }
    // Each of them would wait for the backup, if the migration did.
    log.append(5).await;
    register_agent(&store, "agent-1").await;
    store.renew(log.lease.incarnation).await.unwrap();
    assert_eq!(overview(&url, &options()).await.unwrap().schema.found, 5);
    reading.rollback().await.unwrap();
    assert_eq!(
        migrating.await.unwrap().unwrap(),
        MigrationOutcome { from: 5, to: NEWEST }
    );
}
