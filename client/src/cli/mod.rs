//! Definition and dispatch of the command line: one file per command.
//!
//! In reading order: [`usage`] parses the arguments; [`failure`], [`output`], [`screen`],
//! [`waiting`] and [`values`] are shared by the commands; then [`topic`], [`produce`], [`consume`],
//! [`group`], [`cluster`], [`completions`] and [`mod@bench`].

mod bench;
mod cluster;
mod completions;
mod consume;
#[cfg(test)]
mod docs;
pub(crate) mod failure;
mod group;
mod output;
mod produce;
mod screen;
mod topic;
pub(crate) mod usage;
mod values;
mod waiting;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Args, Parser, Subcommand};
use streamhouse_client::{Admin, Client, ClientIdentity, Settings};
use tokio_util::sync::CancellationToken;

use self::{
    failure::{Failure, Outcome},
    output::Format,
};

const EXAMPLES: &str = "\
Examples:
  streamhouse topic create orders --partitions 4
  echo 'customer-1:two pounds of tea' | streamhouse produce orders --key-separator :
  streamhouse consume orders --from-beginning --exit-at-end -f '%p@%o %k: %v\\n'
  streamhouse consume orders --group billing --from-beginning
  streamhouse group describe billing
  streamhouse bench produce --topic bench --partitions 4 --records 1000000

Traces:
  OTEL_EXPORTER_OTLP_ENDPOINT sets the OTLP receiver of spans (gRPC); OTEL_TRACES_SAMPLER sets the sampling";

/// Produce, consume and manage StreamHouse topics.
#[derive(Debug, Parser)]
#[command(name = "streamhouse", version, after_help = EXAMPLES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Agents to contact first, the others are discovered; use https:// for TLS
    #[arg(
        long,
        global = true,
        env = "STREAMHOUSE_BOOTSTRAP",
        default_value = "127.0.0.1:50051",
        value_name = "HOST:PORT,…"
    )]
    bootstrap: String,
    /// Format of results and errors
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    output: Format,
    /// Client name shown in the cluster
    #[arg(long, global = true, default_value = "streamhouse-cli", value_name = "NAME")]
    client_id: String,
    /// Time-out of one call to the cluster, including its retries
    #[arg(long, global = true, default_value = "30s", value_name = "DURATION", value_parser = values::positive_duration)]
    timeout: Duration,
    /// PEM file of the CA that signed the agents' certificates (default: the system's roots)
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Host name to verify in the agents' certificates (default: the host of --bootstrap, if agents
    /// are reached by IP address)
    #[arg(
        long,
        global = true,
        env = "STREAMHOUSE_CLIENT_TLS_SERVER_NAME",
        value_name = "NAME"
    )]
    tls_server_name: Option<String>,
    /// PEM file of the client certificate, for agents or proxies that request one; needs --tls-key
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// PEM file of the private key for --tls-cert
    #[arg(long, global = true, env = "STREAMHOUSE_CLIENT_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Log to stderr; repeat for more detail (-vv, -vvv)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Produce records from a file or standard input, one per line
    Produce(produce::Produce),
    /// Consume and print records
    Consume(consume::Consume),
    /// Manage consumer groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Show the agents, leases, versions and stores of the cluster
    Cluster,
    /// Benchmark throughput, latency and cost
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Cli {
    /// Returns the output format of errors.
    pub(crate) fn format(&self) -> Format {
        self.global.output
    }

    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        if let Command::Completions { shell } = self.command {
            return completions::run(shell);
        }
        log_to_stderr(self.global.verbose);
        let context = Context::new(&self.global)?;
        match self.command {
            Command::Topic(command) => topic::run(&context, command).await,
            Command::Produce(args) => produce::run(&context, args).await,
            Command::Consume(args) => consume::run(&context, args).await,
            Command::Group(command) => group::run(&context, command).await,
            Command::Cluster => cluster::run(&context).await,
            Command::Bench(command) => bench::run(&context, command).await,
            Command::Completions { .. } => Ok(()),
        }
    }
}

/// Client and output format, as every command needs them.
#[derive(Debug)]
struct Context {
    client: Client,
    format: Format,
}

impl Context {
    fn new(global: &Global) -> Outcome<Self> {
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

    fn admin(&self) -> Admin {
        self.client.admin()
    }
}

/// Reads the file given by an option; `None` if the option is missing or empty.
fn pem(option: &str, path: Option<&Path>) -> Outcome<Option<Vec<u8>>> {
    let Some(path) = path else { return Ok(None) };
    // A path that is not UTF-8 is used unchanged.
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

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let mut filter = format!("streamhouse={level},streamhouse_client={level}");
    if verbose == 0 {
        // Warnings about skipped or repeated records are always shown.
        filter.push_str(",streamhouse_client::gaps=warn");
    }
    // Fails only if a subscriber is already set, which no other code in this process does.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .try_init();
}

/// Returns a token that the first SIGINT or SIGTERM cancels, so that a command can end in order. A
/// second signal ends the process at once.
fn stop_signal() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        if next_signal().await.is_ok() {
            token.cancel();
            if next_signal().await.is_ok() {
                std::process::exit(130);
            }
        }
    });
    stop
}

#[cfg(unix)]
async fn next_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(not(unix))]
async fn next_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn parse(args: &str) -> Result<Cli, clap::Error> {
        let args = std::iter::once("streamhouse").chain(args.split_whitespace());
        let matches = usage::definition().try_get_matches_from(args)?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_definition_is_sound() {
        usage::definition().debug_assert();
    }

    #[test]
    fn global_options_stand_anywhere() {
        for args in [
            "-o json topic list",
            "topic list -o json",
            "topic -o json list --timeout 5s",
        ] {
            assert_eq!(parse(args).unwrap().format(), Format::Json, "{args}");
        }
    }

    #[test]
    fn commands_are_taken_as_documented() {
        for args in [
            "topic create a --partitions 4 --config retention.ms=1 --config segment.ms=2 --if-not-exists",
            "topic alter a --partitions 8",
            "topic alter a --reset segment.ms",
            "topic delete-records a --partition 0 --before-offset -1",
            "topic offsets a --at-timestamp 2026-01-01T00:00:00Z",
            "produce a --file f --key-separator \\t --header a=b --header c=d --compression none --acks all",
            "consume a b --group g --from-beginning --exit-at-end",
            "consume a --group g --session-timeout 10s",
            "produce a --crlf",
            "topic list --tls-cert c.pem --tls-key k.pem",
            "consume a --partition 0 --partition 2 --offset 7 --max-messages 3",
            "consume a --at-timestamp 5 -f %v\\n",
            "group reset-offsets g --topic a --topic b:0,1 --shift-by -10 --execute",
            "cluster",
            "completions bash",
            "bench produce --records 10 --rate 1000 --agent-http h:1 --agent-http h:2",
            "bench consume --topic t --consumers 3",
            "bench e2e --duration 5 --warmup 1s",
        ] {
            if let Err(error) = parse(args) {
                panic!("{args}: {error}");
            }
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for args in [
            "",
            "topic create a --partitions 0",
            "topic alter a",
            "topic delete-records a --partition 0 --before-offset -2",
            "produce a --acks 1",
            "produce a --compression zstd",
            "consume",
            "consume a --offset 3",
            "consume a --from-beginning --at-timestamp 5",
            "consume a --group g --at-timestamp 5",
            "consume a --group g --partition 1",
            "consume a --session-timeout 10s",
            "consume a --group g --session-timeout 0",
            "consume a -f text",
            "group reset-offsets g --topic a",
            "group reset-offsets g --topic a --to-latest --to-earliest",
            "group reset-offsets g --topic a --to-latest --dry-run --execute",
            "bench produce --records 10 --duration 5s",
            "bench produce --rate 0",
            "topic list --timeout 0",
        ] {
            assert!(parse(args).is_err(), "{args}");
        }
    }
}
