//! The commands `tables` and `list_objects`, which read the stores directly, without a running
//! agent.

use std::fmt::Write as _;

use serde_json::json;
use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata::inspect;

use crate::{assembly, store};

/// Rows shown per table.
const SAMPLE_ROWS: usize = 3;
/// Objects per listing page.
const LIST_PAGE_SIZE: usize = 1000;

/// Arguments of the command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InspectOptions {
    json: bool,
    prefix: String,
}

impl InspectOptions {
    /// Parses `-o json` and, for `list_objects`, `--prefix P`.
    ///
    /// # Errors
    /// A usage message for any other argument.
    pub fn parse(command: &str, arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match (argument.as_str(), arguments.next().map(String::as_str)) {
                ("-o" | "--output", Some("json")) => options.json = true,
                ("-o" | "--output", Some("table")) => options.json = false,
                ("--prefix", Some(prefix)) if command == "objects" => options.prefix = prefix.to_owned(),
                _ => {
                    return Err(format!(
                        "{command}: unexpected argument {argument:?}; it takes -o table|json{}",
                        extra_arguments(command)
                    ));
                }
            }
        }
        Ok(options)
    }
}

fn extra_arguments(command: &str) -> &'static str {
    if command == "objects" {
        " and --prefix TEXT"
    } else {
        ""
    }
}

/// Shows the metadata store's tables: the number of rows, and the first of them.
///
/// # Errors
/// If the metadata store cannot be read.
pub async fn show_tables(settings: &AgentSettings, options: &InspectOptions) -> anyhow::Result<String> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty(),
        "metadata-url is needed: it names the store to read"
    );
    let tables = inspect::sample_tables(settings.metadata_url.expose(), SAMPLE_ROWS).await?;
    if options.json {
        return Ok(serde_json::to_string(&tables)?);
    }
    let mut out = String::new();
    for table in tables {
        writeln!(out, "{:<20} {:>10} rows", table.table, table.rows)?;
        for row in table.sample {
            writeln!(out, "    {row}")?;
        }
    }
    Ok(out.trim_end().to_owned())
}

/// Lists the objects in the object store by key.
///
/// # Errors
/// If the object store cannot be read.
pub async fn list_objects(settings: &AgentSettings, options: &InspectOptions) -> anyhow::Result<String> {
    anyhow::ensure!(
        !settings.object_store.is_empty(),
        "object-store is needed: it names the store to read"
    );
    let store = store::open_store(&assembly::store_settings(settings)).await?;
    let mut found = Vec::new();
    loop {
        let after = found.last().map(|object: &store::ObjectMeta| object.key.clone());
        let page = store
            .list(&options.prefix, after.as_deref(), LIST_PAGE_SIZE)
            .await?;
        let last = page.len() < LIST_PAGE_SIZE;
        found.extend(page);
        if last {
            break;
        }
    }
    if options.json {
        let objects: Vec<_> = found
            .iter()
            .map(|o| json!({ "key": o.key, "size": o.size, "modified_ms": o.modified_ms }))
            .collect();
        return Ok(serde_json::to_string(&objects)?);
    }
    let lines: Vec<String> = found
        .iter()
        .map(|object| format!("{:>12} {}", object.size, object.key))
        .collect();
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused() {
        let parse = |command, arguments: &[&str]| {
            InspectOptions::parse(
                command,
                &arguments.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        };
        let json = InspectOptions {
            json: true,
            prefix: "orders/".to_owned(),
        };
        assert_eq!(parse("objects", &["--prefix", "orders/", "-o", "json"]), Ok(json));
        assert!(parse("tables", &["--prefix", "orders/"]).is_err());
        assert!(parse("tables", &["-o"]).is_err());
        assert!(parse("objects", &["-o", "yaml"]).is_err());
    }
}
