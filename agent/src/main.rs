//! `streamhouse-agent`: loads the settings, starts the agent, prints its addresses, waits for a
//! signal, and drains.
//!
//! Exit codes: 0 after a drain or a successful command; 1 after a failure; 2 for refused settings,
//! including a data directory that another agent uses, before any port is bound. After a failure
//! the last line of stderr names the problem and the remedy: Kubernetes shows it as the container's
//! termination message.

use std::{
    env,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use opentelemetry::KeyValue;
use streamhouse_agent::{
    assembly::{self, Agent, DataDirInUseError},
    backup, check, inspect,
    listeners::ListenersFileError,
    migrate, purge, recover,
    security::OAuthFileError,
    store::s3::check_environment as check_s3_environment,
    tls::TlsError,
    traces, user,
};
use streamhouse_core::{
    core_dumps,
    settings::{self, AgentInvocation, AgentSettings, LogFormat},
    trace::{
        OptionalTracer,
        otlp::{self, TraceExporter},
    },
};
use streamhouse_metadata::Error as MetadataError;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Commands besides `run`.
const COMMANDS: &[&str] = &[
    "backup", "check", "migrate", "objects", "purge", "recover", "tables", "user",
];
/// How long the export of the last spans may take.
const SPAN_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Exit code for refused settings.
const REFUSED_SETTINGS_EXIT_CODE: u8 = 2;
/// Maximum length of the error line, in bytes; Kubernetes keeps the last 2048 of a container's log.
const MAX_ERROR_LINE_BYTES: usize = 1900;

fn main() -> ExitCode {
    if let Err(error) = core_dumps::disable() {
        return exit_with_outcome(Err(error.into()));
    }
    let arguments = env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned());
    // A variable that is not Unicode cannot be one of the agent's.
    let variables = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match settings::load(arguments, variables, COMMANDS) {
        Ok(AgentInvocation::Help) => print_and_exit(&help()),
        Ok(AgentInvocation::Version) => {
            let window = assembly::schema_window();
            print_and_exit(&format!(
                "streamhouse-agent {}\nmetadata schema {window}",
                env!("CARGO_PKG_VERSION")
            ))
        }
        Ok(AgentInvocation::Command {
            name,
            settings,
            arguments,
        }) => match AgentCommand::parse(&name, &arguments)
            .and_then(|task| start_logging(&settings).map(|()| task))
            .and_then(|task| check_environment(&settings).map(|()| task))
        {
            Ok(task) => match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
                Ok(runtime) => {
                    let outcome = runtime.block_on(task.run(*settings));
                    // A pending name lookup must not delay the exit.
                    runtime.shutdown_background();
                    exit_with_outcome(outcome)
                }
                Err(error) => exit_with_outcome(Err(error.into())),
            },
            Err(problem) => exit_with_refusal(&problem),
        },
        Err(error) => exit_with_refusal(&error.to_string()),
    }
}

/// A command with its arguments.
enum AgentCommand {
    Run,
    Backup(backup::BackupOptions),
    Check(check::CheckedStores),
    Migrate(migrate::MigrateOptions),
    Objects(inspect::InspectOptions),
    Purge(purge::PurgeOptions),
    Recover { confirmed: bool },
    Tables(inspect::InspectOptions),
    User(user::UserOptions),
}

impl AgentCommand {
    fn parse(name: &str, arguments: &[String]) -> Result<Self, String> {
        let alone = |task| match arguments.first() {
            None => Ok(task),
            Some(extra) => Err(format!("unexpected argument {extra:?}; try --help")),
        };
        match name {
            "backup" => backup::BackupOptions::parse(arguments).map(Self::Backup),
            "check" => check::CheckedStores::parse(arguments).map(Self::Check),
            "migrate" => migrate::MigrateOptions::parse(arguments).map(Self::Migrate),
            "objects" => inspect::InspectOptions::parse(name, arguments).map(Self::Objects),
            "purge" => purge::PurgeOptions::parse(arguments).map(Self::Purge),
            "recover" => {
                recover::parse_confirmation(arguments).map(|meant| Self::Recover { confirmed: meant })
            }
            "tables" => inspect::InspectOptions::parse(name, arguments).map(Self::Tables),
            "user" => user::UserOptions::parse(arguments).map(Self::User),
            _ => alone(Self::Run),
        }
    }

    async fn run(self, settings: AgentSettings) -> anyhow::Result<()> {
        match self {
            Self::Run => run(settings).await,
            Self::Backup(options) => backup::run(&settings, &options, print_line).await,
            Self::Check(stores) => check::run(&settings, stores, print_line).await,
            Self::Migrate(options) => migrate::run(&settings, &options, print_line).await,
            Self::Objects(options) => inspect::list_objects(&settings, &options)
                .await
                .map(|text| print_line(&text)),
            Self::Purge(options) => purge::run(&settings, &options, print_line).await,
            Self::Recover { confirmed: meant } => recover::run(&settings, meant, print_line).await,
            Self::Tables(options) => inspect::show_tables(&settings, &options)
                .await
                .map(|text| print_line(&text)),
            Self::User(options) => user::run(&settings, &options, print_line).await,
        }
    }
}

/// Runs the agent until a signal arrives and the drain is complete. A second signal ends it at
/// once.
async fn run(settings: AgentSettings) -> anyhow::Result<()> {
    let mut signals = TerminationSignals::new()?;
    let exporter = export_traces(&settings);
    let traces = exporter
        .as_ref()
        .map(|exporter| exporter.tracer(traces::TRACER_NAME));
    let served = serve(settings, traces.unwrap_or_default(), &mut signals).await;
    if let Some(exporter) = exporter {
        exporter.shutdown(SPAN_EXPORT_TIMEOUT).await;
    }
    served
}

async fn serve(
    settings: AgentSettings,
    traces: OptionalTracer,
    signals: &mut TerminationSignals,
) -> anyhow::Result<()> {
    let (dev, console) = (settings.dev, settings.console);
    let _claimed = assembly::lock_data_dir(&settings)?;
    let mut agent = Agent::start_traced(settings, traces).await?;
    let (grpc, http) = agent.addresses();
    let further = agent.further_addresses().iter();
    let further: String = further
        .map(|(name, address)| format!(" {name}={address}"))
        .collect();
    let kafka = agent.kafka_address();
    let kafka = kafka
        .map(|address| format!(" kafka={address}"))
        .unwrap_or_default();
    print_line(&format!("listening grpc={grpc} http={http}{kafka}{further}"));
    let mut ready = agent.health().subscribe();
    let announced = async {
        if ready.wait_for(|ready| *ready).await.is_ok() {
            print_line("ready");
            if dev {
                print_quick_start(&grpc.to_string(), &http.to_string(), console);
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = signals.next() => {}
        () = announced => {}
        error = agent.wait_for_failure() => return Err(error),
    }
    tokio::select! {
        () = agent.drain() => Ok(()),
        () = signals.next() => anyhow::bail!("received a second signal: exiting without handing leases over, they move when they expire"),
    }
}

/// Starts the trace exporter if OpenTelemetry's variables name an endpoint. These variables may
/// apply to every program of a machine or pod, so errors in them do not stop the agent.
fn export_traces(settings: &AgentSettings) -> Option<TraceExporter> {
    let mut attributes = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if !settings.agent_id.is_empty() {
        attributes.push(KeyValue::new("service.instance.id", settings.agent_id.clone()));
    }
    match otlp::start("streamhouse-agent", attributes, |name| env::var(name).ok()) {
        Ok(exporter) => exporter,
        Err(problem) => {
            tracing::error!("traces are not exported: {problem}");
            None
        }
    }
}

/// SIGTERM and SIGINT.
struct TerminationSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl TerminationSignals {
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

/// Refuses variables of the SDK that the S3 client cannot use, before any request is sent.
fn check_environment(settings: &AgentSettings) -> Result<(), String> {
    if settings.object_store.starts_with("s3://") {
        check_s3_environment(|name| env::var(name).ok())
    } else {
        Ok(())
    }
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
        usage: streamhouse-agent [run|backup|check|migrate|objects|purge|recover|tables|user] [settings]\n\n\
        commands:\n  run      serve until SIGTERM or SIGINT, then hand leases over and exit (the default)\n  \
        backup   copy the embedded metadata store to a file while agents run --to FILE\n  \
        check    check that the stores can be used with these settings [metadata|object-store]\n  \
        migrate  migrate the metadata schema [--to VERSION] [--dry-run] [--ignore-agents]\n  \
        objects  list the objects in the object store [--prefix TEXT] [-o table|json]\n  \
        purge    permanently delete all objects and metadata of the cluster; no agent may be running --yes [--cluster-id ID]\n  \
        recover  report objects that restored metadata does not know, and continue without them [--yes]\n  \
        tables   show the metadata store's tables [-o table|json]\n  \
        user     give a user a password in the metadata store, the first one above all: put NAME --password-file FILE\n\n\
        settings (each also an environment variable: --flush-interval is STREAMHOUSE_FLUSH_INTERVAL):\n{}  \
        --help, --version\n\ntraces: OTEL_EXPORTER_OTLP_ENDPOINT and OpenTelemetry's other variables",
        env!("CARGO_PKG_VERSION"),
        env!("CARGO_PKG_DESCRIPTION"),
        settings::help_text()
    )
}

/// Prints how to try the embedded agent.
fn print_quick_start(grpc: &str, http: &str, console: bool) {
    let look = if console {
        format!("\n  open http://{http}/console/ in a browser")
    } else {
        String::new()
    };
    let text = format!(
        "try it:\n  export STREAMHOUSE_BOOTSTRAP={grpc}\n  streamhouse topic create hello\n  \
        echo 'hello, world' | streamhouse produce hello\n  streamhouse consume hello --from-beginning\n  \
        curl http://{http}/metrics{look}"
    );
    let _ = writeln!(io::stderr(), "{text}");
}

/// Prints a line. A closed stdout is no reason to exit.
fn print_line(line: &str) {
    let mut out = io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Prints a text and returns success.
fn print_and_exit(answer: &str) -> ExitCode {
    print_line(answer);
    ExitCode::SUCCESS
}

fn exit_with_refusal(problem: &str) -> ExitCode {
    print_error(problem);
    ExitCode::from(REFUSED_SETTINGS_EXIT_CODE)
}

fn exit_with_outcome(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error)
            if error.is::<TlsError>()
                || error.is::<ListenersFileError>()
                || error.is::<OAuthFileError>()
                || error.is::<DataDirInUseError>() =>
        {
            exit_with_refusal(&error.to_string())
        }
        Err(error) if matches!(error.downcast_ref(), Some(MetadataError::InvalidAddress(_))) => {
            exit_with_refusal(&format!("{error:#}"))
        }
        Err(error) => {
            print_error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints an error as one line, at most as long as Kubernetes keeps it; a database's message may
/// have several lines.
fn print_error(problem: &str) {
    let mut line = problem.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MAX_ERROR_LINE_BYTES {
        line.truncate(line.floor_char_boundary(MAX_ERROR_LINE_BYTES));
        line.push('…');
    }
    let _ = writeln!(io::stderr(), "streamhouse-agent: {line}");
}
