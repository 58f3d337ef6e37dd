//! Sends spans to a receiver of OTLP over gRPC. Called by the programs, once, at their start and at their end; everything is
//! said by OpenTelemetry's own variables.
//!
//! Guarantees: without an endpoint nothing is started; what waits is bounded; a receiver that does not answer holds up nobody
//! and fails nothing, and the log says so once, not for every span. Headers, which may hold tokens, are never logged.

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

use super::Traces;

/// After a failure was logged, the next that may be: so many of them later, some ten minutes.
const REPORT_EVERY: u64 = 60;

/// Variables that the SDK takes as they are.
const EXACT: [&str; 8] = [
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
];

/// Where spans go. [`Exporter::finish`] sends what is left.
#[derive(Debug)]
pub struct Exporter {
    provider: SdkTracerProvider,
}

/// Starts the exporter that the variables ask for; none without an endpoint. Must be called within a tokio runtime that
/// outlives it. `attributes` describe the process. An error says which variable is wrong.
pub fn start(
    service: &'static str,
    attributes: Vec<KeyValue>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Exporter>, String> {
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
        Some(other) => return Err(format!("OTEL_TRACES_EXPORTER is {other:?}; take otlp or none")),
    }
    if let Some(protocol) = either("PROTOCOL").filter(|protocol| protocol != "grpc") {
        return Err(format!(
            "OTEL_EXPORTER_OTLP_PROTOCOL is {protocol:?}; take grpc, and the receiver's port for it, usually 4317"
        ));
    }
    let exporter = exporter(&endpoint, either("CERTIFICATE"))?;
    let mut resource = Resource::builder().with_attributes(attributes);
    let named = given("OTEL_SERVICE_NAME").is_some()
        || given("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
    if !named {
        resource = resource.with_service_name(service);
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_span_processor(BatchSpanProcessor::builder(Reporting::new(exporter)).build())
        .build();
    Ok(Some(Exporter { provider }))
}

/// Refuses variables whose value no request can carry, or that would be passed over in silence; the message names the
/// variable and not its value, which may be a token. What is read here is trimmed; the rest the SDK takes as it is, but for
/// headers, around each of which it trims.
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
    let exact = exact.chain(EXACT.map(str::to_owned));
    let lookup = |name: String| variable(&name).map(|value| (name, value));
    let mut checked: Vec<(String, bool)> = Vec::new();
    for (name, value) in trimmed.filter_map(lookup) {
        checked.push((name, value.trim().chars().any(char::is_control)));
    }
    for (name, value) in exact.filter_map(lookup) {
        checked.push((name, value.chars().any(char::is_control)));
    }
    for (name, value) in both("HEADERS").into_iter().filter_map(lookup) {
        checked.push((name, value.split(',').map(str::trim).any(is_no_header)));
    }
    match checked.into_iter().find(|(_, is_bad)| *is_bad) {
        Some((name, _)) => Err(format!(
            "{name} holds a line feed or another control character; set it without"
        )),
        None => Ok(()),
    }
}

/// Whether a pair `name=value` holds what no header can, also where it is written as `%0a`.
fn is_no_header(pair: &str) -> bool {
    let escaped = |at: usize| {
        pair.get(at + 1..at + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
    };
    let mut escapes = pair.match_indices('%').filter_map(|(at, _)| escaped(at));
    pair.chars().any(char::is_control) || escapes.any(|byte| byte.is_ascii_control())
}

fn exporter(endpoint: &str, certificate: Option<String>) -> Result<OtlpExporter, String> {
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

impl Exporter {
    /// Spans of the library `scope` that go to this exporter.
    pub fn traces(&self, scope: &'static str) -> Traces {
        Traces::of(&self.provider, scope)
    }

    /// What the builders of producers and consumers take.
    pub fn provider(&self) -> &SdkTracerProvider {
        &self.provider
    }

    /// Makes it the process's provider, which libraries find by themselves.
    pub fn install(&self) {
        global::set_tracer_provider(self.provider.clone());
    }

    /// Sends what is left, for as long as `allowed`, and ends. What the receiver did not take by then is lost.
    pub async fn finish(self, allowed: Duration) {
        let provider = self.provider;
        // It waits for the thread that sends, which a task must not.
        let ended = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(allowed));
        match tokio::time::timeout(allowed, ended).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::info!(%error, "the last traces were not taken"),
            Ok(Err(_)) | Err(_) => tracing::info!("the last traces were not taken in time"),
        }
    }
}

/// An exporter whose failures are logged, but not each of them.
#[derive(Debug)]
struct Reporting<E> {
    inner: E,
    /// Failures since the last success.
    failures: AtomicU64,
    /// Spans lost with them.
    lost: AtomicU64,
}

impl<E> Reporting<E> {
    fn new(inner: E) -> Self {
        Self {
            inner,
            failures: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// Whether this outcome is worth a line: the first failure, one now and then after it, and the recovery.
    fn report(&self, outcome: &OTelSdkResult, spans: usize) -> bool {
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
                    .is_multiple_of(REPORT_EVERY);
                if due {
                    tracing::warn!(%error, lost, "traces cannot be exported; their spans are lost, and nothing else");
                }
                due
            }
        }
    }
}

impl<E: SpanExporter> SpanExporter for Reporting<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let outcome = self.inner.export(batch).await;
        self.report(&outcome, spans);
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
