//! Wraps every gRPC handler: a panic becomes an error of its own call only, calls are counted and
//! timed by method, and errors are counted by method and code. The data service counts its requests
//! itself, since one of its calls carries many.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use futures::FutureExt;
use http_body_util::BodyExt;
use streamhouse_core::{
    Error, ErrorCode,
    trace::{SampledSpan, TRACEPARENT, TRACESTATE, log_span},
};
use tonic::Status;
use tracing::Instrument;

use crate::{
    fetch::ResponseMemory,
    metrics::AgentMetrics,
    traces::{self, AgentTraces},
};

/// The methods served. Metric labels come from this list, never from a client.
pub(crate) const METHODS: &[&str] = &[
    "AlterTopic",
    "CommitOffsets",
    "CreateAcls",
    "CreateTopic",
    "DeleteAcls",
    "DeleteGroup",
    "DeleteRecords",
    "DeleteTopic",
    "DeleteUser",
    "DescribeCluster",
    "DescribeGroup",
    "DescribeTopic",
    "ExplainAccess",
    "Fetch",
    "FetchOffsets",
    "FindCoordinator",
    "Heartbeat",
    "InitProducerId",
    "JoinGroup",
    "LeaveGroup",
    "ListAcls",
    "ListGroups",
    "ListOffsets",
    "ListTopics",
    "ListUsers",
    "Metadata",
    "Produce",
    "PutUser",
    "ResetOffsets",
    "SyncGroup",
];
/// Path of the service that counts its requests itself.
const DATA_SERVICE: &str = "/streamhouse.v1.DataService/";
/// The method whose call is a stream of many requests.
const PRODUCE: &str = "Produce";
/// Label of every other method.
const OTHER_METHOD: &str = "other";

fn method_label(path: &str) -> &'static str {
    let name = path
        .strip_prefix("/streamhouse.v1.")
        .and_then(|rest| rest.split_once('/'))
        .map_or("", |(_, name)| name);
    METHODS
        .iter()
        .find(|method| **method == name)
        .copied()
        .unwrap_or(OTHER_METHOD)
}

/// Runs one call.
pub(super) async fn guard_call(
    metrics: Arc<AgentMetrics>,
    traces: AgentTraces,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let method = method_label(path);
    let mut span = start_span(&traces, method, &request);
    let log = log_span(span.as_ref().map(SampledSpan::context));
    let _timer = (!path.starts_with(DATA_SERVICE)).then(|| metrics.start_request(method));
    let response = AssertUnwindSafe(next.run(request).instrument(log.clone()))
        .catch_unwind()
        .await
        .unwrap_or_else(|_| {
            let _logged = log.entered();
            tracing::error!(method, "a handler panicked; this is a bug");
            let error = Error::new(
                ErrorCode::Unknown,
                "an unexpected failure; the agent's log has the cause",
            );
            Status::from(error).into_http()
        });
    let failure =
        Status::from_header_map(response.headers()).filter(|status| status.code() != tonic::Code::Ok);
    if let Some(status) = failure {
        let error = Error::from(status);
        metrics.record_grpc_error(method, error.code());
        if let Some(span) = &mut span {
            traces::mark_failed(span, &error);
        }
    }
    attach_memory_to_body(response)
}

/// Starts the span of a call whose caller sent a trace context. Requests of a produce stream have
/// spans of their own.
fn start_span(traces: &AgentTraces, method: &str, request: &Request) -> Option<SampledSpan> {
    if !traces.is_on() || method == OTHER_METHOD || method == PRODUCE {
        return None;
    }
    let header = |name| Some(request.headers().get(name)?.as_bytes());
    let name = request.uri().path().trim_start_matches('/');
    traces.start_call(name, header(TRACEPARENT)?, header(TRACESTATE))
}

/// Ties the memory of a response to its body: it is released when the last byte has left or the
/// reader has disconnected.
fn attach_memory_to_body(mut response: Response) -> Response {
    match response.extensions_mut().remove::<ResponseMemory>() {
        None => response,
        Some(memory) => response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _held = &memory;
                frame
            }))
        }),
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, middleware::from_fn, routing::get};
    use prost::Message;
    use streamhouse_core::protocol::v1;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[tokio::test]
    async fn the_memory_of_an_answer_is_held_until_its_body_is_gone() {
        let memory = Arc::new(tokio::sync::Semaphore::new(10));
        let permit: ResponseMemory = Arc::new(memory.clone().try_acquire_many_owned(10).unwrap());
        let mut response = Response::new(Body::from("records"));
        response.extensions_mut().insert(permit);
        let response = attach_memory_to_body(response);
        assert_eq!(memory.available_permits(), 0, "the reader has not read yet");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!((&body[..], memory.available_permits()), (&b"records"[..], 10));
        let unread = Arc::new(memory.clone().try_acquire_many_owned(10).unwrap());
        let mut response = Response::new(Body::from("records"));
        response.extensions_mut().insert(unread);
        drop(attach_memory_to_body(response));
        assert_eq!(
            memory.available_permits(),
            10,
            "a reader that goes away gives it back"
        );
    }

    #[test]
    fn only_our_methods_become_labels() {
        assert_eq!(method_label("/streamhouse.v1.DataService/Fetch"), "Fetch");
        assert_eq!(
            method_label("/streamhouse.v1.GroupService/JoinGroup"),
            "JoinGroup"
        );
        for foreign in [
            "/streamhouse.v1.DataService/Nonsense",
            "/grpc.health.v1.Health/Check",
            "/",
            "",
        ] {
            assert_eq!(method_label(foreign), OTHER_METHOD);
        }
    }

    #[test]
    fn every_method_of_the_protocol_is_known() {
        let files = prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
        let services = files.file.iter().flat_map(|file| &file.service);
        let mut served: Vec<&str> = services
            .flat_map(|service| &service.method)
            .map(|method| method.name())
            .collect();
        served.sort_unstable();
        assert_eq!(served, METHODS);
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_and_the_next_call_is_served() {
        let metrics = Arc::new(AgentMetrics::new().unwrap());
        let counted = metrics.clone();
        let routes = Router::new()
            .route(
                "/streamhouse.v1.AdminService/ListTopics",
                get(async || -> &'static str { panic!("a bug") }),
            )
            .route("/fine", get(async || "fine"))
            .layer(from_fn(move |request, next| {
                guard_call(counted.clone(), AgentTraces::default(), request, next)
            }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(axum::serve(listener, routes).into_future());
        let mut stream = TcpStream::connect(address).await.unwrap();
        let calls = "GET /streamhouse.v1.AdminService/ListTopics HTTP/1.1\r\nhost: x\r\n\r\n\
            GET /fine HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(calls.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert!(
            answers.contains("grpc-status: 13") && answers.contains("streamhouse-error-code: UNKNOWN"),
            "{answers}"
        );
        assert!(answers.ends_with("fine"), "{answers}");
        let text = metrics.render().unwrap();
        let counted = "streamhouse_agent_grpc_errors_total{code=\"UNKNOWN\",method=\"ListTopics\"} 1";
        assert!(text.contains(counted), "{text}");
        serving.abort();
    }
}
