//! The HTTP side: `GET /health` (the process lives), `GET /ready` (it joined the cluster, holds its share of leases and
//! does not drain; else 503 with the reasons), `GET /metrics` (Prometheus text).

use std::{future::Future, io, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::node::Node;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The three pages.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// Serves until `stop` resolves.
pub async fn serve(
    listener: TcpListener,
    node: Arc<Node>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(node))
        .with_graceful_shutdown(stop)
        .await
}

async fn health() -> &'static str {
    "ok\n"
}

async fn ready(State(node): State<Arc<Node>>) -> Response {
    let reasons = node.health.reasons();
    if reasons.is_empty() {
        return (StatusCode::OK, Json(json!({ "ready": true }))).into_response();
    }
    let reasons: Vec<_> = reasons
        .iter()
        .map(|(what, why)| json!({ "condition": what.name(), "reason": why }))
        .collect();
    (
        StatusCode::SERVICE_UNAVAILABLE,
        Json(json!({ "ready": false, "reasons": reasons })),
    )
        .into_response()
}

async fn metrics(State(node): State<Arc<Node>>) -> Response {
    node.measure();
    match node.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
