//! `streamhouse-agent`: reads the settings, starts the agent, prints its addresses, waits for a signal, drains.
//!
//! Exit codes: 0 after a drain, `migrate` or `check` that succeeded; 1 after a failure; 2 for settings that are refused,
//! before any port is bound.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use streamhouse_agent::{
    assembly::{self, Agent},
    inspect, store,
};
use streamhouse_core::{
    settings::{self, AgentSettings, Invocation, LogFormat},
    time::SystemEntropy,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What can be asked for beside running.
const COMMANDS: &[&str] = &["check", "migrate", "objects", "tables"];
/// For settings that are refused.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    // A variable that is not Unicode cannot be one of ours.
    let variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match settings::load(arguments, variables, COMMANDS) {
        Ok(Invocation::Help) => say(&help()),
        Ok(Invocation::Version) => say(concat!("streamhouse-agent ", env!("CARGO_PKG_VERSION"))),
        Ok(Invocation::Command {
            name,
            settings,
            arguments,
        }) => {
            let looks = matches!(name.as_str(), "objects" | "tables");
            if let Some(extra) = arguments.first().filter(|_| !looks) {
                return refuse(&format!("unexpected argument {extra:?}; try --help"));
            }
            let options = match inspect::Options::parse(&name, &arguments) {
                Ok(options) => options,
                Err(problem) => return refuse(&problem),
            };
            if let Err(problem) = start_logging(&settings) {
                return refuse(&problem);
            }
            let command = async {
                match name.as_str() {
                    "check" => check(&settings).await,
                    "migrate" => migrate(&settings).await,
                    "objects" => inspect::objects(&settings, &options)
                        .await
                        .map(|text| print(&text)),
                    "tables" => inspect::tables(&settings, &options)
                        .await
                        .map(|text| print(&text)),
                    _ => run(*settings).await,
                }
            };
            match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
                Ok(runtime) => finish(runtime.block_on(command)),
                Err(error) => finish(Err(error.into())),
            }
        }
        Err(error) => refuse(&error.to_string()),
    }
}

/// Runs until a signal comes and the drain is done. A second signal ends it at once.
async fn run(settings: AgentSettings) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let dev = settings.dev;
    let mut agent = Agent::start(settings).await?;
    let (grpc, http) = agent.addresses();
    print(&format!("listening grpc={grpc} http={http}"));
    let mut ready = agent.node().health.subscribe();
    let announced = async {
        if ready.wait_for(|ready| *ready).await.is_ok() {
            print("ready");
            if dev {
                hint(&grpc.to_string(), &http.to_string());
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = signals.next() => {}
        () = announced => {}
        error = agent.failed() => return Err(error),
    }
    tokio::select! {
        () = agent.drain() => Ok(()),
        () = signals.next() => anyhow::bail!("a second signal came; not handing over, leases move when they expire"),
    }
}

/// SIGTERM and SIGINT.
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

/// Brings the metadata schema to this build's version.
async fn migrate(settings: &AgentSettings) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty(),
        "metadata-url is needed: say what to migrate"
    );
    let options = assembly::connect_options(settings);
    let migrated = streamhouse_metadata::migrate(settings.metadata_url.expose(), &options).await?;
    print(&format!(
        "metadata schema: version {} (was {})",
        migrated.to, migrated.from
    ));
    Ok(())
}

/// Says whether an agent with these settings could work, and what to do when not.
async fn check(settings: &AgentSettings) -> anyhow::Result<()> {
    let metadata = async {
        let options = assembly::connect_options(settings);
        anyhow::Ok(
            streamhouse_metadata::connect(settings.metadata_url.expose(), &options)
                .await?
                .ping()
                .await?,
        )
    };
    let objects = async {
        let store = store::open(&assembly::store_settings(settings)).await?;
        anyhow::Ok(store::check(store.as_ref(), &SystemEntropy).await?)
    };
    let (metadata, objects) = tokio::join!(metadata, objects);
    let outcome = |what: &str, outcome: &anyhow::Result<()>| match outcome {
        Ok(()) => print(&format!("{what}: ok")),
        Err(error) => print(&format!("{what}: {error:#}")),
    };
    outcome("metadata store", &metadata);
    outcome("object store", &objects);
    anyhow::ensure!(
        metadata.is_ok() && objects.is_ok(),
        "the agent could not work with these settings"
    );
    Ok(())
}

fn start_logging(settings: &AgentSettings) -> Result<(), String> {
    let filter = EnvFilter::try_new(&settings.log_level)
        .map_err(|error| format!("log-level: {error}; write error, warn, info, debug, trace or a filter"))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match settings.log_format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

fn help() -> String {
    format!(
        "streamhouse-agent {}\n{}\n\n\
        usage: streamhouse-agent [run|check|migrate|objects|tables] [settings]\n\n\
        commands:\n  run      serve until SIGTERM or SIGINT, then hand over and exit (the default)\n  \
        check    say whether the stores can be used with these settings\n  \
        migrate  bring the metadata schema to this build's version\n  \
        objects  list the object store's objects [--prefix TEXT] [-o table|json]\n  \
        tables   show the metadata store's tables [-o table|json]\n\n\
        settings (each also a variable: --flush-interval is STREAMHOUSE_FLUSH_INTERVAL):\n{}  \
        --help, --version",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_DESCRIPTION"),
        settings::help()
    )
}

/// How to try the embedded agent.
fn hint(grpc: &str, http: &str) {
    let text = format!(
        "try it:\n  export STREAMHOUSE_BOOTSTRAP={grpc}\n  streamhouse topic create hello\n  \
        echo 'hello, world' | streamhouse produce hello\n  streamhouse consume hello --from-beginning\n  \
        curl http://{http}/metrics"
    );
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a line; nobody listening is no reason to end.
fn print(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Prints an answer, and that was it.
fn say(answer: &str) -> ExitCode {
    print(answer);
    ExitCode::SUCCESS
}

fn refuse(problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "streamhouse-agent: {problem}");
    ExitCode::from(REFUSED)
}

fn finish(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "streamhouse-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
