//! HTTP server of the operator: `GET /health` (200 while all background loops run), `GET
//! /get_ready` (200 if every component is ready, else 503 with the reasons) and `GET /metrics`
//! (Prometheus text format). Called by `run` and serves until the process ends. Accepts at most
//! [`MAX_CONNECTIONS`] connections, each for at most [`MAX_CONNECTION_AGE`]; one that sends no
//! request is closed after [`IDLE_TIMEOUT`].

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde_json::json;
use streamhouse_core::listen::ipv4_fallback;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

use crate::{health::HealthState, metrics::OperatorMetrics};

/// Content type of Prometheus' text format.
const METRICS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Maximum number of open connections; further ones wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a connection may wait for a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum age of a connection, whether in use or not.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
/// Delay after the operating system has rejected an accept.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// State of the handlers.
#[derive(Debug, Clone)]
struct ServerState {
    health: Arc<HealthState>,
    metrics: Arc<OperatorMetrics>,
}

/// Binds the listener. `[::]` becomes `0.0.0.0` on a host without IPv6.
///
/// # Errors
///
/// Returns the error of the operating system, with the address in its message.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) => match ipv4_fallback(&address.to_string(), &error) {
            Some(address) => TcpListener::bind(address).await,
            None => Err(error),
        },
        bound => bound,
    };
    bound.map_err(|error| {
        let message = format!("cannot listen on {address}: {error}; choose another --http-listen");
        io::Error::new(error.kind(), message)
    })
}

/// Accepts and serves connections; never returns.
pub async fn serve(listener: TcpListener, health: Arc<HealthState>, metrics: Arc<OperatorMetrics>) {
    let pages = router(health, metrics);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                tokio::spawn(async move {
                    serve_connection(stream, pages).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection; retrying");
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Returns the router of all three endpoints.
pub fn router(health: Arc<HealthState>, metrics: Arc<OperatorMetrics>) -> Router {
    Router::new()
        .route("/health", get(get_health))
        .route("/ready", get(get_ready))
        .route("/metrics", get(get_metrics))
        .with_state(ServerState { health, metrics })
}

/// Serves the requests of one connection.
async fn serve_connection(stream: TcpStream, pages: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    // Clients that disconnect or are too slow are expected.
    if let Ok(Err(error)) = timeout(MAX_CONNECTION_AGE, connection).await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn get_health(State(pages): State<ServerState>) -> Response {
    let dead = pages.health.ended_loops();
    if dead.is_empty() {
        return (StatusCode::OK, Json(json!({ "healthy": true }))).into_response();
    }
    let body = json!({ "healthy": false, "ended": dead });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn get_ready(State(pages): State<ServerState>) -> Response {
    let leader = pages.metrics.leader.get() == 1;
    let reasons = pages.health.unready_reasons();
    let mut reasons: Vec<_> = reasons
        .iter()
        .map(|(part, why)| json!({ "missing": part.as_str(), "reason": why }))
        .collect();
    // A standby watches nothing and is ready to take over.
    if let (true, unseen @ [_, ..]) = (leader, pages.metrics.unsynced_kinds().as_slice()) {
        let why = format!(
            "the initial list of every {} is not complete yet",
            unseen.join(" and ")
        );
        reasons.push(json!({ "missing": "caches", "reason": why }));
    }
    if reasons.is_empty() {
        return (StatusCode::OK, Json(json!({ "ready": true, "leader": leader }))).into_response();
    }
    let body = json!({ "ready": false, "leader": leader, "reasons": reasons });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

async fn get_metrics(State(pages): State<ServerState>) -> Response {
    (
        [(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)],
        pages.metrics.render(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::health::HealthComponent;

    struct TestServer {
        address: SocketAddr,
        health: Arc<HealthState>,
        metrics: Arc<OperatorMetrics>,
    }

    async fn start() -> TestServer {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (health, metrics) = (
            Arc::new(HealthState::default()),
            Arc::new(OperatorMetrics::new().unwrap()),
        );
        tokio::spawn(serve(listener, health.clone(), metrics.clone()));
        TestServer {
            address,
            health,
            metrics,
        }
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn ready_says_what_is_missing_and_why() {
        let served = start().await;
        served.health.mark_healthy(HealthComponent::ApiServer);
        served.health.mark_unready(
            HealthComponent::Definitions,
            "topics.streamhouse.io is not installed",
        );
        let answer = get(served.address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("custom-resource-definitions") && answer.contains("topics.streamhouse.io"));
        served.health.mark_healthy(HealthComponent::Definitions);
        let answer = get(served.address, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "a standby is ready: {answer}");
        assert!(answer.contains(r#""leader":false"#));
        served.metrics.leader.set(1);
        let answer = get(served.address, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 503"),
            "a leader must be synced: {answer}"
        );
        let kinds = crate::metrics::KINDS.join(" and ");
        assert!(answer.contains(&kinds), "{answer}");
        for kind in crate::metrics::KINDS {
            served.metrics.synced.with_label_values(&[kind]).set(1);
        }
        let answer = get(served.address, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(r#""leader":true"#),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn health_is_about_loops_and_not_about_readiness() {
        let served = start().await;
        assert!(get(served.address, "/health").await.starts_with("HTTP/1.1 200"));
        served.health.mark_loop_ended("the API discovery");
        let answer = get(served.address, "/health").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the API discovery"));
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let served = start().await;
        let answer = get(served.address, "/metrics").await;
        assert!(
            answer.contains(METRICS_CONTENT_TYPE) && answer.contains("\nstreamhouse_operator_leader 0\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn a_silent_crowd_leaves_room_for_nobody_but_holds_nothing_for_ever() {
        let served = start().await;
        let mut crowd = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            crowd.push(TcpStream::connect(served.address).await.unwrap());
        }
        let waiting = tokio::spawn({
            let address = served.address;
            async move { get(address, "/health").await }
        });
        // One free connection is enough for the waiting client.
        drop(crowd.pop());
        assert!(waiting.await.unwrap().starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn every_interface_means_both_families() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (health, metrics) = (Arc::default(), Arc::new(OperatorMetrics::new().unwrap()));
        tokio::spawn(serve(listener, health, metrics));
        for address in [
            (Ipv4Addr::LOCALHOST, port).into(),
            (Ipv6Addr::LOCALHOST, port).into(),
        ] {
            let answer = get(address, "/health").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{address}: {answer}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_refused_with_what_to_do() {
        let served = start().await;
        let error = bind(served.address).await.unwrap_err();
        assert!(error.to_string().contains("--http-listen"), "{error}");
    }
}
