//! The producer's spans: one per sampled record, from `start_send_span` to its outcome, whose
//! context travels in the record's headers; and one per request with such records, whose context
//! travels in the request.
//!
//! Guarantees: without a tracer, a record costs one branch; an unsampled one costs the sampler's
//! decision; a record that already carries a context keeps its headers; the number of open spans is
//! bounded.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use opentelemetry::{
    Context,
    trace::{SpanBuilder, SpanContext, SpanKind},
};
use streamhouse_core::trace::{self, OptionalTracer, SampledSpan, TRACEPARENT, TRACESTATE, key};

use super::{delivery::Delivery, record::RecordMetadata, record::RecordRef};
use crate::{
    error::{Error, Result},
    traces::{self, MESSAGING_SYSTEM_NAME},
};

/// Maximum number of traced records in flight per producer. Records beyond are sent without a span.
const MAX_OPEN_SPANS: usize = 4096;
/// RPC method name of a produce request in traces.
const PRODUCE_METHOD: &str = "streamhouse.v1.DataService/Produce";

/// Starts a producer's spans.
#[derive(Debug, Default)]
pub(super) struct ProducerTraces {
    traces: OptionalTracer,
    client_id: Arc<str>,
    open: Arc<AtomicUsize>,
}

/// Span of a record until its outcome is known.
#[derive(Debug)]
pub(super) struct SendSpan {
    span: SampledSpan,
    _slot: OpenSpanSlot,
}

/// One of the [`MAX_OPEN_SPANS`] slots for open spans.
#[derive(Debug)]
struct OpenSpanSlot(Arc<AtomicUsize>);

impl Drop for OpenSpanSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A trace context as headers of a record.
#[derive(Debug)]
pub(super) struct ContextHeaders {
    parent: String,
    state: Option<String>,
}

/// Trace context of a request.
#[derive(Debug, Default)]
pub(super) struct RequestTrace {
    pub(super) span: Option<SampledSpan>,
    pub(super) parent: String,
    pub(super) state: String,
}

impl ProducerTraces {
    pub(super) fn new(traces: OptionalTracer, client_id: &str) -> Self {
        Self {
            traces,
            client_id: client_id.into(),
            open: Arc::default(),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.traces.is_on()
    }

    /// Starts the span of a record if it is sampled. Its parent is the context in the record's
    /// headers or the current one; otherwise it is the root of a new trace.
    pub(super) fn start_send_span(&self, topic: &str, record: &RecordRef<'_>) -> Option<SendSpan> {
        if !self.is_on() {
            return None;
        }
        let slot = OpenSpanSlot(self.open.clone());
        if slot.0.fetch_add(1, Ordering::Relaxed) >= MAX_OPEN_SPANS {
            return None;
        }
        let builder = SpanBuilder::from_name("send").with_kind(SpanKind::Producer);
        let headers = record.headers.iter().map(|(name, value)| (*name, *value));
        let mut span = match traces::extract_context(headers) {
            Some(parent) => self.traces.start(&trace::context_of(&parent), builder),
            None => Context::map_current(|current| self.traces.start(current, builder)),
        }?;
        span.rename(format!("send {topic}"));
        span.set_attribute(key::MESSAGING_SYSTEM, MESSAGING_SYSTEM_NAME);
        span.set_attribute(key::MESSAGING_OPERATION_NAME, "send");
        span.set_attribute(key::MESSAGING_OPERATION_TYPE, "send");
        span.set_attribute(key::MESSAGING_DESTINATION_NAME, topic.to_owned());
        span.set_attribute(key::MESSAGING_CLIENT_ID, self.client_id.clone());
        Some(SendSpan { span, _slot: slot })
    }

    /// Returns the trace context of a request with these records to the agent at `uri`.
    pub(super) fn start_request_trace(
        &self,
        uri: &str,
        traced: &[SpanContext],
        batches: usize,
    ) -> RequestTrace {
        let Some(first) = traced.first() else {
            return RequestTrace::default();
        };
        let builder = SpanBuilder::from_name(PRODUCE_METHOD).with_kind(SpanKind::Client);
        let mut span = self.traces.start_linked(traced, builder);
        if let Some(span) = &mut span {
            span.set_attribute(key::RPC_SYSTEM_NAME, "grpc");
            span.set_attribute(key::RPC_METHOD, PRODUCE_METHOD);
            span.set_attribute(key::MESSAGING_SYSTEM, MESSAGING_SYSTEM_NAME);
            span.set_attribute("streamhouse.batches", i64::try_from(batches).unwrap_or(i64::MAX));
            traces::set_server_address(span, uri);
        }
        let (parent, state) = trace::format_trace_context(span.as_ref().map_or(first, SampledSpan::context));
        RequestTrace {
            span,
            parent,
            state: state.unwrap_or_default(),
        }
    }
}

impl SendSpan {
    pub(super) fn context(&self) -> &SpanContext {
        self.span.context()
    }

    /// Returns the headers to add to the record; `None` if it carries a trace context already.
    pub(super) fn context_headers(&self, record: &RecordRef<'_>) -> Option<ContextHeaders> {
        let says_something = record.headers.iter().any(|(name, _)| *name == TRACEPARENT);
        (!says_something).then(|| {
            let (parent, state) = trace::format_trace_context(self.context());
            ContextHeaders { parent, state }
        })
    }

    /// Ends the span with the record's outcome.
    pub(super) fn end_with_outcome(self, sent: Result<Delivery>) -> Result<Delivery> {
        match sent {
            Ok(delivery) => {
                delivery.add_callback(move |outcome| self.end(&outcome));
                Ok(delivery)
            }
            Err(error) => {
                self.fail(&error);
                Err(error)
            }
        }
    }

    fn end(mut self, outcome: &Result<RecordMetadata>) {
        match outcome {
            Ok(stored) => {
                self.span.set_attribute(
                    key::MESSAGING_DESTINATION_PARTITION_ID,
                    stored.partition.to_string(),
                );
                self.span
                    .set_attribute(key::MESSAGING_KAFKA_OFFSET, stored.offset);
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(mut self, error: &Error) {
        self.span.set_error(error.code().name(), error.to_string());
    }
}

impl ContextHeaders {
    /// Returns the record's headers with these appended.
    pub(super) fn with_headers<'a>(
        &'a self,
        headers: &[(&'a str, Option<&'a [u8]>)],
    ) -> Vec<(&'a str, Option<&'a [u8]>)> {
        let mut all = Vec::with_capacity(headers.len() + 2);
        all.extend_from_slice(headers);
        all.push((TRACEPARENT, Some(self.parent.as_bytes())));
        all.extend(
            self.state
                .as_ref()
                .map(|state| (TRACESTATE, Some(state.as_bytes()))),
        );
        all
    }
}
