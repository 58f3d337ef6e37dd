//! Traces: what agents and clients need of OpenTelemetry. [`Traces`] starts spans, or does nothing at the cost of a branch;
//! [`parse`] and [`write()`] are the only places that know how a context travels (W3C Trace Context); `otlp` sends spans away.
//!
//! Guarantees: whatever a peer or a record says about its trace, parsing it neither fails nor takes more than a bounded
//! amount of work; a span that is not sampled is never held.

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

/// The header, of a record or of a call, that names the span it belongs to.
pub const TRACEPARENT: &str = "traceparent";
/// The header with what vendors add to it.
pub const TRACESTATE: &str = "tracestate";
/// The most links of one span; what would need more is still right, only less complete.
pub const MAX_LINKS: usize = 32;
/// Longer ones are not read: version 00 has 55 bytes, later ones may add to that.
const LONGEST_PARENT: usize = 256;
/// Longer ones are left out; the standard asks for 512.
const LONGEST_STATE: usize = 512;

/// Starts spans, or nothing where traces are off. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces {
    tracer: Option<Arc<global::BoxedTracer>>,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("on", &self.is_on()).finish()
    }
}

impl Traces {
    /// Spans of the library `scope`, for the provider's exporters.
    pub fn of(provider: &dyn global::ObjectSafeTracerProvider, scope: &'static str) -> Self {
        let scope = InstrumentationScope::builder(scope)
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Self {
            tracer: Some(Arc::new(global::BoxedTracer::new(provider.boxed_tracer(scope)))),
        }
    }

    /// With the provider that the program installed; off where it installed none.
    pub fn installed(scope: &'static str) -> Self {
        let provider = global::tracer_provider();
        if is_real(&provider.tracer(scope)) {
            Self::of(&provider, scope)
        } else {
            Self::default()
        }
    }

    /// Whether spans may be sampled at all.
    pub fn is_on(&self) -> bool {
        self.tracer.is_some()
    }

    /// Starts a span, if it is sampled: the sampler is asked before anything else is done. `builder` should therefore
    /// borrow its name, and attributes be set on what is returned.
    pub fn start(&self, parent: &Context, builder: SpanBuilder) -> Option<Span> {
        let span = self.tracer.as_ref()?.build_with_context(builder, parent);
        span.span_context().is_sampled().then_some(Span(span))
    }

    /// Starts a span as the child of the first of these, with links to the others, as far as there is room for them.
    pub fn start_for(&self, contexts: &[SpanContext], builder: SpanBuilder) -> Option<Span> {
        let (parent, others) = contexts.split_first()?;
        if !self.is_on() {
            return None;
        }
        let links = others.iter().take(MAX_LINKS).cloned().map(Link::with_context);
        self.start(&within(parent), builder.with_links(links.collect()))
    }
}

/// Whether a tracer records anything at all. One that does not hands the parent's context on; one that does obeys when it
/// is told to keep silent, and so leaves no trace of the question.
fn is_real(tracer: &global::BoxedTracer) -> bool {
    let parent = SpanContext::new(
        TraceId::from(1),
        SpanId::from(1),
        TraceFlags::NOT_SAMPLED,
        true,
        TraceState::NONE,
    );
    let silent = within(&parent).with_telemetry_suppressed();
    let span = tracer.build_with_context(SpanBuilder::from_name("probe"), &silent);
    *span.span_context() != parent
}

/// The context in which the span is the active one.
pub fn within(span: &SpanContext) -> Context {
    Context::new().with_remote_span_context(span.clone())
}

/// A sampled span; it ends when it is dropped.
#[derive(Debug)]
pub struct Span(global::BoxedSpan);

impl Span {
    /// What its children need.
    pub fn context(&self) -> &SpanContext {
        self.0.span_context()
    }

    /// Completes the name, once it is clear that the span is sampled.
    pub fn rename(&mut self, name: String) {
        self.0.update_name(name);
    }

    /// Sets an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// Notes that something happened.
    pub fn event(&mut self, name: impl Into<Cow<'static, str>>, attributes: Vec<KeyValue>) {
        self.0.add_event(name, attributes);
    }

    /// Marks it as failed: the kind of the error, from a fixed list, and what was said.
    pub fn fail(&mut self, kind: &'static str, message: String) {
        self.set(key::ERROR_TYPE, kind);
        self.0.set_status(Status::error(message));
    }

    /// Makes it the active span of a context, for work that asks for that; it ends with the context's last clone.
    pub fn into_context(self) -> Context {
        Context::new().with_span(self.0)
    }
}

/// What log lines of this work carry: the names of its trace and its span.
pub fn log_span(span: Option<&SpanContext>) -> tracing::Span {
    // As an error, so that every level of logging keeps it with the lines it does keep.
    span.map_or_else(
        tracing::Span::none,
        |span| tracing::error_span!("traced", trace_id = %span.trace_id(), span_id = %span.span_id()),
    )
}

/// The two headers, wherever they stand.
struct Headers<'a> {
    parent: &'a str,
    state: Option<&'a str>,
}

impl Extractor for Headers<'_> {
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

/// Reads a context as it travels; none where it does not parse. What is wrong with `state` alone costs only the state.
pub fn parse(parent: &[u8], state: Option<&[u8]>) -> Option<SpanContext> {
    let parent = text(parent, LONGEST_PARENT).filter(|parent| !parent.contains('+'))?;
    let state = state.and_then(|state| text(state, LONGEST_STATE));
    let context =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers { parent, state });
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Text of a bounded length.
fn text(bytes: &[u8], longest: usize) -> Option<&str> {
    (bytes.len() <= longest)
        .then(|| std::str::from_utf8(bytes).ok())
        .flatten()
}

/// A context as it travels: the parent, and the state where there is any.
pub fn write(context: &SpanContext) -> (String, Option<String>) {
    let parent = format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags() & TraceFlags::SAMPLED
    );
    let state = context.trace_state().header();
    (
        parent,
        (!state.is_empty() && state.len() <= LONGEST_STATE).then_some(state),
    )
}

#[cfg(test)]
mod tests;
