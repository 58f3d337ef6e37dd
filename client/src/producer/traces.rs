//! The producer's spans: one per sampled record, from `send` to its outcome, whose context travels
//! in the record's headers; and one per request with such records, whose context travels in the
//! request.
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
use streamhouse_core::trace::{self, Span, TRACEPARENT, TRACESTATE, Traces, key};

use super::{delivery::Delivery, record::RecordMetadata, record::RecordRef};
use crate::{
    error::{Error, Result},
    traces::{self, SYSTEM},
};

/// Maximum number of traced records in flight per producer. Records beyond are sent without a span.
const MOST_OPEN: usize = 4096;
/// RPC method name of a produce request in traces.
const METHOD: &str = "streamhouse.v1.DataService/Produce";

/// Starts a producer's spans.
#[derive(Debug, Default)]
pub(super) struct ProducerTraces {
    traces: Traces,
    client_id: Arc<str>,
    open: Arc<AtomicUsize>,
}

/// Span of a record until its outcome is known.
#[derive(Debug)]
pub(super) struct SendSpan {
    span: Span,
    _slot: Slot,
}

/// One of the [`MOST_OPEN`] slots for open spans.
#[derive(Debug)]
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A trace context as headers of a record.
#[derive(Debug)]
pub(super) struct Carried {
    parent: String,
    state: Option<String>,
}

/// Trace context of a request.
#[derive(Debug, Default)]
pub(super) struct RequestTrace {
    pub(super) span: Option<Span>,
    pub(super) parent: String,
    pub(super) state: String,
}

impl ProducerTraces {
    pub(super) fn new(traces: Traces, client_id: &str) -> Self {
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
    pub(super) fn send(&self, topic: &str, record: &RecordRef<'_>) -> Option<SendSpan> {
        if !self.is_on() {
            return None;
        }
        let slot = Slot(self.open.clone());
        if slot.0.fetch_add(1, Ordering::Relaxed) >= MOST_OPEN {
            return None;
        }
        let builder = SpanBuilder::from_name("send").with_kind(SpanKind::Producer);
        let headers = record.headers.iter().map(|(name, value)| (*name, *value));
        let mut span = match traces::context_in(headers) {
            Some(parent) => self.traces.start(&trace::within(&parent), builder),
            None => Context::map_current(|current| self.traces.start(current, builder)),
        }?;
        span.rename(format!("send {topic}"));
        span.set(key::MESSAGING_SYSTEM, SYSTEM);
        span.set(key::MESSAGING_OPERATION_NAME, "send");
        span.set(key::MESSAGING_OPERATION_TYPE, "send");
        span.set(key::MESSAGING_DESTINATION_NAME, topic.to_owned());
        span.set(key::MESSAGING_CLIENT_ID, self.client_id.clone());
        Some(SendSpan { span, _slot: slot })
    }

    /// Returns the trace context of a request with these records to the agent at `uri`.
    pub(super) fn request(&self, uri: &str, traced: &[SpanContext], batches: usize) -> RequestTrace {
        let Some(first) = traced.first() else {
            return RequestTrace::default();
        };
        let builder = SpanBuilder::from_name(METHOD).with_kind(SpanKind::Client);
        let mut span = self.traces.start_for(traced, builder);
        if let Some(span) = &mut span {
            span.set(key::RPC_SYSTEM_NAME, "grpc");
            span.set(key::RPC_METHOD, METHOD);
            span.set(key::MESSAGING_SYSTEM, SYSTEM);
            span.set("streamhouse.batches", i64::try_from(batches).unwrap_or(i64::MAX));
            traces::set_server(span, uri);
        }
        let (parent, state) = trace::write(span.as_ref().map_or(first, Span::context));
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
    pub(super) fn carried(&self, record: &RecordRef<'_>) -> Option<Carried> {
        let says_something = record.headers.iter().any(|(name, _)| *name == TRACEPARENT);
        (!says_something).then(|| {
            let (parent, state) = trace::write(self.context());
            Carried { parent, state }
        })
    }

    /// Ends the span with the record's outcome.
    pub(super) fn follow(self, sent: Result<Delivery>) -> Result<Delivery> {
        match sent {
            Ok(delivery) => {
                delivery.observe(move |outcome| self.end(&outcome));
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
                self.span.set(
                    key::MESSAGING_DESTINATION_PARTITION_ID,
                    stored.partition.to_string(),
                );
                self.span.set(key::MESSAGING_KAFKA_OFFSET, stored.offset);
            }
            Err(error) => self.fail(error),
        }
    }

    fn fail(mut self, error: &Error) {
        self.span.fail(error.code().name(), error.to_string());
    }
}

impl Carried {
    /// Returns the record's headers with these appended.
    pub(super) fn with<'a>(
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
