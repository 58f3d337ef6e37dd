//! Distributed traces: what agents and clients use of OpenTelemetry. [`OptionalTracer`] starts
//! spans, or does nothing at the cost of one branch. Only [`parse_trace_context`] and
//! [`format_trace_context()`] know the encoding of a context (W3C Trace Context). `otlp` exports
//! spans.
//!
//! Guarantees: parsing a context from a peer or a record never fails and takes a bounded amount of
//! work; a span that is not sampled is never held.

#[cfg(feature = "otlp")]
pub mod otlp;

use std::{borrow::Cow, fmt, sync::Arc};

use opentelemetry::{
    Context, InstrumentationScope, KeyValue, Value, global,
    propagation::{Extractor, TextMapPropagator},
    trace::{
        Link, Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId,
        TraceState, Tracer, TracerProvider,
    },
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
pub use opentelemetry_semantic_conventions::attribute as key;

/// The header, of a record or of a call, with the id of the parent span.
pub const TRACEPARENT: &str = "traceparent";
/// The header with vendor-specific state of the trace.
pub const TRACESTATE: &str = "tracestate";
/// The largest number of links of one span. Further links are dropped.
pub const MAX_LINKS: usize = 32;
/// Longer values are ignored: version 00 takes 55 bytes, later versions may append to it.
const MAX_TRACEPARENT_LEN: usize = 256;
/// Longer values are dropped; the standard requires at least 512.
const MAX_TRACESTATE_LEN: usize = 512;

/// Starts spans, or does nothing if tracing is off. Cheap to clone.
#[derive(Clone, Default)]
pub struct OptionalTracer {
    tracer: Option<Arc<global::BoxedTracer>>,
}

impl fmt::Debug for OptionalTracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("on", &self.is_on()).finish()
    }
}

impl OptionalTracer {
    /// Creates the starter of spans of the instrumentation library `scope`, which `provider`
    /// exports.
    pub fn from_provider(provider: &dyn global::ObjectSafeTracerProvider, scope: &'static str) -> Self {
        let scope = InstrumentationScope::builder(scope)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self {
            tracer: Some(Arc::new(global::BoxedTracer::new(provider.boxed_tracer(scope)))),
        }
    }

    /// Creates it with the globally installed provider; off if the program installed none.
    pub fn from_global_provider(scope: &'static str) -> Self {
        let provider = global::tracer_provider();
        if is_recording(&provider.tracer(scope)) {
            Self::from_provider(&provider, scope)
        } else {
            Self::default()
        }
    }

    /// Returns whether any span may be sampled.
    pub fn is_on(&self) -> bool {
        self.tracer.is_some()
    }

    /// Starts a span if it is sampled. The sampler decides before anything else is done, so
    /// `builder` should borrow its name, and attributes should be set on the span returned.
    pub fn start(&self, parent: &Context, builder: SpanBuilder) -> Option<SampledSpan> {
        let span = self.tracer.as_ref()?.build_with_context(builder, parent);
        span.span_context().is_sampled().then_some(SampledSpan(span))
    }

    /// Starts a span as a child of the first context, with links to the others, at most
    /// [`MAX_LINKS`].
    pub fn start_linked(&self, contexts: &[SpanContext], builder: SpanBuilder) -> Option<SampledSpan> {
        let (parent, others) = contexts.split_first()?;
        if !self.is_on() {
            return None;
        }
        let links = others.iter().take(MAX_LINKS).cloned().map(Link::with_context);
        self.start(&context_of(parent), builder.with_links(links.collect()))
    }
}

/// Returns whether a tracer records spans. A tracer that does not returns the parent's context
/// unchanged; one that does creates a new context even while telemetry is suppressed, so the probe
/// is never exported.
fn is_recording(tracer: &global::BoxedTracer) -> bool {
    let parent = SpanContext::new(
        TraceId::from(1),
        SpanId::from(1),
        TraceFlags::NOT_SAMPLED,
        true,
        TraceState::NONE,
    );
    let silent = context_of(&parent).with_telemetry_suppressed();
    let span = tracer.build_with_context(SpanBuilder::from_name("probe"), &silent);
    *span.span_context() != parent
}

/// Returns the context in which the span is the active one.
pub fn context_of(span: &SpanContext) -> Context {
    Context::new().with_remote_span_context(span.clone())
}

/// A sampled span, which ends when it is dropped.
#[derive(Debug)]
pub struct SampledSpan(global::BoxedSpan);

impl SampledSpan {
    /// Returns the context that child spans need.
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// Completes the name, once the span is known to be sampled.
    pub fn rename(&mut self, name: String) {
        self.0.update_name(name);
    }

    /// Sets an attribute.
    pub fn set_attribute(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Adds an event.
    pub fn add_event(&mut self, name: impl Into<Cow<'static, str>>, attributes: Vec<KeyValue>) {
        self.0.add_event(name, attributes);
    }

    /// Marks the span as failed, with the kind of the error from a fixed list and a message.
    pub fn set_error(&mut self, kind: &'static str, message: String) {
        self.set_attribute(key::ERROR_TYPE, kind);
        self.0.set_status(Status::error(message));
    }

    /// Makes the span the active one of a context. It ends with the context's last clone.
    pub fn into_context(self) -> Context {
        Context::new().with_span(self.0)
    }
}

/// Returns the log span whose fields are the trace id and span id.
pub fn log_span(span: Option<&SpanContext>) -> tracing::Span {
    // Error level, so that every log level keeps these fields on the lines it logs.
    span.map_or_else(
        tracing::Span::none,
        |span| tracing::error_span!("traced", trace_id = %span.trace_id(), span_id = %span.span_id()),
    )
}

/// The two trace headers, from any carrier.
struct TraceHeaders<'a> {
    parent: &'a str,
    state: Option<&'a str>,
}

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(self.parent),
            TRACESTATE => self.state,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// Parses a context; `None` if `parent` is invalid. An invalid `state` is dropped without affecting
/// the rest.
pub fn parse_trace_context(parent: &[u8], state: Option<&[u8]>) -> Option<SpanContext> {
    let parent = bounded_text(parent, MAX_TRACEPARENT_LEN).filter(|parent| !parent.contains('+'))?;
    let state = state.and_then(|state| bounded_text(state, MAX_TRACESTATE_LEN));
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &TraceHeaders { parent, state });
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Returns the bytes as text if they are valid and not too long.
fn bounded_text(bytes: &[u8], longest: usize) -> Option<&str> {
    (bytes.len() <= longest)
        .then(|| std::str::from_utf8(bytes).ok())
        .flatten()
}

/// Formats a context as `traceparent`, and as `tracestate` if it has state.
pub fn format_trace_context(context: &SpanContext) -> (String, Option<String>) {
    let parent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags() & TraceFlags::SAMPLED
    );
    let state = context.trace_state().header();
    (
        parent,
        (!state.is_empty() && state.len() <= MAX_TRACESTATE_LEN).then_some(state),
    )
}

#[cfg(test)]
mod tests;
