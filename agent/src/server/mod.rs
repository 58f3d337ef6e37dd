//! Owns the agent's ports: gRPC for clients, HTTP for probes, Prometheus and the console. Both are
//! bound first, so that a port in use ends the start; they are served until stopped, with TLS where
//! there is a certificate.

pub mod admin;
pub mod connections;
pub mod data;
mod deps;
mod guard;
pub mod http;
mod plain_text;
pub mod request_memory;

use std::{future::Future, io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::Request, middleware::from_fn};
use prometheus::IntGauge;
use streamhouse_core::protocol::v1::{
    FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer, data_service_server::DataServiceServer,
    group_service_server::GroupServiceServer,
};
use tokio::{net::TcpListener, sync::watch, time::Duration};
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

pub use self::deps::{ServerDeps, ServerLimits};
use self::{
    admin::AgentAdminService,
    connections::{ConnectionPolicy, ConnectionSecurity},
    data::AgentDataService,
    request_memory::RequestMemoryLimiter,
};
use crate::{
    console,
    groups::GroupGrpcService,
    metrics::AgentMetrics,
    tls::{self, ListenerCertificates, ListenerKind, TlsError},
};

/// HTTP/2 flow-control window of one stream. What a client has sent and no handler has read is in
/// memory, so this counts for each connection.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// HTTP/2 flow-control window of one connection; see [`STREAM_WINDOW`].
pub const CONNECTION_WINDOW: u32 = 8 << 20;
/// Maximum number of concurrent calls of one connection; further calls wait.
const MAX_CALLS_PER_CONNECTION: usize = 1024;
/// Keepalive: a silent connection is pinged after the first duration, and closed if it does not
/// answer within the second.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(20));
/// How long a client may take for the TLS handshake, and then for its preface.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of `PRI * HTTP/2.0` and so on: hyper waits for it without a time limit.
const HTTP2_PREFACE_BYTES: usize = 24;
/// Maximum size of one call's headers, in bytes.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;

/// Both ports, bound.
#[derive(Debug)]
pub struct ServerPorts {
    grpc: TcpListener,
    http: TcpListener,
}

impl ServerPorts {
    /// Binds both ports.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub async fn bind(grpc: &str, http: &str) -> io::Result<Self> {
        Ok(Self {
            grpc: bind_listener("gRPC", grpc).await?,
            http: bind_listener("HTTP", http).await?,
        })
    }

    /// Returns the bound addresses, gRPC first.
    ///
    /// # Errors
    /// If the operating system does not return a local address.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.grpc.local_addr()?, self.http.local_addr()?))
    }

    /// Serves both ports until `stop` resolves and the calls in flight have ended.
    ///
    /// # Errors
    /// If a port cannot be served, or a certificate cannot be used.
    pub async fn serve(
        self,
        deps: Arc<ServerDeps>,
        tls: Arc<ListenerCertificates>,
        stop: impl Future<Output = ()> + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let follow = async {
            tokio::join!(
                report_health(reporter, deps.health.subscribe()),
                tls.reload_periodically(tls::RELOAD_INTERVAL)
            )
        };
        let pages = http_router(&deps, self.http.local_addr()?);
        let connections = connections::accept(
            self.http,
            ConnectionPolicy {
                limit: http::MAX_HTTP_CONNECTIONS,
                // The number of HTTP connections says nothing about clients, so it is not exported.
                open_connections: IntGauge::new("http_connections", "open")?,
                security: connection_security(&tls, ListenerKind::Http, &deps.metrics)?,
                preface_bytes: 0,
                handshake_timeout: HANDSHAKE_TIMEOUT,
            },
        );
        let http = http::serve_http(connections, pages, http::HEADER_READ_TIMEOUT, stop.clone());
        let routes = grpc_routes(&deps)?.add_service(health);
        let (metrics, traces) = (deps.metrics.clone(), deps.traces.clone());
        let intake = RequestMemoryLimiter::new(deps.limits.request_memory, deps.limits.max_request_bytes);
        let guarded = routes
            .into_axum_router()
            .layer(from_fn(move |request: Request, next| {
                let request = request.map(|body| intake.limit_body(body));
                guard::guard_call(metrics.clone(), traces.clone(), request, next)
            }));
        let grpc = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(u32::try_from(MAX_CALLS_PER_CONNECTION)?)
            .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION)
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
            .add_routes(Routes::from(guarded))
            .serve_with_incoming_shutdown(
                connections::accept(
                    self.grpc,
                    ConnectionPolicy {
                        limit: deps.limits.max_connections,
                        open_connections: deps.metrics.connections.clone(),
                        security: connection_security(&tls, ListenerKind::Grpc, &deps.metrics)?,
                        preface_bytes: HTTP2_PREFACE_BYTES,
                        handshake_timeout: HANDSHAKE_TIMEOUT,
                    },
                ),
                stop,
            );
        tokio::select! {
            _ = follow => Ok(()),
            served = async { tokio::try_join!(async { grpc.await.map_err(anyhow::Error::from) }, async { Ok(http.await?) }) } => {
                served.map(|_| ())
            }
        }
    }
}

/// Returns the routes of the HTTP port, with the console if it is enabled.
fn http_router(deps: &Arc<ServerDeps>, bound: SocketAddr) -> Router {
    let pages = http::status_router(deps.clone());
    match &deps.console {
        Some(console) => pages.merge(console::router(console.clone(), bound.ip().is_loopback())),
        None => pages,
    }
}

/// Returns the TLS of a listener, if it has a certificate.
fn connection_security(
    tls: &ListenerCertificates,
    listener: ListenerKind,
    metrics: &AgentMetrics,
) -> Result<Option<ConnectionSecurity>, TlsError> {
    let Some(certificate) = tls.certificate(listener) else {
        return Ok(None);
    };
    Ok(Some(ConnectionSecurity {
        acceptor: certificate.acceptor()?,
        failures: metrics.handshake_error_counter(listener.name()),
    }))
}

async fn bind_listener(what: &str, address: &str) -> io::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address} for {what}: {error}; choose another address"),
        )
    })
}

/// Returns the routes of every service but health.
fn grpc_routes(deps: &Arc<ServerDeps>) -> anyhow::Result<Routes> {
    let largest = deps.limits.max_request_bytes;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(
        DataServiceServer::new(AgentDataService::new(deps.clone())).max_decoding_message_size(largest),
    )
    .add_service(
        AdminServiceServer::new(AgentAdminService::new(deps.clone())).max_decoding_message_size(largest),
    )
    .add_service(
        GroupServiceServer::new(GroupGrpcService::new(deps.groups.clone()))
            .max_decoding_message_size(largest),
    )
    .add_service(reflection))
}

/// Makes gRPC health follow readiness; never returns.
async fn report_health(reporter: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status = if *ready.borrow_and_update() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for service in [
            "",
            "streamhouse.v1.DataService",
            "streamhouse.v1.AdminService",
            "streamhouse.v1.GroupService",
        ] {
            reporter.set_service_status(service, status).await;
        }
        if ready.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
