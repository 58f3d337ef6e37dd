//! Tests the plans of the hot queries on a representative volume: each must use an index, and none
//! may scan a growing table as a whole. `UPDATE_DOCS=1` writes the plans to
//! `docs/metadata-queries.md`.

mod queries;

use std::{collections::HashMap, fmt::Write, time::Duration};

use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use streamhouse_testkit::Postgres;

use self::queries::HotQuery;
use super::{PostgresConnector, ServerTimeouts};
use crate::{
    ConnectOptions,
    conformance::fixture::{create_topic, leases, object_commit, register_agent, sequenced_batch},
    connect, migrate,
    tests::support::{database, options},
};

/// The tables that grow with partitions, records, producers or groups.
const GROWING_TABLES: [&str; 9] = [
    "partitions",
    "wal_objects",
    "ranges",
    "segments",
    "segment_intents",
    "deletions",
    "producer_state",
    "consumer_groups",
    "consumer_offsets",
];

/// Fills the tables with a representative volume.
const FILL_SQL: &str = include_str!("plans/fill.sql");

/// Returns the plan of a query for these arguments, or the generic one.
async fn explain(conn: &mut PgConnection, hot: &HotQuery, generic: bool) -> Value {
    let mode = if generic {
        "force_generic_plan"
    } else {
        "force_custom_plan"
    };
    let prepare = format!(
        "SET plan_cache_mode = {mode}; DEALLOCATE ALL; PREPARE hot AS {}",
        hot.sql
    );
    conn.execute(sqlx::raw_sql(AssertSqlSafe(prepare))).await.unwrap();
    // A subquery cannot be an argument: it is replaced by its value.
    let mut arguments = hot.arguments.clone();
    if let Some(end) = arguments.find(")").filter(|_| arguments.starts_with("(SELECT")) {
        let value = format!("SELECT {}::text", &arguments[..=end]);
        let value: String = sqlx::query_scalar(AssertSqlSafe(value))
            .persistent(false)
            .fetch_one(&mut *conn)
            .await
            .unwrap();
        arguments = format!("'{value}'{}", &arguments[end + 1..]);
    }
    if !arguments.is_empty() {
        arguments = format!("({arguments})");
    }
    let explain = format!("EXPLAIN (FORMAT JSON, COSTS OFF) EXECUTE hot {arguments}");
    let row = conn
        .fetch_one(sqlx::raw_sql(AssertSqlSafe(explain)))
        .await
        .unwrap();
    let json: String = row.try_get_unchecked(0).unwrap();
    serde_json::from_str::<Value>(&json).unwrap()[0]["Plan"].clone()
}

fn text_field<'a>(node: &'a Value, field: &str) -> &'a str {
    node[field].as_str().unwrap_or_default()
}

/// Calls `visit` with every node and its depth.
fn visit_nodes(node: &Value, depth: usize, visit: &mut impl FnMut(&Value, usize)) {
    visit(node, depth);
    for child in node["Plans"].as_array().into_iter().flatten() {
        visit_nodes(child, depth + 1, visit);
    }
}

/// Returns the problems of a plan.
fn find_plan_problems(hot: &HotQuery, plan: &Value) -> Vec<String> {
    let (mut used, mut wrong) = (Vec::new(), Vec::new());
    let mut reads: HashMap<String, u32> = HashMap::new();
    visit_nodes(plan, 0, &mut |node, _| {
        used.push(text_field(node, "Index Name").to_owned());
        let relation = text_field(node, "Relation Name");
        if hot.full_scans.contains(&relation) {
            *reads.entry(relation.to_owned()).or_default() += 1;
            return;
        }
        if !hot.full_scans.is_empty() && text_field(node, "Node Type") == "Nested Loop" {
            wrong.push(format!("{}: may scan a table once for each row", hot.name));
        }
        if text_field(node, "Node Type") == "Seq Scan" && GROWING_TABLES.contains(&relation) {
            wrong.push(format!("{}: scans all of {relation}", hot.name));
        }
        let ordered = matches!(
            text_field(node, "Node Type"),
            "Index Scan" | "Index Only Scan" | "Bitmap Index Scan"
        );
        if ordered && node["Index Cond"].is_null() && GROWING_TABLES.contains(&relation) {
            wrong.push(format!(
                "{}: scans all of {}",
                hot.name,
                text_field(node, "Index Name")
            ));
        }
    });
    wrong.extend(
        hot.full_scans
            .iter()
            .filter(|table| reads.get(**table) != Some(&1))
            .map(|table| format!("{}: does not scan {table} exactly once", hot.name)),
    );
    wrong.extend(
        hot.indexes
            .iter()
            .filter(|index| !used.iter().any(|used| used == *index))
            .map(|index| format!("{}: does not use {index}", hot.name)),
    );
    wrong
}

/// Formats the plan with one node per line.
fn format_plan(plan: &Value) -> String {
    let mut lines = String::new();
    visit_nodes(plan, 0, &mut |node, depth| {
        let operation = text_field(node, "Operation");
        let kind = if operation.is_empty() {
            text_field(node, "Node Type")
        } else {
            operation
        };
        write!(lines, "{}{kind}", "  ".repeat(depth)).unwrap();
        for (label, field) in [
            ("using", "Index Name"),
            ("on", "Relation Name"),
            ("as", "CTE Name"),
            ("calls", "Function Name"),
        ] {
            if !text_field(node, field).is_empty() {
                write!(lines, " {label} {}", text_field(node, field)).unwrap();
            }
        }
        if !text_field(node, "Index Cond").is_empty() {
            // Lists of a hundred ids are shortened.
            let condition = text_field(node, "Index Cond");
            let short = condition
                .find('{')
                .and_then(|from| Some((from, condition.find('}')?)));
            let condition = match short {
                Some((from, to)) => format!("{}…{}", &condition[..=from], &condition[to..]),
                None => condition.to_owned(),
            };
            write!(lines, " {condition}").unwrap();
        }
        lines.push('\n');
    });
    lines
}

#[tokio::test]
async fn every_hot_query_is_answered_by_an_index() {
    // The settings of the store's connections, but with a long timeout.
    let patient = ConnectOptions {
        statement_timeout: Duration::from_secs(300),
        ..options()
    };
    let opening = PostgresConnector::new(
        &database().await,
        &patient,
        ServerTimeouts::from_options(&patient),
    )
    .unwrap();
    let mut conn = PgConnection::connect_with(opening.direct()).await.unwrap();
    conn.execute(sqlx::raw_sql(FILL_SQL)).await.unwrap();
    conn.execute("VACUUM ANALYZE").await.unwrap();
    let mut page = String::from(INTRODUCTION);
    let mut wrong = Vec::new();
    for hot in queries::all() {
        let custom = explain(&mut conn, &hot, false).await;
        let generic = explain(&mut conn, &hot, true).await;
        for (mode, plan) in [("custom", &custom), ("generic", &generic)] {
            let found = find_plan_problems(&hot, plan);
            if !found.is_empty() {
                wrong.push(format!("{mode}: {}\n{}", found.join("; "), format_plan(plan)));
            }
        }
        write!(
            page,
            "\n## {}\n\n```sql\n{}\n```\n\n```text\n{}```\n",
            hot.name,
            unindent(hot.sql),
            format_plan(&custom)
        )
        .unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metadata-queries.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(path).unwrap();
    for hot in queries::all() {
        let there = written.contains(&unindent(hot.sql));
        assert!(
            there,
            "docs/metadata-queries.md does not show the current query {:?}: run this test with UPDATE_DOCS=1",
            hot.name
        );
    }
}

const INTRODUCTION: &str = "# The hot queries of the metadata store\n
The plan that PostgreSQL chooses for each frequent statement, on 10,000 partitions, 200,000 WAL ranges, 44,000 WAL objects,
300,000 segments, 100,000 producer states and 100,000 group offsets. Written by the test `every_hot_query_is_answered_by_an_index`
(`UPDATE_DOCS=1 cargo test -p streamhouse-metadata --lib plans`), which also fails if one of the plans, custom or generic,
scans a growing table or index as a whole. The last query is not hot and reads the table of partitions
once as a whole: it is the operator's overview of all topics.\n";

/// Removes the indentation that all lines share.
fn unindent(sql: &str) -> String {
    let lines: Vec<&str> = sql.lines().filter(|line| !line.trim().is_empty()).collect();
    let shared = lines
        .iter()
        .skip(usize::from(!sql.starts_with('\n')))
        .map(|line| line.len() - line.trim_start().len())
        .min();
    let cut = |line: &&str| {
        line.chars()
            .skip(shared.unwrap_or(0).min(line.len() - line.trim_start().len()))
            .collect::<String>()
    };
    lines.iter().map(cut).collect::<Vec<_>>().join("\n")
}

/// Updates on the hot path must be heap-only (HOT): they stay in their page and touch no index.
#[tokio::test]
async fn hot_rows_are_updated_in_place() {
    // A server of its own: a long transaction in any database of a server delays the clean-up in
    // others.
    let server = Postgres::start().unwrap();
    let url = server.create_database("metadata").unwrap();
    migrate(&url, &options()).await.unwrap();
    let store = connect(&url, &options()).await.unwrap();
    let incarnation = register_agent(&store, "agent-0").await.incarnation;
    let leases = leases(&create_topic(&store, "orders", 16).await);
    for sequence in 0..200_u64 {
        let batch = [sequenced_batch(1, i32::try_from(sequence).unwrap(), 1)];
        let parts: Vec<_> = leases.iter().map(|lease| (*lease, &batch[..])).collect();
        store
            .commit_object(&object_commit(incarnation, sequence, &parts))
            .await
            .unwrap();
        store.renew(incarnation).await.unwrap();
    }
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for (table, updates) in [
        ("partitions", 200 * 16),
        ("producer_state", 199 * 16),
        ("agents", 200),
    ] {
        let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = $1";
        // The server updates its counters with a delay.
        let (all, in_place): (i64, i64) = loop {
            let counted: (i64, i64) = sqlx::query_as(counts)
                .bind(table)
                .fetch_one(&mut conn)
                .await
                .unwrap();
            if counted.0 >= updates {
                break counted;
            }
            store.ping().await.unwrap();
        };
        assert!(
            in_place * 100 >= all * 95,
            "{table}: only {in_place} of {all} updates were made in place"
        );
    }
}
