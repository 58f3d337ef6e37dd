//! Contexts survive a round trip, invalid ones are ignored, and nothing is sampled against the
//! sampler's decision.

use std::sync::Mutex;

use opentelemetry::trace::{SpanKind, noop::NoopTracerProvider};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use proptest::prelude::*;

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Collects the spans that ended.
#[derive(Debug, Clone, Default)]
struct CollectedSpans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for CollectedSpans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

impl CollectedSpans {
    fn spans(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }
}

fn provider(sampler: Sampler) -> (SdkTracerProvider, CollectedSpans) {
    let spans = CollectedSpans::default();
    let provider = SdkTracerProvider::builder()
        .with_sampler(sampler)
        .with_simple_exporter(spans.clone())
        .build();
    (provider, spans)
}

#[test]
fn a_context_is_read_with_its_state() {
    let context = parse_trace_context(PARENT.as_bytes(), Some(b"vendor=value")).unwrap();
    assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
    assert!(context.is_sampled() && context.is_remote());
    assert_eq!(
        format_trace_context(&context),
        (PARENT.to_owned(), Some("vendor=value".to_owned()))
    );
}

#[test]
fn what_is_no_context_is_none() {
    let long = format!("{PARENT}-{}", "a".repeat(300));
    for parent in [
        "",
        "-",
        "00",
        "00-0-0-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        &long,
    ] {
        assert_eq!(parse_trace_context(parent.as_bytes(), None), None, "{parent}");
    }
    assert_eq!(parse_trace_context(&[0xff; 55], None), None);
}

#[test]
fn a_bad_state_costs_the_state_only() {
    let long = "a=b,".repeat(200);
    for state in [&b"\xff"[..], b"tea", long.as_bytes()] {
        let context = parse_trace_context(PARENT.as_bytes(), Some(state)).unwrap();
        assert_eq!(
            format_trace_context(&context),
            (PARENT.to_owned(), None),
            "{state:?}"
        );
    }
}

proptest! {
    #[test]
    fn reading_never_fails(parent: Vec<u8>, state: Option<Vec<u8>>) {
        if let Some(context) = parse_trace_context(&parent, state.as_deref()) {
            prop_assert!(context.is_valid());
        }
    }

    #[test]
    fn something_like_a_context_never_fails(parent in "[0-9a-f+-]{0,70}", state in "[a-z=,@ ]{0,600}") {
        let parent = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{parent}");
        if let Some(context) = parse_trace_context(parent.as_bytes(), Some(state.as_bytes())) {
            let (parent, _) = format_trace_context(&context);
            let again = parse_trace_context(parent.as_bytes(), None).map(|again| (again.trace_id(), again.span_id()));
            prop_assert_eq!(again, Some((context.trace_id(), context.span_id())));
        }
    }

    #[test]
    fn every_context_comes_back(trace in 1u128.., span in 1u64.., sampled: bool) {
        let flags = TraceFlags::default().with_sampled(sampled);
        let context = SpanContext::new(TraceId::from(trace), SpanId::from(span), flags, true, TraceState::default());
        let (parent, state) = format_trace_context(&context);
        prop_assert_eq!(parse_trace_context(parent.as_bytes(), state.as_ref().map(String::as_bytes)), Some(context));
    }
}

#[test]
fn a_provider_that_records_is_told_from_none_and_sees_nothing_of_the_question() {
    let (real, spans) = provider(Sampler::AlwaysOn);
    assert!(is_recording(&global::BoxedTracer::new(Box::new(
        real.tracer("test")
    ))));
    assert!(!is_recording(&global::BoxedTracer::new(Box::new(
        NoopTracerProvider::new().tracer("test")
    ))));
    assert!(spans.spans().is_empty());
    assert!(!OptionalTracer::default().is_on());
}

#[test]
fn without_a_provider_or_a_decision_for_it_there_is_no_span() {
    let (never, spans) = provider(Sampler::AlwaysOff);
    for traces in [
        OptionalTracer::default(),
        OptionalTracer::from_provider(&never, "test"),
    ] {
        assert!(
            traces
                .start(&Context::new(), SpanBuilder::from_name("a"))
                .is_none()
        );
        let parent = parse_trace_context(PARENT.as_bytes(), None).unwrap();
        assert!(
            traces
                .start_linked(&[parent], SpanBuilder::from_name("b"))
                .is_none()
        );
    }
    assert!(spans.spans().is_empty());
}

#[test]
fn a_span_for_many_is_the_child_of_the_first_with_a_bounded_number_of_links() {
    let (provider, spans) = provider(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)));
    let traces = OptionalTracer::from_provider(&provider, "test");
    let contexts: Vec<_> = (1..=100u64)
        .map(|n| {
            let (trace, span) = (TraceId::from(u128::from(n)), SpanId::from(n));
            SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default())
        })
        .collect();
    let mut span = traces
        .start_linked(&contexts, SpanBuilder::from_name("x").with_kind(SpanKind::Server))
        .unwrap();
    span.rename("PUT".to_owned());
    span.set_error("TIMEOUT", "too slow".to_owned());
    drop(span);
    assert!(traces.start_linked(&[], SpanBuilder::from_name("y")).is_none());
    let spans = spans.spans();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!(span.name, "PUT");
    assert_eq!(
        (span.span_context.trace_id(), span.parent_span_id),
        (TraceId::from(1), SpanId::from(1))
    );
    assert_eq!(span.status, Status::error("too slow"));
    assert_eq!(span.links.links.len(), MAX_LINKS);
    assert_eq!(span.links.links[0].span_context, contexts[1]);
}
