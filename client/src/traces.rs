//! What the spans of producers and consumers have in common: what they are called, and how a context is found among a
//! record's headers. Called by `producer` and `consumer`.

use opentelemetry::trace::SpanContext;
use streamhouse_core::trace::{self, Span, TRACEPARENT, TRACESTATE, key};

/// The library's name as the source of spans.
pub(crate) const SCOPE: &str = "streamhouse-client";
/// The messaging system, as OpenTelemetry would call it.
pub(crate) const SYSTEM: &str = "streamhouse";

/// The context among these headers, the first of each name; none where it does not parse.
pub(crate) fn context_in<'a>(
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
    trace::parse(parent?, state)
}

/// Says which agent was called.
pub(crate) fn set_server(span: &mut Span, uri: &str) {
    let address = uri.split_once("://").map_or(uri, |(_, address)| address);
    let Some((host, port)) = address.rsplit_once(':') else {
        return;
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    span.set(key::SERVER_ADDRESS, host.to_owned());
    if let Ok(port) = port.parse::<u16>() {
        span.set(key::SERVER_PORT, i64::from(port));
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
        let context = context_in(headers.into_iter()).unwrap();
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert_eq!(context.trace_state().header(), "a=b");
    }

    #[test]
    fn without_a_whole_context_there_is_none() {
        assert_eq!(context_in(std::iter::empty()), None);
        assert_eq!(context_in([(TRACESTATE, Some(&b"a=b"[..]))].into_iter()), None);
        assert_eq!(context_in([(TRACEPARENT, None)].into_iter()), None);
        assert_eq!(context_in([("Traceparent", Some(PARENT))].into_iter()), None);
        assert_eq!(context_in([(TRACEPARENT, Some(&b"tea"[..]))].into_iter()), None);
    }
}
