//! Tests of the variables and of logging failures. The integration tests verify with a real
//! receiver that spans arrive.

use std::collections::HashMap;

use opentelemetry_sdk::error::OTelSdkError;

use super::*;

fn try_start(variables: &[(&str, &str)]) -> Result<bool, String> {
    let variables: HashMap<_, _> = variables.iter().copied().collect();
    let variable = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    start("test", Vec::new(), variable).map(|exporter| exporter.is_some())
}

const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1");

#[tokio::test]
async fn only_an_endpoint_starts_it() {
    assert_eq!(try_start(&[]), Ok(false));
    assert_eq!(try_start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", " ")]), Ok(false));
    assert_eq!(
        try_start(&[("OTEL_SERVICE_NAME", "a"), ("OTEL_TRACES_EXPORTER", "otlp")]),
        Ok(false)
    );
    assert_eq!(try_start(&[ENDPOINT]), Ok(true));
    assert_eq!(
        try_start(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1")]),
        Ok(true)
    );
    assert_eq!(try_start(&[ENDPOINT, ("OTEL_SDK_DISABLED", "TRUE")]), Ok(false));
    assert_eq!(
        try_start(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "none")]),
        Ok(false)
    );
}

#[tokio::test]
async fn what_cannot_be_done_is_said_with_the_variable() {
    let refused = |variables: &[(&str, &str)]| try_start(variables).unwrap_err();
    assert!(refused(&[ENDPOINT, ("OTEL_TRACES_EXPORTER", "zipkin")]).contains("OTEL_TRACES_EXPORTER"));
    assert!(refused(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]).contains("use grpc"));
    let missing = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "no-such.pem"),
    ];
    assert!(refused(&missing).contains("no-such.pem"));
}

#[tokio::test]
async fn what_surrounds_a_value_is_trimmed_and_a_control_character_inside_is_refused_by_name() {
    let trimmed = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1\n"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc\r\n"),
        ("OTEL_TRACES_EXPORTER", " otlp\n"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer hush\n, x=1\n"),
    ];
    assert_eq!(try_start(&trimmed), Ok(true));
    assert_eq!(try_start(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true\n")]), Ok(false));
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1\nhush"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Bearer hu\nsh"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=hush%0a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10000\n"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip\n"),
        ("OTEL_SERVICE_NAME", "hush\n"),
        ("OTEL_TRACES_SAMPLER", "always_on\n"),
    ] {
        let error = try_start(&[ENDPOINT, (name, value)]).unwrap_err();
        assert!(error.starts_with(&format!("{name} holds a line feed")), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
}

#[tokio::test]
async fn the_end_is_not_held_up_by_a_receiver_that_is_not_there() {
    let variable = |name: &str| (name == ENDPOINT.0).then(|| ENDPOINT.1.to_owned());
    let exporter = start("test", Vec::new(), variable).unwrap().unwrap();
    let traces = exporter.tracer("test");
    let span = traces.start(
        &opentelemetry::Context::new(),
        opentelemetry::trace::SpanBuilder::from_name("x"),
    );
    assert!(span.is_some());
    drop(span);
    let finish = exporter.shutdown(Duration::from_millis(200));
    let ended = tokio::time::timeout(Duration::from_secs(60), finish).await;
    assert!(ended.is_ok(), "the shutdown exceeded its deadline");
}

#[test]
fn failures_are_logged_rarely_and_the_recovery_once() {
    let reporting = FailureLoggingExporter::new(());
    let failure = || Err(OTelSdkError::InternalFailure("no answer".into()));
    let logged = (0..100).filter(|_| reporting.log_outcome(&failure(), 7)).count();
    assert_eq!(logged, 2);
    assert_eq!(reporting.lost.load(Ordering::Relaxed), 700);
    assert!(reporting.log_outcome(&Ok(()), 1));
    assert!(!reporting.log_outcome(&Ok(()), 1));
    assert!(
        reporting.log_outcome(&failure(), 1),
        "a new outage is logged again"
    );
}
