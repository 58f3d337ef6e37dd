//! A real OpenTelemetry Collector on a free port, which returns the spans that it received.
//!
//! Called by the tests of traces. Guarantees: a span that [`OtelCollector::spans`] returns was
//! received over OTLP; the collector ends when its value is dropped.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;

use crate::{ChildProcess, ProcessBuilder, ReservedPort, guard, programs, wait};

/// A span as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// The resource's `service.name`.
    pub service: String,
    /// The instrumentation library that created it.
    pub scope: String,
    /// The trace id in hexadecimal digits.
    pub trace_id: String,
    /// The span id in hexadecimal digits.
    pub span_id: String,
    /// The `span_id` of the parent; empty for a root span.
    pub parent: String,
    /// The span's name.
    pub name: String,
    /// `INTERNAL`, `SERVER`, `CLIENT`, `PRODUCER` or `CONSUMER`.
    pub kind: &'static str,
    /// Start time in nanoseconds since the Unix epoch.
    pub start: u64,
    /// End time in nanoseconds since the Unix epoch.
    pub end: u64,
    /// Attributes, with values as text.
    pub attributes: BTreeMap<String, String>,
    /// Span ids of the links.
    pub links: Vec<String>,
    /// Names of the events.
    pub events: Vec<String>,
    /// The status message, if the span failed.
    pub error: Option<String>,
}

impl ReceivedSpan {
    /// Returns the value of an attribute as text; empty if it is missing.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

/// A running collector.
#[derive(Debug)]
pub struct OtelCollector {
    port: ReservedPort,
    process: ChildProcess,
    _folder: TempDir,
}

impl OtelCollector {
    /// Starts a collector that has received nothing.
    pub fn start() -> anyhow::Result<OtelCollector> {
        let folder = guard::create_temp_folder("streamhouse-collector-")?;
        let port = ReservedPort::reserve()?;
        let config = folder.path().join("config.yaml");
        std::fs::write(&config, configuration(&port))?;
        let process = ProcessBuilder::new(programs::otel_collector()?)
            .clean_env()
            .arg(format!("--config=file:{}", config.display()))
            .start()?;
        let mut collector = OtelCollector {
            port,
            process,
            _folder: folder,
        };
        collector.wait_listening()?;
        Ok(collector)
    }

    /// Returns the value for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// Returns the process, to pause or end it.
    pub fn process(&mut self) -> &mut ChildProcess {
        &mut self.process
    }

    /// Returns all spans received so far.
    pub fn spans(&self) -> anyhow::Result<Vec<ReceivedSpan>> {
        let said = self.process.stdout();
        // The last line may be incomplete.
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let mut spans = Vec::new();
        for line in whole.lines() {
            let request: Value = serde_json::from_str(line).context("the collector printed no JSON")?;
            read_request(&request, &mut spans);
        }
        Ok(spans)
    }

    /// Waits until `wanted` returns a value for the spans received.
    pub fn wait_for<T>(
        &self,
        what: &str,
        mut wanted: impl FnMut(&[ReceivedSpan]) -> Option<T>,
    ) -> anyhow::Result<T> {
        let found = wait::wait_until(what, wait::SERVER_TIMEOUT, || Ok(wanted(&self.spans()?)));
        found.with_context(|| format!("received: {:#?}", self.spans()))
    }

    fn wait_listening(&mut self) -> anyhow::Result<()> {
        let (address, process) = (self.port.address(), &mut self.process);
        let listening = wait::wait_until("the start of the collector", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(process.is_running(), "the collector ended while starting");
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok())
        });
        listening.with_context(|| process.log_tail()).map(drop)
    }
}

fn configuration(port: &ReservedPort) -> String {
    format!(
        "receivers:\n  otlp:\n    protocols:\n      grpc:\n        endpoint: {}\n\
         exporters:\n  stdout:\n\
         service:\n  pipelines:\n    traces:\n      receivers: [otlp]\n      exporters: [stdout]\n",
        port.address()
    )
}

/// Reads one OTLP request in its JSON encoding.
fn read_request(request: &Value, spans: &mut Vec<ReceivedSpan>) {
    for resource in as_list(&request["resourceSpans"]) {
        let about = as_attributes(&resource["resource"]["attributes"]);
        let service = about.get("service.name").cloned().unwrap_or_default();
        for scope in as_list(&resource["scopeSpans"]) {
            for span in as_list(&scope["spans"]) {
                spans.push(ReceivedSpan {
                    service: service.clone(),
                    scope: as_text(&scope["scope"]["name"]),
                    trace_id: as_text(&span["traceId"]),
                    span_id: as_text(&span["spanId"]),
                    parent: as_text(&span["parentSpanId"]),
                    name: as_text(&span["name"]),
                    kind: as_span_kind(&span["kind"]),
                    start: as_nanoseconds(&span["startTimeUnixNano"]),
                    end: as_nanoseconds(&span["endTimeUnixNano"]),
                    attributes: as_attributes(&span["attributes"]),
                    links: as_list(&span["links"])
                        .iter()
                        .map(|link| as_text(&link["spanId"]))
                        .collect(),
                    events: as_list(&span["events"])
                        .iter()
                        .map(|event| as_text(&event["name"]))
                        .collect(),
                    error: (span["status"]["code"] == 2).then(|| as_text(&span["status"]["message"])),
                });
            }
        }
    }
}

fn as_list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn as_text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// JSON has no 64-bit integers, so OTLP encodes them as text.
fn as_nanoseconds(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn as_span_kind(value: &Value) -> &'static str {
    match value.as_u64() {
        Some(1) => "INTERNAL",
        Some(2) => "SERVER",
        Some(3) => "CLIENT",
        Some(4) => "PRODUCER",
        Some(5) => "CONSUMER",
        _ => "UNSPECIFIED",
    }
}

/// Every value is an object with its type as the only key.
fn as_attributes(value: &Value) -> BTreeMap<String, String> {
    let pairs = as_list(value).iter().filter_map(|pair| {
        let value = pair["value"].as_object()?.values().next()?;
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((as_text(&pair["key"]), value))
    });
    pairs.collect()
}
