//! What the agent says of its work in traces: a span for a call that came with one, and for the upload and the commit that
//! stored what it brought. Called by `server`, `produce` and `store`; everything does nothing where traces are off.
//!
//! Guarantees: no span is started for a caller that does not ask for it; none waits for anything; an object's spans have a
//! bounded number of links, however many requests it holds.

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanBuilder, SpanContext, SpanKind, TraceContextExt},
};
use streamhouse_core::{
    Error,
    trace::{self, Span, Traces, key},
};

/// The agent's name as the source of spans.
pub const SCOPE: &str = "streamhouse-agent";
/// The event of something that is tried again.
const RETRY: &str = "retry";

/// Starts the agent's spans.
#[derive(Debug, Clone, Default)]
pub struct AgentTraces {
    traces: Traces,
    /// Which database commits go to, as OpenTelemetry calls it.
    database: &'static str,
}

impl AgentTraces {
    /// Spans go where `traces` sends them.
    pub fn new(traces: Traces, metadata_url: &str) -> Self {
        let postgres = metadata_url.starts_with("postgres");
        Self {
            traces,
            database: if postgres { "postgresql" } else { "sqlite" },
        }
    }

    /// Whether spans may be started at all.
    pub fn is_on(&self) -> bool {
        self.traces.is_on()
    }

    /// A call, if its caller sent a context. `method` is the full name, one of ours.
    pub fn call(&self, method: &str, parent: &[u8], state: Option<&[u8]>) -> Option<Span> {
        if parent.is_empty() || !self.is_on() {
            return None;
        }
        let parent = trace::within(&trace::parse(parent, state)?);
        let builder = SpanBuilder::from_name("call").with_kind(SpanKind::Server);
        let mut span = self.traces.start(&parent, builder)?;
        span.rename(method.to_owned());
        span.set(key::RPC_SYSTEM_NAME, "grpc");
        span.set(key::RPC_METHOD, method.to_owned());
        Some(span)
    }

    /// The upload of an object for these requests.
    pub fn upload(&self, requests: &[SpanContext], object: &str, bytes: usize) -> Option<Span> {
        let builder = SpanBuilder::from_name("PUT").with_kind(SpanKind::Client);
        let mut span = self.traces.start_for(requests, builder)?;
        span.set("streamhouse.object.key", object.to_owned());
        span.set(
            "streamhouse.object.size",
            i64::try_from(bytes).unwrap_or(i64::MAX),
        );
        Some(span)
    }

    /// The commit of an object for these requests.
    pub fn commit(&self, requests: &[SpanContext], sequence: u64, partitions: usize) -> Option<Span> {
        let builder = SpanBuilder::from_name("commit").with_kind(SpanKind::Client);
        let mut span = self.traces.start_for(requests, builder)?;
        span.set(key::DB_SYSTEM_NAME, self.database);
        span.set(key::DB_OPERATION_NAME, "commit");
        span.set(
            "streamhouse.object.sequence",
            i64::try_from(sequence).unwrap_or(i64::MAX),
        );
        span.set(
            "streamhouse.partitions",
            i64::try_from(partitions).unwrap_or(i64::MAX),
        );
        Some(span)
    }
}

/// Marks a span as failed with one of our errors.
pub fn failed(span: &mut Span, error: &Error) {
    span.fail(error.code().name(), error.message().to_owned());
}

/// Notes in the span that is at work here, if there is one, that something is tried again.
pub fn retried(reason: &str) {
    Context::map_current(|context| {
        if context.has_active_span() {
            context.span().add_event(RETRY, reason_of(reason));
        }
    });
}

/// Notes in this span that something is tried again.
pub fn retry(span: Option<&mut Span>, reason: &str) {
    if let Some(span) = span {
        span.event(RETRY, reason_of(reason));
    }
}

fn reason_of(reason: &str) -> Vec<KeyValue> {
    vec![KeyValue::new(key::EXCEPTION_MESSAGE, reason.to_owned())]
}
