//! Exports spans over gRPC to an OTLP receiver. Programs call it once at their start and at their
//! end; OpenTelemetry's standard variables configure it.
//!
//! Guarantees: nothing is started without an endpoint; the queue is bounded; a receiver that does
//! not respond neither delays nor fails other work, and is logged once, not for every span.
//! Headers, which may hold tokens, are never logged.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use opentelemetry::{KeyValue, global};
use opentelemetry_otlp::{
    SpanExporter as OtlpExporter, WithExportConfig, WithTonicConfig, tonic_types::transport,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchSpanProcessor, SdkTracerProvider, SpanData, SpanExporter},
};

use super::OptionalTracer;

/// After a failure is logged, this many further failures pass before the next log line: about ten
/// minutes.
const LOG_EVERY_FAILURES: u64 = 60;

/// Variables that the SDK reads without trimming.
const UNTRIMMED_VARIABLES: [&str; 8] = [
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

/// The exporter of this process. [`TraceExporter::shutdown`] sends the remaining spans.
#[derive(Debug)]
pub struct TraceExporter {
    provider: SdkTracerProvider,
}

/// Starts the exporter that the variables configure, `None` without an endpoint. `attributes`
/// describe the process. Must be called within a tokio runtime that outlives the exporter.
///
/// # Errors
///
/// Fails with a message that names the variable with an invalid value.
pub fn start(
    service: &'static str,
    attributes: Vec<KeyValue>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<TraceExporter>, String> {
    let given = |name: &str| {
        let value = variable(name)?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let either = |what: &str| {
        given(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"))
            .or_else(|| given(&format!("OTEL_EXPORTER_OTLP_{what}")))
    };
    let Some(endpoint) = either("ENDPOINT") else {
        return Ok(None);
    };
    check_variables(&variable)?;
    if given("OTEL_SDK_DISABLED").is_some_and(|disabled| disabled.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    match given("OTEL_TRACES_EXPORTER").as_deref() {
        None | Some("otlp") => {}
        Some("none") => return Ok(None),
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER is {other:?}; use otlp or none")),
    }
    if let Some(protocol) = either("PROTOCOL").filter(|protocol| protocol != "grpc") {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}; use grpc, and the receiver's gRPC port, usually 4317"
        ));
    }
    let exporter = build_exporter(&endpoint, either("CERTIFICATE"))?;
    let mut resource = Resource::builder().with_attributes(attributes);
    let named = given("OTEL_SERVICE_NAME").is_some()
        || given("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
    if !named {
        resource = resource.with_service_name(service);
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_span_processor(BatchSpanProcessor::builder(FailureLoggingExporter::new(exporter)).build())
        .build();
    Ok(Some(TraceExporter { provider }))
}

/// Rejects variables with a value that no request can carry or that would be ignored silently. The
/// message names the variable but not its value, which may be a token. Variables read here are
/// trimmed; the SDK uses the others untrimmed, except that it trims each header.
fn check_variables(variable: &impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let both = |what: &str| {
        [
            format!("OTEL_EXPORTER_OTLP_{what}"),
            format!("OTEL_EXPORTER_OTLP_TRACES_{what}"),
        ]
    };
    let trimmed = ["ENDPOINT", "PROTOCOL", "CERTIFICATE"].into_iter().flat_map(both);
    let trimmed = trimmed.chain(["OTEL_TRACES_EXPORTER".to_owned(), "OTEL_SDK_DISABLED".to_owned()]);
    let exact = ["COMPRESSION", "TIMEOUT", "INSECURE"].into_iter().flat_map(both);
    let exact = exact.chain(UNTRIMMED_VARIABLES.map(str::to_owned));
    let lookup = |name: String| variable(&name).map(|value| (name, value));
    let mut checked: Vec<(String, bool)> = Vec::new();
    for (name, value) in trimmed.filter_map(lookup) {
        checked.push((name, value.trim().chars().any(char::is_control)));
    }
    for (name, value) in exact.filter_map(lookup) {
        checked.push((name, value.chars().any(char::is_control)));
    }
    for (name, value) in both("HEADERS").into_iter().filter_map(lookup) {
        checked.push((name, value.split(',').map(str::trim).any(has_control_character)));
    }
    match checked.into_iter().find(|(_, is_bad)| *is_bad) {
        Some((name, _)) => Err(format!(
            "{name} holds a line feed or another control character; remove it"
        )),
        None => Ok(()),
    }
}

/// Returns whether a pair `name=value` holds a control character, also percent-encoded such as
/// `%0a`.
fn has_control_character(pair: &str) -> bool {
    let escaped = |at: usize| {
        pair.get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
    };
    let mut escapes = pair.match_indices('%').filter_map(|(at, _)| escaped(at));
    pair.chars().any(char::is_control) || escapes.any(|byte| byte.is_ascii_control())
}

fn build_exporter(endpoint: &str, certificate: Option<String>) -> Result<OtlpExporter, String> {
    let builder = OtlpExporter::builder().with_tonic().with_endpoint(endpoint);
    let built = if endpoint.trim_start().starts_with("https://") {
        let tls = transport::ClientTlsConfig::new();
        let tls = match certificate {
            None => tls.with_native_roots(),
            Some(path) => {
                let pem = fs::read(&path).map_err(|error| {
                    format!("OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read {path}: {error}")
                })?;
                tls.ca_certificate(transport::Certificate::from_pem(pem))
            }
        };
        builder.with_tls_config(tls).build()
    } else {
        builder.build()
    };
    built.map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {error}"))
}

impl TraceExporter {
    /// Returns a tracer for the instrumentation library `scope`.
    pub fn tracer(&self, scope: &'static str) -> OptionalTracer {
        OptionalTracer::from_provider(&self.provider, scope)
    }

    /// Returns the provider, for the builders of producers and consumers.
    pub fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// Installs the provider globally, where libraries look for it.
    pub fn install_globally(&self) {
        global::set_tracer_provider(self.provider.clone());
    }

    /// Sends the remaining spans for at most `allowed`, then shuts down. Spans not accepted by then
    /// are lost.
    pub async fn shutdown(self, allowed: Duration) {
        let provider = self.provider;
        // The shutdown blocks on the exporter's thread, which an async task must not do.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(allowed));
        match tokio::time::timeout(allowed, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::info!(%error, "the last spans could not be exported"),
            Ok(Err(_)) | Err(_) => tracing::info!("the last spans could not be exported in time"),
        }
    }
}

/// An exporter that logs failures, but not every one of them.
#[derive(Debug)]
struct FailureLoggingExporter<E> {
    inner: E,
    /// Failures since the last success.
    failures: AtomicU64,
    /// Spans lost by these failures.
    lost: AtomicU64,
}

impl<E> FailureLoggingExporter<E> {
    fn new(inner: E) -> Self {
        Self {
            inner,
            failures: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// Logs the first failure, some of the following ones, and the recovery. Returns whether it
    /// logged.
    fn log_outcome(&self, outcome: &OTelSdkResult, spans: usize) -> bool {
        match outcome {
            Ok(()) => {
                let failed = self.failures.swap(0, Ordering::Relaxed) > 0;
                let lost = self.lost.swap(0, Ordering::Relaxed);
                if failed {
                    tracing::info!(lost, "traces are exported again");
                }
                failed
            }
            Err(error) => {
                let lost = self.lost.fetch_add(spans as u64, Ordering::Relaxed) + spans as u64;
                let due = self
                    .failures
                    .fetch_add(1, Ordering::Relaxed)
                    .is_multiple_of(LOG_EVERY_FAILURES);
                if due {
                    tracing::warn!(%error, lost, "traces cannot be exported; their spans are lost, records are not affected");
                }
                due
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for FailureLoggingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.inner.export(batch).await;
        self.log_outcome(&outcome, spans);
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests;
