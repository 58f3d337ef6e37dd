//! The listeners file: YAML or JSON that names further listeners, each for clients of one protocol,
//! and the addresses at which clients of each reach the agents.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use serde::Deserialize;
use streamhouse_core::settings::parse_address;
use tokio::{fs::File, io::AsyncReadExt};

use super::address::{is_dns_label, parse_client_address};

/// Largest file that is read, in bytes: enough for some thousand agents on every listener.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Maximum number of listeners in the file.
const MAX_LISTENERS: usize = 16;
/// Longest name of a listener, so that names of Services can begin with the cluster's name.
const MAX_NAME_LENGTH: usize = 25;
/// Names of the built-in listeners, which are folders below `tls-dir`.
const RESERVED_NAMES: [&str; 4] = ["grpc", "http", "kafka", "forward"];

/// Reason why the listeners file cannot be used; says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("listeners-file: {0}")]
pub struct ListenersFileError(pub(super) String);

/// The protocol of a listener's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListenerProtocol {
    /// gRPC.
    #[default]
    Grpc,
    /// Kafka's.
    Kafka,
}

/// One listener of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerDefinition {
    /// Unique name: a DNS label.
    pub name: String,
    /// Address to listen on.
    pub listen: String,
    /// The protocol of its clients.
    pub protocol: ListenerProtocol,
    /// Whether it serves TLS.
    pub tls: bool,
    /// The addresses that its clients are given.
    pub addresses: ListenerAddresses,
}

/// The addresses at which the clients of one listener reach the agents.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerAddresses {
    /// The address of every agent without one of its own.
    pub shared: Option<String>,
    /// Addresses by agent id.
    pub agents: BTreeMap<String, String>,
}

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenListeners {
    listeners: Vec<WrittenListener>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenListener {
    name: String,
    listen: String,
    #[serde(default)]
    protocol: ListenerProtocol,
    #[serde(default)]
    tls: bool,
    address: Option<String>,
    #[serde(default)]
    agents: BTreeMap<String, String>,
}

/// Reads the file's bytes.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, ListenersFileError> {
    let refuse = |why: String| ListenersFileError(format!("cannot read {}: {why}", path.display()));
    let file = File::open(path)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| refuse(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(refuse(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Parses and checks the file.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<ListenerDefinition>, ListenersFileError> {
    let written: WrittenListeners =
        serde_yaml_ng::from_slice(bytes).map_err(|error| ListenersFileError(error.to_string()))?;
    if written.listeners.len() > MAX_LISTENERS {
        return Err(ListenersFileError(format!(
            "it has {} listeners, and at most {MAX_LISTENERS} are possible",
            written.listeners.len()
        )));
    }
    let (mut names, mut sockets) = (HashSet::new(), HashSet::new());
    let mut listeners = Vec::with_capacity(written.listeners.len());
    for written in written.listeners {
        let name = written.name.clone();
        let listener =
            check(written).map_err(|problem| ListenersFileError(format!("listener {name:?}: {problem}")))?;
        if !names.insert(listener.name.clone()) {
            return Err(ListenersFileError(format!(
                "two listeners have the name {name:?}; names are unique"
            )));
        }
        if !listener.listen.ends_with(":0") && !sockets.insert(listener.listen.clone()) {
            return Err(ListenersFileError(format!(
                "two listeners listen on {}; give each a port of its own",
                listener.listen
            )));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn check(written: WrittenListener) -> Result<ListenerDefinition, String> {
    let WrittenListener {
        name,
        listen,
        protocol,
        tls,
        address,
        agents,
    } = written;
    if !is_dns_label(&name, MAX_NAME_LENGTH) {
        return Err(format!(
            "the name must be 1 to {MAX_NAME_LENGTH} lower-case letters, digits and '-', and begin and end with a letter or digit"
        ));
    }
    if RESERVED_NAMES.contains(&name.as_str()) {
        return Err("this is the name of a built-in listener; choose another".to_owned());
    }
    let listen = parse_address(&listen).map_err(|problem| format!("listen: {problem}"))?;
    let valid = |field: &str, address: &str| match parse_client_address(address) {
        Some(_) => Ok(()),
        None => Err(format!(
            "{field}: {address:?} is not an address that clients can connect to; write host:port"
        )),
    };
    if let Some(address) = &address {
        if protocol == ListenerProtocol::Kafka {
            return Err(
                "address: Kafka clients need an address for each agent; write them as agents".to_owned(),
            );
        }
        valid("address", address)?;
    }
    for (agent, address) in &agents {
        valid(&format!("agents.{agent}"), address)?;
    }
    Ok(ListenerDefinition {
        name,
        listen,
        protocol,
        tls,
        addresses: ListenerAddresses {
            shared: address,
            agents,
        },
    })
}

#[cfg(test)]
mod tests;
