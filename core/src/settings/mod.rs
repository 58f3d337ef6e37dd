//! Agent settings: one table of names, defaults, bounds and descriptions ([`SETTING_DEFINITIONS`]),
//! the typed value ([`AgentSettings`]), and the parser for flags and environment variables
//! ([`load`]).
//!
//! The setting `flush-interval` is the flag `--flush-interval` and the variable
//! `STREAMHOUSE_FLUSH_INTERVAL`; flags win. Unknown or contradictory settings are rejected before
//! anything starts.

mod addresses;
mod definition;
mod definitions;
mod load;
mod memory;
mod overrides;
mod security;
mod units;

use std::{path::PathBuf, time::Duration};

pub use addresses::parse_address;
pub use definition::SettingDefinition;
pub use definitions::SETTING_DEFINITIONS;
pub use load::{AgentInvocation, SettingsError, help_text, load, reference_markdown};
pub use memory::MemoryBudgets;
pub use overrides::SettingOverrides;
pub use security::{AuthorizationMode, SaslMechanism};
pub use units::{ByteSize, SecretString, parse_duration};

use crate::security::KafkaPrincipal;

/// Returns the name that `of` gives to the setting most similar to `name`.
fn nearest_name(name: &str, of: impl Fn(&SettingDefinition) -> String) -> String {
    let names = SETTING_DEFINITIONS.iter().map(of);
    let best = names.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    best.unwrap_or_default()
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text, for people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

/// All settings of an agent. See [`SETTING_DEFINITIONS`] for their meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the table documents each setting
pub struct AgentSettings {
    pub dev: bool,
    pub data_dir: PathBuf,
    pub agent_id: String,
    pub zone: String,
    pub http_listen: String,
    pub grpc_listen: String,
    pub grpc_forward_listen: String,
    pub kafka_listen: String,
    pub kafka_auto_create_partitions: i32,
    pub authentication: Vec<SaslMechanism>,
    pub authorization: AuthorizationMode,
    pub super_users: Vec<KafkaPrincipal>,
    pub allow_unauthenticated: bool,
    pub oauth_file: Option<PathBuf>,
    pub listeners_file: Option<PathBuf>,
    pub console: bool,
    pub tls_dir: Option<PathBuf>,
    pub advertised_grpc_address: String,
    pub advertised_http_address: String,
    pub advertised_kafka_address: String,
    pub metadata_url: SecretString,
    pub metadata_max_connections: u32,
    pub metadata_timeout: Duration,
    pub object_store: String,
    pub s3_endpoint: String,
    pub s3_region: String,
    pub s3_path_style: bool,
    pub s3_ca_file: Option<PathBuf>,
    pub flush_interval: Duration,
    pub flush_bytes: ByteSize,
    pub upload_concurrency: usize,
    pub produce_memory: ByteSize,
    pub cache_memory: ByteSize,
    pub max_request_bytes: ByteSize,
    pub max_fetch_bytes: ByteSize,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub lease_ttl: Duration,
    pub object_grace: Duration,
    pub offsets_retention: Duration,
    pub maintenance_interval: Duration,
    pub drain_timeout: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
}

impl AgentSettings {
    /// Returns the defaults of a production agent, or of one with `--dev`. Required settings are
    /// empty.
    pub fn defaults(dev: bool) -> Self {
        let mut settings = Self {
            dev,
            data_dir: PathBuf::new(),
            agent_id: String::new(),
            zone: String::new(),
            http_listen: String::new(),
            grpc_listen: String::new(),
            grpc_forward_listen: String::new(),
            kafka_listen: String::new(),
            kafka_auto_create_partitions: 0,
            authentication: Vec::new(),
            authorization: AuthorizationMode::None,
            super_users: Vec::new(),
            allow_unauthenticated: false,
            oauth_file: None,
            listeners_file: None,
            console: false,
            tls_dir: None,
            advertised_grpc_address: String::new(),
            advertised_http_address: String::new(),
            advertised_kafka_address: String::new(),
            metadata_url: SecretString::default(),
            metadata_max_connections: 0,
            metadata_timeout: Duration::ZERO,
            object_store: String::new(),
            s3_endpoint: String::new(),
            s3_region: String::new(),
            s3_path_style: false,
            s3_ca_file: None,
            flush_interval: Duration::ZERO,
            flush_bytes: ByteSize(0),
            upload_concurrency: 0,
            produce_memory: ByteSize(0),
            cache_memory: ByteSize(0),
            max_request_bytes: ByteSize(0),
            max_fetch_bytes: ByteSize(0),
            max_connections: 0,
            max_connections_per_address: 0,
            lease_ttl: Duration::ZERO,
            object_grace: Duration::ZERO,
            offsets_retention: Duration::ZERO,
            maintenance_interval: Duration::ZERO,
            drain_timeout: Duration::ZERO,
            log_format: LogFormat::Text,
            log_level: String::new(),
        };
        for definition in SETTING_DEFINITIONS {
            // A test verifies that every default is valid.
            let _ = (definition.set)(&mut settings, definition.default_for(dev));
        }
        settings.dev = dev;
        settings
    }

    /// Fills in settings that follow from others, and rejects contradictions.
    pub(crate) fn resolve(mut self) -> Result<Self, String> {
        if self.dev {
            let data = self.data_dir.display();
            if self.metadata_url.is_empty() {
                self.metadata_url = SecretString::new(format!("sqlite:{data}/metadata.db"));
            }
            if self.object_store.is_empty() {
                self.object_store = format!("file:{data}/objects");
            }
        }
        self.check_stores()?;
        let larger = |what: &str, a: ByteSize, than: &str, b: ByteSize| {
            if a > b {
                Err(format!("{what} ({a}) cannot be larger than {than} ({b})"))
            } else {
                Ok(())
            }
        };
        larger(
            "flush-bytes",
            self.flush_bytes,
            "produce-memory",
            self.produce_memory,
        )?;
        larger(
            "max-request-bytes",
            self.max_request_bytes,
            "produce-memory",
            self.produce_memory,
        )?;
        if self.flush_interval * 4 > self.lease_ttl {
            return Err(
                "flush-interval cannot be longer than a quarter of lease-ttl: a flush must complete within a lease"
                    .to_owned(),
            );
        }
        if self.authorization == AuthorizationMode::Acl && self.authentication.is_empty() {
            return Err(
                "authorization needs authentication: without it every client is User:ANONYMOUS; set authentication to \
                SCRAM-SHA-256, for example"
                    .to_owned(),
            );
        }
        self.check_oauth()?;
        Ok(self)
    }

    fn check_oauth(&self) -> Result<(), String> {
        let takes_tokens = self.authentication.contains(&SaslMechanism::OAuthBearer);
        match (takes_tokens, &self.oauth_file) {
            (true, None) => Err(
                "authentication by OAUTHBEARER needs oauth-file: set it to a YAML file with issuer, audience and jwksUrl"
                    .to_owned(),
            ),
            (false, Some(_)) => Err("oauth-file needs authentication with OAUTHBEARER".to_owned()),
            _ => Ok(()),
        }
    }

    fn check_stores(&self) -> Result<(), String> {
        if self.metadata_url.is_empty() {
            return Err(
                "metadata-url is needed: set it to postgres://user:password@host/database (or use --dev to try it out)"
                    .to_owned(),
            );
        }
        let url = self.metadata_url.expose();
        if !["postgres://", "postgresql://", "sqlite:"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err("metadata-url must begin with postgres:// or sqlite:".to_owned());
        }
        if self.object_store.is_empty() {
            return Err(
                "object-store is needed: set it to s3://bucket or s3://bucket/prefix (or use --dev to try it out)"
                    .to_owned(),
            );
        }
        let s3 = self.object_store.starts_with("s3://");
        if !s3 && !self.object_store.starts_with("file:") {
            return Err("object-store must begin with s3:// or file:".to_owned());
        }
        if !s3 && (!self.s3_endpoint.is_empty() || self.s3_ca_file.is_some()) {
            return Err("s3-endpoint and s3-ca-file need an object-store that begins with s3://".to_owned());
        }
        Ok(())
    }
}
