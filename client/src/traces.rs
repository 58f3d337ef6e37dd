//! What the spans of producers and consumers have in common: names, and the trace context in a
//! record's headers.

use opentelemetry::trace::SpanContext;
use streamhouse_core::trace::{self, SampledSpan, TRACEPARENT, TRACESTATE, key};

/// Instrumentation scope of the library's spans.
pub(crate) const INSTRUMENTATION_SCOPE: &str = "streamhouse-client";
/// Value of OpenTelemetry's `messaging.system` attribute.
pub(crate) const MESSAGING_SYSTEM_NAME: &str = "streamhouse";

/// Returns the trace context in these headers, from the first header of each name; `None` if it is
/// missing or malformed.
pub(crate) fn extract_context<'a>(
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> Option<SpanContext> {
    let (mut parent, mut state) = (None, None);
    for (name, value) in headers {
        match name {
            TRACEPARENT => parent = parent.or(value),
            TRACESTATE => state = state.or(value),
            _ => {}
        }
    }
    trace::parse_trace_context(parent?, state)
}

/// Sets the span's server address and port to those of the called agent.
pub(crate) fn set_server_address(span: &mut SampledSpan, uri: &str) {
    let address = uri.split_once("://").map_or(uri, |(_, address)| address);
    let Some((host, port)) = address.rsplit_once(':') else {
        return;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    span.set_attribute(key::SERVER_ADDRESS, host.to_owned());
    if let Ok(port) = port.parse::<u16>() {
        span.set_attribute(key::SERVER_PORT, i64::from(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_context_is_found_among_other_headers() {
        let headers: [(&str, Option<&[u8]>); 4] = [
            ("kind", Some(b"tea")),
            (TRACESTATE, Some(b"a=b")),
            (TRACEPARENT, Some(PARENT)),
            (TRACEPARENT, Some(b"another")),
        ];
        let context = extract_context(headers.into_iter()).unwrap();
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert_eq!(context.trace_state().header(), "a=b");
    }

    #[test]
    fn without_a_whole_context_there_is_none() {
        assert_eq!(extract_context(std::iter::empty()), None);
        assert_eq!(
            extract_context([(TRACESTATE, Some(&b"a=b"[..]))].into_iter()),
            None
        );
        assert_eq!(extract_context([(TRACEPARENT, None)].into_iter()), None);
        assert_eq!(extract_context([("Traceparent", Some(PARENT))].into_iter()), None);
        assert_eq!(
            extract_context([(TRACEPARENT, Some(&b"tea"[..]))].into_iter()),
            None
        );
    }
}
