//! A real PgBouncer between the store and PostgreSQL, in each mode, which refuses or drops unknown
//! startup parameters.

use sqlx::{Connection, PgConnection, Row, query_scalar};
use streamhouse_testkit::{PgBouncer, Postgres};

use super::support::options;
use crate::{
    ConnectOptions,
    conformance::{self, fixture::SharedStore},
    connect, drop_schema, inspect, live_agent, migrate, schema,
};

/// Runs the whole lifecycle of a store through a pooler, with several concurrent clients.
async fn check_pooler(name: &str, mode: &str, ignored: &str) {
    let server = Postgres::shared().unwrap();
    let direct = server.create_database(name).unwrap();
    let pooler = PgBouncer::start(server, mode, ignored).unwrap();
    let url = pooler.url(name);
    assert_eq!(schema(&url, &options()).await.unwrap().found, 0);
    let patient = options();
    let (one, two) = tokio::join!(migrate(&url, &patient), migrate(&url, &patient));
    let needed = schema(&url, &options()).await.unwrap().window.max;
    assert_eq!((one.unwrap().to, two.unwrap().to), (needed, needed));
    assert_eq!(migrate(&url, &options()).await.unwrap().from, needed);
    let few = ConnectOptions {
        max_connections: 3,
        ..options()
    };
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    let other: SharedStore = connect(&url, &few).await.unwrap();
    conformance::races::racing_commits_of_one_object_commit_once(&store).await;
    tokio::join!(conformance::races::racing_claims_have_one_winner(&store), async {
        for _ in 0..20 {
            other.snapshot(None).await.unwrap();
            other.topics_overview().await.unwrap();
            other.allocate_producer_id().await.unwrap();
        }
    });
    conformance::security::quotas_tell_a_default_from_a_name_and_from_nothing(&store).await;
    assert!(inspect::sample_tables(&url, 1).await.unwrap().len() > 5);
    assert!(live_agent(&url, &options()).await.unwrap().is_some());
    // The store's settings apply to its own transactions only, and no statement is left prepared.
    let mut left = PgConnection::connect(&direct).await.unwrap();
    let settled: String = query_scalar("SHOW statement_timeout")
        .fetch_one(&mut left)
        .await
        .unwrap();
    assert_eq!(settled, "0");
    let mut through = sqlx::PgConnection::connect_with(
        &url.parse::<sqlx::postgres::PgConnectOptions>()
            .unwrap()
            .extra_float_digits(None),
    )
    .await
    .unwrap();
    let row = sqlx::raw_sql(
        "SELECT current_setting('statement_timeout'), (SELECT count(*) FROM pg_prepared_statements), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')",
    )
    .fetch_one(&mut through)
    .await
    .unwrap();
    let (timeout, prepared, locks): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!((timeout.as_str(), prepared, locks), ("0", 0, 0));
    drop((store, other, through));
    sqlx::query("UPDATE agents SET sealed_at = now()")
        .execute(&mut left)
        .await
        .unwrap();
    assert!(drop_schema(&url, &options()).await.unwrap());
    assert_eq!(schema(&url, &options()).await.unwrap().found, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_keeps_sessions_serves() {
    check_pooler("pooled_sessions", "session", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_keeps_transactions_serves() {
    check_pooler("pooled_transactions", "transaction", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_drops_what_it_does_not_know_is_noticed() {
    check_pooler("pooled_ignored", "transaction", "options,extra_float_digits").await;
}

/// The address can declare a pooler that is not detected because it forwards startup parameters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_can_say_that_there_is_a_pooler() {
    let server = Postgres::shared().unwrap();
    let url = server.create_database("pooled_said").unwrap();
    let url = format!("{url}?statement-cache-capacity=0");
    migrate(&url, &options()).await.unwrap();
    let store: SharedStore = connect(&url, &options()).await.unwrap();
    conformance::log::producer_ids_are_never_given_twice(&store).await;
    conformance::commit::many_partitions_commit_in_one_object(&store).await;
}
