//! Derives from the settings of an agent what its parts are configured with.

use std::{env, net::SocketAddr};

use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata::{AgentRegistration, ConnectOptions, SCHEMA_WINDOW, SchemaWindow};

use crate::{process, produce::WriterSettings, store::StoreSettings};

/// Returns the object store settings of an agent.
pub fn store_settings(settings: &AgentSettings) -> StoreSettings {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    StoreSettings {
        url: settings.object_store.clone(),
        endpoint: text(&settings.s3_endpoint),
        region: text(&settings.s3_region),
        path_style: settings.s3_path_style.then_some(true),
        ca_file: settings.s3_ca_file.clone(),
        credentials: None,
    }
}

/// The variable with which a test lets this build act as an older one: it then knows schema
/// versions up to this one only. Never set in production.
const TEST_SCHEMA_MAX: &str = "STREAMHOUSE_TEST_SCHEMA_MAX";

/// Returns the schema versions that this agent runs on.
pub fn schema_window() -> SchemaWindow {
    narrowed_window(env::var(TEST_SCHEMA_MAX).ok().as_deref())
}

fn narrowed_window(max: Option<&str>) -> SchemaWindow {
    let max = max
        .and_then(|max| max.parse().ok())
        .filter(|max| SCHEMA_WINDOW.contains(*max));
    SchemaWindow {
        max: max.unwrap_or(SCHEMA_WINDOW.max),
        ..SCHEMA_WINDOW
    }
}

/// Returns the version that the agent registers. One that acts as an older build has no release's
/// number, so that nobody takes it for this build.
fn registered_version(window: SchemaWindow) -> String {
    let version = env!("CARGO_PKG_VERSION");
    if window == SCHEMA_WINDOW {
        version.to_owned()
    } else {
        format!("{version}-schema{}", window.max)
    }
}

/// Returns the metadata connection options of an agent.
pub fn connect_options(settings: &AgentSettings) -> ConnectOptions {
    ConnectOptions {
        max_connections: settings.metadata_max_connections,
        acquire_timeout: settings.metadata_timeout,
        statement_timeout: settings.metadata_timeout,
        application_name: "streamhouse-agent".to_owned(),
        tls: None,
        schema: schema_window(),
    }
}

/// Returns the settings of each incarnation's writer.
pub(super) fn writer_settings(settings: &AgentSettings) -> WriterSettings {
    WriterSettings {
        flush_interval: settings.flush_interval,
        flush_bytes: settings.flush_bytes.as_usize(),
        upload_concurrency: settings.upload_concurrency,
        memory: settings.produce_memory.as_usize(),
    }
}

/// Returns what the agent registers with when its ports are bound.
pub(super) fn registration(
    settings: &AgentSettings,
    (grpc, http): (SocketAddr, SocketAddr),
    kafka: Option<SocketAddr>,
) -> AgentRegistration {
    let host = process::host_name();
    let given = |given: &str, bound| {
        if given.is_empty() {
            advertised_address(bound, settings.dev, host.as_deref())
        } else {
            given.to_owned()
        }
    };
    AgentRegistration {
        agent_id: if settings.agent_id.is_empty() {
            host.clone().unwrap_or_else(|| "agent".to_owned())
        } else {
            settings.agent_id.clone()
        },
        grpc_address: given(&settings.advertised_grpc_address, grpc),
        http_address: given(&settings.advertised_http_address, http),
        kafka_address: kafka
            .map(|bound| given(&settings.advertised_kafka_address, bound))
            .unwrap_or_default(),
        zone: settings.zone.clone(),
        version: registered_version(schema_window()),
        lease_ttl: settings.lease_ttl,
    }
}

/// Returns the address that clients connect to: the bound address or, where it means every
/// interface, the host name.
fn advertised_address(bound: SocketAddr, dev: bool, host: Option<&str>) -> String {
    match host {
        _ if !bound.ip().is_unspecified() => bound.to_string(),
        Some(host) if !dev => format!("{host}:{}", bound.port()),
        _ => format!("127.0.0.1:{}", bound.port()),
    }
}

/// Returns the kind of the database that a metadata store's URL names.
pub(super) fn metadata_store_kind(url: &str) -> &'static str {
    if url.starts_with("sqlite:") {
        "SQLite"
    } else {
        "PostgreSQL"
    }
}

/// Returns a store's URL without what may be secret: user, password and options.
pub(super) fn redact_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((kind, rest)) => {
            let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
            format!("{kind}://{place}")
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_store_holds_no_secret() {
        let url = "postgres://streamhouse:hush@db:5432/streamhouse_metadata?sslmode=require&password=hush";
        assert_eq!(redact_url(url), "postgres://db:5432/streamhouse_metadata");
        assert_eq!(redact_url("postgres://u:a@b@db/x"), "postgres://db/x");
        assert_eq!(
            redact_url("sqlite:/var/lib/metadata.db"),
            "sqlite:/var/lib/metadata.db"
        );
    }

    #[test]
    fn only_a_test_makes_an_agent_older() {
        for text in [None, Some(""), Some("4"), Some("8"), Some("new")] {
            assert_eq!(narrowed_window(text), SCHEMA_WINDOW, "{text:?}");
        }
        assert_eq!(registered_version(SCHEMA_WINDOW), env!("CARGO_PKG_VERSION"));
        let old = narrowed_window(Some("5"));
        assert_eq!((old.min, old.max), (5, 5));
        let version = registered_version(old);
        assert!(version.ends_with("-schema5"), "{version}");
        assert_eq!(streamhouse_metadata::release_window(&version), None);
    }

    #[test]
    fn clients_are_told_an_address_that_they_can_reach() {
        let everywhere = "0.0.0.0:50051".parse().unwrap();
        assert_eq!(
            advertised_address(everywhere, false, Some("agent-0")),
            "agent-0:50051"
        );
        assert_eq!(
            advertised_address(everywhere, true, Some("agent-0")),
            "127.0.0.1:50051"
        );
        assert_eq!(
            advertised_address("10.0.0.7:1".parse().unwrap(), false, Some("agent-0")),
            "10.0.0.7:1"
        );
    }
}
