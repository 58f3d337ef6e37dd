//! The command line `streamhouse`: parses the arguments, runs one command, prints its error, and
//! exits with 0 (success), 1 (failure) or 2 (usage error).

mod acl;
mod arguments;
mod bench;
mod cluster;
mod codec;
mod command_error;
mod command_line;
mod completions;
mod consume;
mod context;
#[cfg(test)]
mod docs;
mod group;
mod output;
mod output_format;
mod password;
mod produce;
mod signals;
mod terminal;
mod topic;
mod user;
mod values;
mod warnings;

use std::{process::ExitCode, time::Duration};

use self::password::PasswordVariable;
#[cfg(feature = "otlp")]
use streamhouse_client::opentelemetry::KeyValue;
#[cfg(feature = "otlp")]
use streamhouse_core::trace::otlp::{self, TraceExporter};

fn main() -> ExitCode {
    if let Err(error) = streamhouse_core::core_dumps::disable() {
        eprintln!("streamhouse: cannot start: {error}");
        return ExitCode::from(command_error::EXIT_FAILED);
    }
    let cli = match arguments::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return ExitCode::from(code),
    };
    let password = std::env::var(PasswordVariable::NAME).unwrap_or_default();
    let cli = cli.with_password(PasswordVariable::new(password));
    let format = cli.format();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("streamhouse: cannot start: {error}");
            return ExitCode::from(command_error::EXIT_FAILED);
        }
    };
    let outcome = runtime.block_on(async {
        let exporter = export_traces();
        let outcome = cli.run().await;
        finish_traces(exporter).await;
        outcome
    });
    // A blocking read of standard input may still be waiting for a key press; do not wait for it.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(line) = failure.render(format) {
                eprintln!("{line}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

/// How long the export of the last spans may take.
#[cfg(feature = "otlp")]
const TRACE_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts the trace exporter if OpenTelemetry's variables name an endpoint. Invalid variables are
/// reported but do not fail the command.
#[cfg(feature = "otlp")]
fn export_traces() -> Option<TraceExporter> {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    match otlp::start("streamhouse", vec![version], |name| std::env::var(name).ok()) {
        Ok(exporter) => {
            exporter.iter().for_each(TraceExporter::install_globally);
            exporter
        }
        Err(problem) => {
            eprintln!("streamhouse: traces are not exported: {problem}");
            None
        }
    }
}

#[cfg(feature = "otlp")]
async fn finish_traces(exporter: Option<TraceExporter>) {
    if let Some(exporter) = exporter {
        exporter.shutdown(TRACE_SHUTDOWN_TIMEOUT).await;
    }
}

#[cfg(not(feature = "otlp"))]
fn export_traces() {}

#[cfg(not(feature = "otlp"))]
async fn finish_traces((): ()) {}
