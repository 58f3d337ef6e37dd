//! The Kafka clients that are connected to the serving agent, by the software that they name.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use axum::{Json, extract::State, http::Uri};
use serde::{Deserialize, Serialize};

use super::{
    ConsoleState,
    api::{ApiResult, PageRange, parse_query},
};
use crate::metrics::{AgentMetrics, ClientSoftware, ConnectedClient};

/// Rows in one response: the default and the maximum.
const PAGE_ROWS: (usize, usize) = (50, 200);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientListQuery {
    offset: Option<usize>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct ClientListPage {
    /// Open connections of Kafka clients.
    connections: usize,
    /// Number of names and versions.
    total: usize,
    #[serde(flatten)]
    part: PageRange,
    software: Vec<SoftwareRow>,
}

/// The connections of clients of one software and version.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct SoftwareRow {
    /// Empty for clients that have not named their software.
    name: String,
    version: String,
    connections: usize,
    /// Number of distinct client ids.
    client_ids: usize,
    /// Number of distinct addresses.
    hosts: usize,
}

pub(super) async fn list_clients(
    State(console): State<Arc<ConsoleState>>,
    uri: Uri,
) -> ApiResult<ClientListPage> {
    let wanted: ClientListQuery = parse_query(&uri)?;
    let part = PageRange::new(wanted.offset, wanted.limit, PAGE_ROWS.0, PAGE_ROWS.1);
    let connected = console.deps.metrics.kafka.clients.connected();
    let connections = connected.len();
    let rows = summarize(connected);
    Ok(Json(ClientListPage {
        connections,
        total: rows.len(),
        part,
        software: part.select(rows.into_iter()),
    }))
}

/// Returns a row for each software and version, those with the most connections first.
fn summarize(connected: Vec<ConnectedClient>) -> Vec<SoftwareRow> {
    #[derive(Default)]
    struct SoftwareConnections {
        connections: usize,
        client_ids: BTreeSet<String>,
        hosts: BTreeSet<IpAddr>,
    }
    let mut found: BTreeMap<ClientSoftware, SoftwareConnections> = BTreeMap::new();
    for client in connected {
        let of_software = found.entry(client.software.unwrap_or_default()).or_default();
        of_software.connections += 1;
        of_software.client_ids.insert(client.client_id);
        of_software.hosts.extend(client.host);
    }
    let mut rows: Vec<SoftwareRow> = found
        .into_iter()
        .map(|(software, of_software)| SoftwareRow {
            name: software.name,
            version: software.version,
            connections: of_software.connections,
            client_ids: of_software.client_ids.iter().filter(|id| !id.is_empty()).count(),
            hosts: of_software.hosts.len(),
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.connections));
    rows
}

/// The software of the clients that are connected to the serving agent, by client id and address.
/// Members of a group are connected to its coordinator, and to the leaders that they read from.
#[derive(Debug)]
pub(super) struct SoftwareDirectory(HashMap<(String, String), ClientSoftware>);

impl SoftwareDirectory {
    pub(super) fn new(metrics: &AgentMetrics) -> Self {
        let connected = metrics.kafka.clients.connected().into_iter();
        let known = connected.filter_map(|client| {
            let host = client.host?.to_string();
            Some(((client.client_id, host), client.software?))
        });
        Self(known.collect())
    }

    /// Returns name and version; empty if no such client is connected to this agent.
    pub(super) fn find(&self, client_id: &str, host: &str) -> String {
        let key = (client_id.to_owned(), host.to_owned());
        let software = self.0.get(&key);
        software.map_or_else(String::new, |software| {
            format!("{} {}", software.name, software.version)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn connections_are_summed_by_software() {
        let client = |name: &str, id: &str, host: [u8; 4]| ConnectedClient {
            host: Some(Ipv4Addr::from(host).into()),
            client_id: id.to_owned(),
            software: ClientSoftware::new(name, "1.0"),
        };
        let rows = summarize(vec![
            client("", "", [10, 0, 0, 1]),
            client("sarama", "a", [10, 0, 0, 1]),
            client("sarama", "a", [10, 0, 0, 2]),
            client("sarama", "b", [10, 0, 0, 2]),
        ]);
        let row = |name: &str, version: &str, (connections, client_ids, hosts)| SoftwareRow {
            name: name.to_owned(),
            version: version.to_owned(),
            connections,
            client_ids,
            hosts,
        };
        assert_eq!(rows, [row("sarama", "1.0", (3, 2, 2)), row("", "", (1, 0, 1))]);
    }
}
