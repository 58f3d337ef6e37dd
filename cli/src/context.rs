//! The options that every command takes, and the client that a command works with, built from
//! them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Args};
use streamhouse_client::{Admin, Client, ClientConfig, ClientIdentity};

use crate::{
    command_error::{CommandError, CommandResult},
    output::OutputFormat,
    password::{PasswordVariable, own_credentials},
    values, warnings,
};

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Agents to contact first, the others are discovered; use https:// for TLS
    #[arg(
        long,
        global = true,
        env = "STREAMHOUSE_BOOTSTRAP",
        default_value = "127.0.0.1:50051",
        value_name = "HOST:PORT,…"
    )]
    pub(crate) bootstrap: String,
    /// Format of results and errors
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: OutputFormat,
    /// Client name shown in the cluster
    #[arg(long, global = true, default_value = "streamhouse-cli", value_name = "NAME")]
    pub(crate) client_id: String,
    /// Time-out of one call to the cluster, including its retries
    #[arg(long, global = true, default_value = "30s", value_name = "DURATION", value_parser = values::parse_positive_duration)]
    pub(crate) timeout: Duration,
    /// PEM file of the CA that signed the agents' certificates (default: the system's roots)
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_CA", value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Host name to verify in the agents' certificates (default: the host of --bootstrap, if agents
    /// are reached by IP address)
    #[arg(
        long,
        global = true,
        env = "STREAMHOUSE_CLIENT_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    pub(crate) tls_server_name: Option<String>,
    /// PEM file of the client certificate, for agents or proxies that request one; needs --tls-key
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_CERT", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// PEM file of the private key for --tls-cert
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_KEY", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// User to authenticate as; its password is that of --password-file or of STREAMHOUSE_PASSWORD
    #[arg(long, global = true, env = "STREAMHOUSE_USER", value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// File with the password of --user
    #[arg(long, global = true, env = "STREAMHOUSE_PASSWORD_FILE", value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
    /// File with a token of an identity provider to authenticate with, instead of --user; read
    /// again when it changes
    #[arg(long, global = true, env = "STREAMHOUSE_TOKEN_FILE", value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Send the password or token also without TLS, where others may read it
    #[arg(long, global = true)]
    pub(crate) allow_plaintext_password: bool,
    /// Password of the environment.
    #[arg(skip)]
    pub(crate) password: PasswordVariable,
    /// Log to stderr; repeat for more detail (-vv, -vvv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// Client and output format, as every command needs them.
#[derive(Debug)]
pub(crate) struct CommandContext {
    pub(crate) client: Client,
    pub(crate) format: OutputFormat,
}

impl CommandContext {
    pub(crate) fn new(global: &GlobalArgs) -> CommandResult<Self> {
        let mut settings = ClientConfig::new(values::trim_option("--bootstrap", &global.bootstrap)?);
        values::trim_option("--client-id", &global.client_id)?.clone_into(&mut settings.client_id);
        settings.tls_server_name = global
            .tls_server_name
            .as_deref()
            .map(|name| values::trim_option("--tls-server-name", name))
            .transpose()?
            .filter(|name| !name.is_empty())
            .map(str::to_owned);
        settings.api_timeout = global.timeout;
        settings.request_timeout = settings.request_timeout.min(global.timeout);
        settings.connect_timeout = settings.connect_timeout.min(global.timeout);
        settings.tls_ca_pem = read_pem("--tls-ca", global.tls_ca.as_deref())?;
        let certificate = read_pem("--tls-cert", global.tls_cert.as_deref())?;
        let key = read_pem("--tls-key", global.tls_key.as_deref())?;
        settings.tls_identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ClientIdentity::new(certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(CommandError::usage("--tls-cert needs --tls-key, its private key"));
            }
            (None, Some(_)) => {
                return Err(CommandError::usage("--tls-key needs --tls-cert, its certificate"));
            }
        };
        settings.credentials = own_credentials(
            global.user.as_deref(),
            global.password_file.as_deref(),
            global.token_file.as_deref(),
            &global.password,
        )?;
        settings.allow_plaintext_password = global.allow_plaintext_password;
        let client = Client::new(settings)?;
        warnings::warn_about_silent_agents(client.clone(), global.output);
        Ok(Self {
            client,
            format: global.output,
        })
    }

    pub(crate) fn admin(&self) -> Admin {
        self.client.admin()
    }
}

/// Reads the file given by an option; `None` if the option is missing or empty.
fn read_pem(option: &str, path: Option<&Path>) -> CommandResult<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    // A path that is not UTF-8 is used unchanged.
    let path = match path.to_str() {
        Some(text) => Path::new(values::trim_option(option, text)?),
        None => path,
    };
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let read = std::fs::read(path);
    let refused = |error| CommandError::usage(format!("cannot read {option} {}: {error}", path.display()));
    read.map(Some).map_err(refused)
}
