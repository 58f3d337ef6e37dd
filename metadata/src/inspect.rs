//! Reads the tables as they are, for evaluation and troubleshooting: names, row counts and the
//! first rows. Only reads; the agent's work never depends on it.

use std::{str::FromStr, time::Duration};

use serde::Serialize;
use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    ConnectOptions, Error, Result,
    failure::within,
    postgres::{Opening, PgConnection, Scope, ServerTimeouts, connect_once},
};

/// The time limit: rows of large tables are counted.
const LIMIT: Duration = Duration::from_secs(60);

/// A sample of a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// The name of the table.
    pub table: String,
    /// The number of rows.
    pub rows: i64,
    /// The first rows by column; bytes as hexadecimal digits.
    pub sample: Vec<Value>,
}

/// Returns the tables of the store at `url` by name, with at most `sample` rows each.
///
/// # Errors
///
/// [`Error::Address`] if the address is invalid, [`Error::Unavailable`] if the store cannot be read
/// in time.
pub async fn tables(url: &str, sample: usize) -> Result<Vec<Table>> {
    let unavailable = |error: sqlx::Error| Error::Unavailable(error.to_string());
    crate::check_address(url)?;
    if url.starts_with("sqlite") {
        return within(LIMIT, async { of_sqlite(url, sample).await.map_err(unavailable) }).await;
    }
    let options = ConnectOptions::default();
    let millis = LIMIT.as_millis();
    let timeouts = ServerTimeouts {
        statement: millis,
        lock: millis,
    };
    let mut conn = connect_once(&Opening::new(url, &options, timeouts)?, &options).await?;
    within(LIMIT, async {
        let tables = of_postgres(&mut conn, sample).await.map_err(unavailable)?;
        conn.close().await.map_err(unavailable)?;
        Ok(tables)
    })
    .await
}

async fn of_postgres(conn: &mut PgConnection, sample: usize) -> Result<Vec<Table>, sqlx::Error> {
    conn.begin(Scope::Moment).await?;
    let names = "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut *conn).await?;
    let mut tables = Vec::with_capacity(names.len());
    for table in names {
        let quoted = quote(&table);
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {quoted}")));
        let rows: i64 = rows.fetch_one(&mut *conn).await?;
        let first = format!("SELECT row_to_json(t)::text FROM (SELECT * FROM {quoted} LIMIT {sample}) t");
        let first: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(first))
            .fetch_all(&mut *conn)
            .await?;
        tables.push(Table {
            table,
            rows,
            sample: parsed(first),
        });
    }
    conn.commit().await?;
    Ok(tables)
}

async fn of_sqlite(url: &str, sample: usize) -> Result<Vec<Table>, sqlx::Error> {
    let mut conn: SqliteConnection = SqliteConnectOptions::from_str(url)?
        .read_only(true)
        .connect()
        .await?;
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1";
    let names: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut conn).await?;
    let mut tables = Vec::with_capacity(names.len());
    for table in names {
        let quoted = quote(&table);
        let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
            .bind(&table)
            .fetch_all(&mut conn)
            .await?;
        let field = |column: &String| {
            let (name, column) = (column.replace('\'', "''"), quote(column));
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
        tables.push(Table {
            table,
            rows,
            sample: parsed(first),
        });
    }
    conn.close().await?;
    Ok(tables)
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parsed(rows: Vec<String>) -> Vec<Value> {
    rows.into_iter()
        .map(|row| serde_json::from_str(&row).unwrap_or(Value::String(row)))
        .collect()
}
