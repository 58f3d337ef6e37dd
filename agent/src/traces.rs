//! Creates the agent's trace spans: for each call that carries a trace context, and for the upload
//! and the commit that stored its records. Called by `server`, `produce` and `store`; does nothing
//! where traces are off.
//!
//! Guarantees: no span is started unless the caller sent a context; none waits for anything; the
//! spans of an object have a bounded number of links, however many requests it holds.

use opentelemetry::{
    Context, KeyValue,
    trace::{SpanBuilder, SpanContext, SpanKind, TraceContextExt},
};
use streamhouse_core::{
    Error,
    trace::{self, OptionalTracer, SampledSpan, key},
};

/// Instrumentation scope of the agent's spans.
pub const TRACER_NAME: &str = "streamhouse-agent";
/// Name of the span event for a retry.
const RETRY_EVENT: &str = "retry";

/// Starts the agent's spans.
#[derive(Debug, Clone, Default)]
pub struct AgentTraces {
    traces: OptionalTracer,
    /// Database of the commits, by its OpenTelemetry name.
    database: &'static str,
}

impl AgentTraces {
    /// Creates spans that are exported through `traces`.
    pub fn new(traces: OptionalTracer, metadata_url: &str) -> Self {
        let postgres = metadata_url.starts_with("postgres");
        Self {
            traces,
            database: if postgres { "postgresql" } else { "sqlite" },
        }
    }

    /// Returns whether spans may be started at all.
    pub fn is_on(&self) -> bool {
        self.traces.is_on()
    }

    /// Starts the span of a call, if its caller sent a context. `method` is the full name of a
    /// served method.
    pub fn start_call(&self, method: &str, parent: &[u8], state: Option<&[u8]>) -> Option<SampledSpan> {
        if parent.is_empty() || !self.is_on() {
            return None;
        }
        let parent = trace::context_of(&trace::parse_trace_context(parent, state)?);
        let builder = SpanBuilder::from_name("call").with_kind(SpanKind::Server);
        let mut span = self.traces.start(&parent, builder)?;
        span.rename(method.to_owned());
        span.set_attribute(key::RPC_SYSTEM_NAME, "grpc");
        span.set_attribute(key::RPC_METHOD, method.to_owned());
        Some(span)
    }

    /// Starts the span of a WAL object's upload, linked to these requests.
    pub fn start_upload(&self, requests: &[SpanContext], object: &str, bytes: usize) -> Option<SampledSpan> {
        let builder = SpanBuilder::from_name("PUT").with_kind(SpanKind::Client);
        let mut span = self.traces.start_linked(requests, builder)?;
        span.set_attribute("streamhouse.object.key", object.to_owned());
        span.set_attribute(
            "streamhouse.object.size",
            i64::try_from(bytes).unwrap_or(i64::MAX),
        );
        Some(span)
    }

    /// Starts the span of a WAL object's commit, linked to these requests.
    pub fn start_commit(
        &self,
        requests: &[SpanContext],
        sequence: u64,
        partitions: usize,
    ) -> Option<SampledSpan> {
        let builder = SpanBuilder::from_name("commit").with_kind(SpanKind::Client);
        let mut span = self.traces.start_linked(requests, builder)?;
        span.set_attribute(key::DB_SYSTEM_NAME, self.database);
        span.set_attribute(key::DB_OPERATION_NAME, "commit");
        span.set_attribute(
            "streamhouse.object.sequence",
            i64::try_from(sequence).unwrap_or(i64::MAX),
        );
        span.set_attribute(
            "streamhouse.partitions",
            i64::try_from(partitions).unwrap_or(i64::MAX),
        );
        Some(span)
    }
}

/// Marks a span as failed with this error.
pub fn mark_failed(span: &mut SampledSpan, error: &Error) {
    span.set_error(error.code().name(), error.message().to_owned());
}

/// Records a retry in the span that is active in this context, if there is one.
pub fn record_retry_in_current_span(reason: &str) {
    Context::map_current(|context| {
        if context.has_active_span() {
            context.span().add_event(RETRY_EVENT, retry_attributes(reason));
        }
    });
}

/// Records a retry in this span.
pub fn record_retry(span: Option<&mut SampledSpan>, reason: &str) {
    if let Some(span) = span {
        span.add_event(RETRY_EVENT, retry_attributes(reason));
    }
}

fn retry_attributes(reason: &str) -> Vec<KeyValue> {
    vec![KeyValue::new(key::EXCEPTION_MESSAGE, reason.to_owned())]
}
