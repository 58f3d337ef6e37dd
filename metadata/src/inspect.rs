//! Reads the tables as they are, for evaluation and troubleshooting: names, row counts and the
//! first rows. Only reads; the agent's work never depends on it.

use std::{str::FromStr, time::Duration};

use serde::Serialize;
use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    ConnectOptions, Error, Result,
    postgres::{PostgresConnector, ServerTimeouts, StoreConnection, TransactionScope, connect_once},
    transaction::with_timeout,
};

/// The time limit: rows of large tables are counted.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(60);

/// The columns that are not shown, by table: with them a password can be guessed, a client
/// deceived, or an agent imitated.
const HIDDEN_COLUMNS: [(&str, &[&str]); 2] = [
    ("cluster", &["agent_secret"]),
    ("scram_credentials", &["salt", "stored_key", "server_key"]),
];
/// The value in place of theirs.
const HIDDEN: &str = "(hidden)";

fn hidden_columns(table: &str) -> &'static [&'static str] {
    let found = HIDDEN_COLUMNS.iter().find(|(name, _)| *name == table);
    found.map_or(&[], |(_, columns)| columns)
}

/// A sample of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TableSample {
    /// The name of the table.
    pub table: String,
    /// The number of rows.
    pub rows: i64,
    /// The first rows by column; bytes as hexadecimal digits, and no keys of users.
    pub sample: Vec<Value>,
}

/// Returns the tables of the store at `url` by name, with at most `sample` rows each.
///
/// # Errors
///
/// [`Error::InvalidAddress`] if the address is invalid, [`Error::Unavailable`] if the store cannot
/// be read in time.
pub async fn sample_tables(url: &str, sample: usize) -> Result<Vec<TableSample>> {
    let unavailable = |error: sqlx::Error| Error::Unavailable(error.to_string());
    crate::check_address(url)?;
    if url.starts_with("sqlite") {
        return with_timeout(INSPECT_TIMEOUT, async {
            sample_sqlite_tables(url, sample).await.map_err(unavailable)
        })
        .await;
    }
    let options = ConnectOptions::default();
    let millis = INSPECT_TIMEOUT.as_millis();
    let timeouts = ServerTimeouts {
        statement: millis,
        lock: millis,
    };
    let mut conn = connect_once(&PostgresConnector::new(url, &options, timeouts)?, &options).await?;
    with_timeout(INSPECT_TIMEOUT, async {
        let tables = sample_postgres_tables(&mut conn, sample)
            .await
            .map_err(unavailable)?;
        conn.close().await.map_err(unavailable)?;
        Ok(tables)
    })
    .await
}

async fn sample_postgres_tables(
    conn: &mut StoreConnection,
    sample: usize,
) -> Result<Vec<TableSample>, sqlx::Error> {
    conn.begin(TransactionScope::ReadOnlySnapshot).await?;
    let names = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut *conn).await?;
    let mut tables = Vec::with_capacity(names.len());
    for table in names {
        let quoted = quote_identifier(&table);
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {quoted}")));
        let rows: i64 = rows.fetch_one(&mut *conn).await?;
        let columns: Vec<String> = sqlx::query_scalar(
            "SELECT column_name::text FROM information_schema.columns
             WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position",
        )
        .bind(&table)
        .fetch_all(&mut *conn)
        .await?;
        let hidden = hidden_columns(&table);
        let field = |column: &String| match hidden.contains(&column.as_str()) {
            true => format!("'{HIDDEN}' AS {}", quote_identifier(column)),
            false => quote_identifier(column),
        };
        let fields: Vec<String> = columns.iter().map(field).collect();
        let first = format!(
            "SELECT row_to_json(t)::text FROM (SELECT {} FROM {quoted} LIMIT {sample}) t",
            fields.join(", ")
        );
        let first: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(first))
            .fetch_all(&mut *conn)
            .await?;
        tables.push(TableSample {
            table,
            rows,
            sample: parse_rows(first),
        });
    }
    conn.commit().await?;
    Ok(tables)
}

async fn sample_sqlite_tables(url: &str, sample: usize) -> Result<Vec<TableSample>, sqlx::Error> {
    let mut conn: SqliteConnection = SqliteConnectOptions::from_str(url)?
        .read_only(true)
        .connect()
        .await?;
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut conn).await?;
    let mut tables = Vec::with_capacity(names.len());
    for table in names {
        let quoted = quote_identifier(&table);
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(&table)
            .fetch_all(&mut conn)
            .await?;
        let hidden = hidden_columns(&table);
        let field = |column: &String| {
            let name = column.replace('\'', "''");
            if hidden.contains(&column.as_str()) {
                return format!("'{name}', '{HIDDEN}'");
            }
            let column = quote_identifier(column);
            format!("'{name}', CASE typeof({column}) WHEN 'blob' THEN hex({column}) ELSE {column} END")
        };
        let fields: Vec<String> = columns.iter().map(field).collect();
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {quoted}")));
        let rows: i64 = rows.fetch_one(&mut conn).await?;
        let first = format!(
            "SELECT json_object({}) FROM {quoted} LIMIT {sample}",
            fields.join(", ")
        );
        let first: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(first))
            .fetch_all(&mut conn)
            .await?;
        tables.push(TableSample {
            table,
            rows,
            sample: parse_rows(first),
        });
    }
    conn.close().await?;
    Ok(tables)
}

fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parse_rows(rows: Vec<String>) -> Vec<Value> {
    rows.into_iter()
        .map(|row| serde_json::from_str(&row).unwrap_or(Value::String(row)))
        .collect()
}
