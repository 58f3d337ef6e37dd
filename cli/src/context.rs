//! The options that every command takes, and the client that a command works with, made from them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Args};
use streamhouse_client::{Admin, Client, ClientIdentity, Settings};

use crate::{
    failure::{Failure, Outcome},
    output::Format,
    values, waiting,
};

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Agents to ask first; the rest is found from there. https:// for TLS
    #[arg(
        long,
        global = true,
        env = "STREAMHOUSE_BOOTSTRAP",
        default_value = "127.0.0.1:50051",
        value_name = "HOST:PORT,…"
    )]
    pub(crate) bootstrap: String,
    /// How results and errors are printed
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// How the cluster lists this client
    #[arg(long, global = true, default_value = "streamhouse-cli", value_name = "NAME")]
    pub(crate) client_id: String,
    /// For one call to the cluster, with its retries
    #[arg(long, global = true, default_value = "30s", value_name = "DURATION", value_parser = values::positive_duration)]
    pub(crate) timeout: Duration,
    /// PEM file of the authority that signed the agents' certificates; the system's roots without it
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Name that the agents' certificates must have; the host name of --bootstrap for agents reached by an IP address
    #[arg(
        long,
        global = true,
        env = "STREAMHOUSE_CLIENT_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    pub(crate) tls_server_name: Option<String>,
    /// PEM file of this client's own certificate, for agents or proxies that ask for one; with --tls-key
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file of the private key of --tls-cert
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Log what happens to stderr; -vv for more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// What the commands work with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
}

impl Context {
    pub(crate) fn new(global: &GlobalOptions) -> Outcome<Self> {
        let mut settings = Settings::new(values::trimmed("--bootstrap", &global.bootstrap)?);
        values::trimmed("--client-id", &global.client_id)?.clone_into(&mut settings.client_id);
        settings.tls_server_name = global
            .tls_server_name
            .as_deref()
            .map(|name| values::trimmed("--tls-server-name", name))
            .transpose()?
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        settings.api_timeout = global.timeout;
        settings.request_timeout = settings.request_timeout.min(global.timeout);
        settings.connect_timeout = settings.connect_timeout.min(global.timeout);
        settings.tls_ca_pem = pem("--tls-ca", global.tls_ca.as_deref())?;
        let certificate = pem("--tls-cert", global.tls_cert.as_deref())?;
        let key = pem("--tls-key", global.tls_key.as_deref())?;
        settings.tls_identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ClientIdentity::new(certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::usage("--tls-cert needs --tls-key, its private key")),
            (None, Some(_)) => return Err(Failure::usage("--tls-key needs --tls-cert, its certificate")),
        };
        let client = Client::new(settings)?;
        waiting::name_silent_agents(client.clone(), global.output);
        Ok(Self {
            client,
            format: global.output,
        })
    }

    pub(crate) fn admin(&self) -> Admin {
        self.client.admin()
    }
}

/// What the file of an option holds; nothing without the option, or where it is empty.
fn pem(option: &str, path: Option<&Path>) -> Outcome<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    // A name that is no text is taken as it is.
    let path = match path.to_str() {
        Some(text) => Path::new(values::trimmed(option, text)?),
        None => path,
    };
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let read = std::fs::read(path);
    let refused = |error| Failure::usage(format!("cannot read {option} {}: {error}", path.display()));
    read.map(Some).map_err(refused)
}
