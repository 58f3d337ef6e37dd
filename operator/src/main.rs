//! The `streamhouse-operator` binary: parses the command line and runs the subcommand. `run` prints
//! its address and serves until SIGTERM or SIGINT.
//!
//! Exit codes: 0 success or orderly shutdown; 1 failure, or `diff` has found changes; 2 invalid
//! settings (before anything is started), or `diff` has failed.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Parser;
use kube::Client;
use streamhouse_operator::{
    cli::{Cli, Command},
    connect, controllers, crd, diff,
    run::Operator,
    server,
    settings::{self, LogFormat, Settings},
    smoke_test::{self, SmokeTest},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit code for invalid settings and for a `diff` that failed.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    // A variable name that is not Unicode cannot be a setting of the operator.
    let variables: Vec<String> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    if let Some(problem) = settings::unknown_variable(variables.iter().map(String::as_str)) {
        complain(&problem);
        return ExitCode::from(REFUSED);
    }
    // Exits with an error message or with the requested help.
    let command = Cli::parse().command;
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return failed(&anyhow::anyhow!(
            "another TLS cryptography provider is already installed"
        ));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match command {
        Command::Run(settings) => {
            start_logging(&settings);
            match runtime.block_on(run(*settings)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failed(&error),
            }
        }
        Command::Crds => match crd::documents() {
            Ok(documents) => {
                for (_, text) in documents {
                    print(&format!("---\n{}", text.trim_end()));
                }
                ExitCode::SUCCESS
            }
            Err(error) => failed(&error.into()),
        },
        Command::Diff(arguments) => match runtime.block_on(diff::run(&arguments, &mut io::stdout())) {
            Ok(differs) => ExitCode::from(u8::from(differs)),
            Err(error) => {
                complain(&format!("{error:#}"));
                ExitCode::from(REFUSED)
            }
        },
        Command::SmokeTest(test) => match runtime.block_on(smoke_test(&test)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        },
    }
}

async fn smoke_test(test: &SmokeTest) -> anyhow::Result<()> {
    let client = Client::try_from(connect::config().await?)?;
    smoke_test::run(client, test, print).await
}

/// Runs the operator until a signal arrives and the shutdown has finished. A second signal aborts
/// it.
async fn run(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot install the signal handlers")?;
    let config = connect::config().await?;
    let listener = server::bind(settings.http_listen).await?;
    print(&format!("listening http={}", listener.local_addr()?));
    let stop = CancellationToken::new();
    let concurrency = settings.reconcile_concurrency;
    let operator = Operator::new(settings, config)?;
    let running = operator.run(listener, stop.clone(), move |context, stop| {
        controllers::run(context, concurrency, stop)
    });
    tokio::pin!(running);
    tokio::select! {
        outcome = &mut running => return outcome,
        () = signals.next() => {}
    }
    tracing::info!("stopping: finishing running reconciliations");
    stop.cancel();
    tokio::select! {
        outcome = running => outcome,
        () = signals.next() => anyhow::bail!("aborted by a second signal; the lease is not released and will expire"),
    }
}

/// Receives SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn start_logging(settings: &Settings) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&settings.log_level))
        .with_writer(io::stderr);
    match settings.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Prints a line to stdout. Write errors are ignored: a closed stdout must not end the operator.
fn print(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn complain(problem: &str) {
    let _ = writeln!(io::stderr(), "streamhouse-operator: {problem}");
}

fn failed(error: &anyhow::Error) -> ExitCode {
    complain(&format!("{error:#}"));
    ExitCode::FAILURE
}
