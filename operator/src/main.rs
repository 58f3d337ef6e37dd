//! The `streamhouse-operator` binary: parses the command line and runs the subcommand.
//! `run_operator` prints its address and serves until SIGTERM or SIGINT.
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
use streamhouse_core::core_dumps;
use streamhouse_operator::{
    cli::{self, Cli, Command},
    connect, controllers, crd, diff,
    run::Operator,
    server,
    settings::{LogFormat, OperatorSettings},
    smoke_test::{self, SmokeTestArgs},
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Exit code for invalid settings and for a `diff` that failed.
const EXIT_REFUSED: u8 = 2;

fn main() -> ExitCode {
    if let Err(error) = core_dumps::disable() {
        return exit_with_failure(&error.into());
    }
    // A variable name that is not Unicode cannot be a setting of the operator.
    let variables: Vec<String> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .collect();
    if let Some(problem) = cli::find_unknown_variable(variables.iter().map(String::as_str)) {
        print_error(&problem);
        return ExitCode::from(EXIT_REFUSED);
    }
    // Exits with an error message or with the requested help.
    let command = Cli::parse().command;
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        return exit_with_failure(&anyhow::anyhow!(
            "another TLS cryptography provider is already installed"
        ));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_with_failure(&error.into()),
    };
    match command {
        Command::Run(settings) => {
            init_logging(&settings);
            match runtime.block_on(run_operator(*settings)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => exit_with_failure(&error),
            }
        }
        Command::Crds => match crd::definition_documents() {
            Ok(documents) => {
                for (_, text) in documents {
                    print_line(&format!("---\n{}", text.trim_end()));
                }
                ExitCode::SUCCESS
            }
            Err(error) => exit_with_failure(&error.into()),
        },
        Command::Diff(arguments) => match runtime.block_on(diff::run(&arguments, &mut io::stdout())) {
            Ok(differs) => ExitCode::from(u8::from(differs)),
            Err(error) => {
                print_error(&format!("{error:#}"));
                ExitCode::from(EXIT_REFUSED)
            }
        },
        Command::SmokeTest(test) => match runtime.block_on(run_smoke_test(&test)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit_with_failure(&error),
        },
    }
}

async fn run_smoke_test(test: &SmokeTestArgs) -> anyhow::Result<()> {
    let client = Client::try_from(connect::infer_config().await?)?;
    smoke_test::run(client, test, print_line).await
}

/// Runs the operator until a signal arrives and the shutdown has finished. A second signal aborts
/// it.
async fn run_operator(settings: OperatorSettings) -> anyhow::Result<()> {
    let mut signals = ShutdownSignals::new().context("cannot install the signal handlers")?;
    let config = connect::infer_config().await?;
    let listener = server::bind(settings.http_listen).await?;
    print_line(&format!("listening http={}", listener.local_addr()?));
    let stop = CancellationToken::new();
    let concurrency = settings.reconcile_concurrency;
    let operator = Operator::new(settings, config)?;
    let running = operator.run(listener, stop.clone(), move |context, stop| {
        controllers::run(context, concurrency, stop)
    });
    tokio::pin!(running);
    tokio::select! {
        outcome = &mut running => return outcome,
        () = signals.recv() => {}
    }
    tracing::info!("stopping: finishing running reconciliations");
    stop.cancel();
    tokio::select! {
        outcome = running => outcome,
        () = signals.recv() => anyhow::bail!("aborted by a second signal; the lease is not released and will expire"),
    }
}

/// Receives SIGTERM and SIGINT.
struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn init_logging(settings: &OperatorSettings) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(settings.log_filter()))
        .with_writer(io::stderr);
    match settings.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Prints a line to stdout. Write errors are ignored: a closed stdout must not end the operator.
fn print_line(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn print_error(problem: &str) {
    let _ = writeln!(io::stderr(), "streamhouse-operator: {problem}");
}

fn exit_with_failure(error: &anyhow::Error) -> ExitCode {
    print_error(&format!("{error:#}"));
    ExitCode::FAILURE
}
