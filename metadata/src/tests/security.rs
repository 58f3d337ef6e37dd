//! Users, ACLs and quotas beyond the scenarios: on a schema without their tables, at the limits,
//! and where keys must not appear.

use sqlx::{Connection, PgConnection, query};
use streamhouse_testkit::Postgres;

use super::support::{count_lock_waiters, database, execute_sql, options, sqlite_url, stores_of_each_kind};
use crate::{
    Error, MAX_ACLS, MAX_CLIENT_QUOTAS, MAX_SCRAM_CREDENTIALS, MigrationRequest, QuotaAlteration,
    ScramAlteration, SecuritySnapshot, UnownedRows, UserRows, backup,
    conformance::{
        fixture::{SharedStore, TestLog, snapshot},
        security::{SHA_256, acl, credential, credential_id, load, put_credentials, quota},
    },
    connect, connect_existing, drop_schema, inspect, migrate, migrate_to,
    schema::SECURITY_TABLES_VERSION,
};

/// The last schema without the tables.
const BEFORE: MigrationRequest = MigrationRequest {
    to: Some(SECURITY_TABLES_VERSION - 1),
    ignore_agents: false,
};

fn alice() -> UserRows {
    UserRows {
        user_name: "alice".to_owned(),
        credentials: vec![credential("alice", SHA_256, 161)],
        acls: vec![acl("alice", "orders")],
        quotas: vec![quota("alice", 1.0)],
    }
}

/// Tries each change, and reading what owners have.
async fn every_change(store: &SharedStore) -> Vec<crate::Result<()>> {
    let alice = alice();
    let scram = ScramAlteration {
        upserts: alice.credentials.clone(),
        deletions: Vec::new(),
    };
    let quotas = QuotaAlteration {
        upserts: alice.quotas.clone(),
        removals: Vec::new(),
    };
    let owner = "k8s:default/alice";
    vec![
        store.alter_scram_credentials(&scram).await.map(drop),
        store.agent_secret().await.map(drop),
        store.create_acls(&alice.acls).await.map(drop),
        store.delete_acls(&alice.acls).await.map(drop),
        store.alter_client_quotas(&quotas).await,
        store
            .apply_user(owner, &alice, UnownedRows::Adopt)
            .await
            .map(drop),
        store.find_owned_user(owner).await.map(drop),
        store.list_owned_users("").await.map(drop),
        store.delete_user(owner).await.map(drop),
    ]
}

/// A store that is open stays open while its schema is migrated.
async fn changes_wait_for_the_tables(url: &str, store: &SharedStore) {
    let mut log = TestLog::new(store).await;
    for refused in every_change(store).await {
        match refused {
            Err(Error::SchemaMismatch(message)) => assert_eq!(
                message,
                "the metadata schema has version 6, but schema version 7 is needed for users, ACLs and quotas: run \
                 `streamhouse-agent migrate`"
            ),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(load(store).await, SecuritySnapshot::default());
    let before = snapshot(store).await;
    assert_eq!(before.security_version, 0);
    migrate(url, &options()).await.unwrap();
    assert_eq!(load(store).await, SecuritySnapshot::default());
    assert_eq!(
        snapshot(store).await,
        before,
        "the migration by itself changes nothing"
    );
    for done in every_change(store).await {
        done.unwrap();
    }
    assert_eq!(load(store).await.version, 6);
    assert_eq!(snapshot(store).await.security_version, 6);
    log.append(5).await;
    store.renew(log.lease.incarnation).await.unwrap();
}

#[tokio::test]
async fn changes_are_refused_until_the_schema_has_the_tables() {
    let url = Postgres::shared()
        .unwrap()
        .create_database("before_security")
        .unwrap();
    migrate_to(&url, &options(), &BEFORE).await.unwrap();
    let store = connect(&url, &options()).await.unwrap();
    changes_wait_for_the_tables(&url, &store).await;
}

#[tokio::test]
async fn changes_of_a_file_are_refused_until_its_schema_has_the_tables() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    migrate_to(&url, &options(), &BEFORE).await.unwrap();
    let store = connect_existing(&url, &options()).await.unwrap();
    changes_wait_for_the_tables(&url, &store).await;
}

/// Fills the three tables up to their limits, bypassing the store.
async fn fill_tables(url: &str) {
    let (numbers, blob) = if url.starts_with("sqlite") {
        (
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < LIMIT)",
            "x'00'",
        )
    } else {
        (
            "WITH numbers (n) AS (SELECT generate_series(1, LIMIT))",
            r"'\x00'::bytea",
        )
    };
    for (limit, insert) in [
        (
            MAX_SCRAM_CREDENTIALS,
            "INSERT INTO scram_credentials (user_name, mechanism, salt, iterations, stored_key, server_key, owner)
             NUMBERS SELECT 'user-' || n, 'SCRAM-SHA-256', BLOB, 4096, BLOB, BLOB, '' FROM numbers",
        ),
        (
            MAX_ACLS,
            "INSERT INTO acls (principal, resource_type, resource_name, pattern_type, host, operation, permission, owner)
             NUMBERS SELECT 'User:user-' || n, 'TOPIC', 'orders', 'LITERAL', '*', 'READ', 'ALLOW', '' FROM numbers",
        ),
        (
            MAX_CLIENT_QUOTAS,
            "INSERT INTO client_quotas (user_name, client_id, ip, key, value, owner)
             NUMBERS SELECT '=user-' || n, '', '', 'producer_byte_rate', 1.0, '' FROM numbers",
        ),
    ] {
        let insert = insert.replace("NUMBERS", numbers);
        let insert = insert
            .replace("LIMIT", &limit.to_string())
            .replace("BLOB", blob);
        execute_sql(url, &insert).await;
    }
}

fn assert_limit<T: std::fmt::Debug>(result: crate::Result<T>, says: &str) {
    match result {
        Err(Error::SecurityLimit(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("{other:?}"),
    }
}

async fn full_tables_refuse_more(url: &str) {
    let store: SharedStore = connect(url, &options()).await.unwrap();
    fill_tables(url).await;
    let full = load(&store).await;
    assert_eq!(
        (full.credentials.len(), full.acls.len(), full.quotas.len()),
        (MAX_SCRAM_CREDENTIALS, MAX_ACLS, MAX_CLIENT_QUOTAS)
    );
    let add = ScramAlteration {
        upserts: vec![credential("alice", SHA_256, 1)],
        deletions: Vec::new(),
    };
    let refused = store.alter_scram_credentials(&add).await;
    assert_limit(refused, "10001 SCRAM credentials");
    let refused = store.create_acls(&[acl("alice", "orders")]).await;
    assert_limit(refused, "100001 ACLs");
    let quotas = QuotaAlteration {
        upserts: vec![quota("alice", 1.0)],
        removals: Vec::new(),
    };
    assert_limit(store.alter_client_quotas(&quotas).await, "10001 client quotas");
    let user = UserRows {
        credentials: Vec::new(),
        acls: Vec::new(),
        ..alice()
    };
    let refused = store.apply_user("k8s:default/alice", &user, UnownedRows::Adopt);
    assert_limit(refused.await, "10001 client quotas");
    assert_eq!(load(&store).await, full, "nothing was changed");
    assert_eq!(store.list_owned_users("").await.unwrap().len(), 0);
    // What is there can still be changed, replaced and deleted.
    let replace = ScramAlteration {
        deletions: vec![credential_id("user-1", SHA_256)],
        ..add
    };
    store.alter_scram_credentials(&replace).await.unwrap();
    assert_eq!(
        store.delete_acls(&[acl("user-1", "orders")]).await.unwrap(),
        [true]
    );
    assert_eq!(
        store.create_acls(&[acl("alice", "orders")]).await.unwrap(),
        [true]
    );
    assert_eq!(load(&store).await.version, 3);
}

#[tokio::test]
async fn full_tables_take_no_more_rows() {
    full_tables_refuse_more(&database().await).await;
}

#[tokio::test]
async fn full_tables_of_a_file_take_no_more_rows() {
    full_tables_refuse_more(&sqlite_url(&tempfile::tempdir().unwrap())).await;
}

/// `tables` shows rows of every table, but no keys.
#[tokio::test]
async fn keys_are_not_shown_with_the_tables() {
    let (_folder, stores) = stores_of_each_kind().await;
    for (url, store) in stores {
        let owner = "k8s:default/alice";
        store
            .apply_user(owner, &alice(), UnownedRows::Refuse)
            .await
            .unwrap();
        store.agent_secret().await.unwrap();
        let tables = inspect::sample_tables(&url, 3).await.unwrap();
        let table = |name: &str| tables.iter().find(|table| table.table == name).unwrap();
        let row = &table("scram_credentials").sample[0];
        assert_eq!(
            (&row["user_name"], &row["iterations"]),
            (&"alice".into(), &4096.into())
        );
        for hidden in ["salt", "stored_key", "server_key"] {
            assert_eq!(row[hidden], "(hidden)", "{url}");
        }
        assert_eq!(table("cluster").sample[0]["agent_secret"], "(hidden)", "{url}");
        assert_eq!(table("acls").sample[0]["principal"], "User:alice");
        assert_eq!(table("client_quotas").sample[0]["user_name"], "=alice");
        assert_eq!(table("user_owners").sample[0]["owner"], owner);
        let text = serde_json::to_string(&tables).unwrap().to_lowercase();
        assert!(!text.contains("a1a1") && !text.contains("5e5e"), "{text}");
    }
}

#[tokio::test]
async fn a_backup_has_users_and_a_drop_leaves_none() {
    let folder = tempfile::tempdir().unwrap();
    let url = sqlite_url(&folder);
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let owner = "k8s:default/alice";
    store
        .apply_user(owner, &alice(), UnownedRows::Refuse)
        .await
        .unwrap();
    let copy = folder.path().join("copy.db");
    assert!(backup(&url, &options(), &copy).await.unwrap());
    let copied = connect(&format!("sqlite:{}", copy.display()), &options())
        .await
        .unwrap();
    assert_eq!(load(&copied).await, load(&store).await);
    assert_eq!(
        copied.list_owned_users("").await.unwrap(),
        [(owner.to_owned(), alice())].into()
    );
    for url in [url, database().await] {
        let store: SharedStore = connect(&url, &options()).await.unwrap();
        put_credentials(&store, &[credential("bob", SHA_256, 1)]).await;
        assert!(drop_schema(&url, &options()).await.unwrap());
        migrate(&url, &options()).await.unwrap();
        let store: SharedStore = connect(&url, &options()).await.unwrap();
        assert_eq!(load(&store).await, SecuritySnapshot::default());
    }
}

/// A row that another program wrote is an error, not something that looks like a rule.
#[tokio::test]
async fn a_damaged_quota_is_told() {
    let (_folder, stores) = stores_of_each_kind().await;
    for (url, store) in stores {
        let damaged = "INSERT INTO client_quotas (user_name, client_id, ip, key, value, owner) VALUES ('x', '', '', 'k', 1.0, '')";
        execute_sql(&url, damaged).await;
        let loaded = store.load_security().await;
        assert!(matches!(loaded, Err(Error::Inconsistent(_))), "{loaded:?}");
    }
}

/// A change waits for the changes of topics and agents, and holds up no renewal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_waits_for_the_lock_of_the_cluster_and_a_renewal_does_not() {
    let url = database().await;
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let log = TestLog::new(&store).await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let mut watch = PgConnection::connect(&url).await.unwrap();
    let mut lock = other.begin().await.unwrap();
    query("SELECT FROM cluster FOR UPDATE")
        .execute(&mut *lock)
        .await
        .unwrap();
    let callee = store.clone();
    let creating = tokio::spawn(async move { callee.create_acls(&[acl("alice", "orders")]).await });
    while count_lock_waiters(&mut watch).await < 1 {
        assert!(!creating.is_finished(), "the change did not wait for the lock");
    }
    store.renew(log.lease.incarnation).await.unwrap();
    assert_eq!(load(&store).await.version, 0);
    lock.rollback().await.unwrap();
    assert_eq!(creating.await.unwrap().unwrap(), [true]);
}
