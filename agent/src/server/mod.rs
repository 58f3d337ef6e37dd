//! Owns the agent's ports: gRPC and Kafka for clients, by one or several listeners, and HTTP for
//! probes, Prometheus and the console. All are bound first, so that a port in use ends the start;
//! they are served until stopped, with TLS where there is a certificate.

mod address_limit;
pub mod admin;
mod authentication;
mod authorization;
pub mod connections;
pub mod data;
mod deps;
mod fetch_quota;
pub mod groups;
pub(crate) mod guard;
pub mod http;
mod plain_text;
mod ports;
mod produce_stream;
pub mod request_memory;
mod security;

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{Router, extract::Request, middleware::from_fn};
use futures::future::try_join_all;
use prometheus::IntGauge;
use streamhouse_core::protocol::v1::{
    FILE_DESCRIPTOR_SET, admin_service_server::AdminServiceServer, data_service_server::DataServiceServer,
    group_service_server::GroupServiceServer, security_service_server::SecurityServiceServer,
};
use tokio::{net::TcpListener, sync::watch, time::Duration};
use tonic::{service::Routes, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

use self::{
    admin::AgentAdminService,
    connections::{ConnectionPolicy, ConnectionSecurity},
    data::AgentDataService,
    groups::ForwardingGroupService,
    request_memory::RequestMemoryLimiter,
    security::AgentSecurityService,
};
pub use self::{
    deps::{ServerDeps, ServerLimits},
    ports::{FurtherListener, FurtherListenerTls, ServerPorts},
};
use crate::{
    console,
    kafka::{self, BrokerAddresses},
    listeners::{self, AddressAnswers, CallOrigin, ClientListener, ListenerProtocol, ListenersFileReader},
    metrics::{AgentMetrics, ListenerTraffic},
    tls::{self, ListenerCertificate, ListenerCertificates, ListenerKind, TlsError},
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
/// Length of the shortest request of a Kafka client.
const KAFKA_PREFACE_BYTES: usize = 14;
/// Maximum size of one call's headers, in bytes.
const MAX_HEADER_LIST_BYTES: u32 = 16 << 10;

impl ServerPorts {
    /// Serves all ports until `stop` resolves and the calls in flight have ended. `own_address` is
    /// the address that this agent advertises; `file` the listeners file, if there is one.
    ///
    /// # Errors
    /// If a port cannot be served, or a certificate cannot be used.
    pub async fn serve(
        self,
        deps: Arc<ServerDeps>,
        tls: Arc<ListenerCertificates>,
        (own_address, file): (&str, Option<ListenersFileReader>),
        stop: impl Future<Output = ()> + Clone + Send + 'static,
    ) -> anyhow::Result<()> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let follow = async {
            tokio::join!(
                report_health(reporter, deps.health.subscribe()),
                tls.reload_periodically(tls::RELOAD_INTERVAL),
                follow_listeners_file(file)
            )
        };
        let is_secure = tls.certificate(ListenerKind::Http).is_some();
        let pages = http_router(&deps, self.http.local_addr()?, is_secure);
        let connections = connections::accept(
            self.http,
            ConnectionPolicy {
                limit: http::MAX_HTTP_CONNECTIONS,
                limit_per_address: 0,
                // The number of HTTP connections says nothing about clients, so it is not exported.
                open_connections: IntGauge::new("http_connections", "open")?,
                traffic: deps.metrics.listener_traffic(ListenerKind::Http.name()),
                security: connection_security(tls.certificate(ListenerKind::Http), &deps.metrics)?,
                preface_bytes: 0,
                handshake_timeout: HANDSHAKE_TIMEOUT,
            },
        );
        let http = http::serve_http(connections, pages, http::HEADER_READ_TIMEOUT, stop.clone());
        let routes = grpc_routes(&deps)?.add_service(health).into_axum_router();
        let memory = RequestMemoryLimiter::new(deps.request_memory.clone(), deps.limits.max_request_bytes);
        let (further_grpc, further_kafka): (Vec<_>, Vec<_>) = self
            .further
            .into_iter()
            .partition(|(listener, _)| listener.protocol == ListenerProtocol::Grpc);
        let mut grpc = Vec::with_capacity(1 + further_grpc.len());
        for (listener, certificate, socket) in grpc_listeners(self.grpc, further_grpc, &tls, own_address) {
            let security = connection_security(certificate, &deps.metrics)?;
            let traffic = deps.metrics.listener_traffic(&listener.name);
            let guarded = guarded_routes(&routes, &deps, listener, memory.clone());
            grpc.push(serve_grpc(
                socket,
                (security, traffic),
                guarded,
                &deps,
                stop.clone(),
            ));
        }
        let kafka = kafka_listeners(self.kafka, further_kafka, &tls).into_iter();
        let kafka = kafka.map(|listener| serve_kafka(listener, &deps, stop.clone()));
        let served = async {
            let http = async { Ok(http.await?) };
            tokio::try_join!(try_join_all(grpc), http, try_join_all(kafka)).map(drop)
        };
        tokio::select! {
            _ = follow => Ok(()),
            served = served => served,
        }
    }
}

/// Returns every gRPC listener with its certificate and socket, the built-in one first.
fn grpc_listeners<'a>(
    builtin: TcpListener,
    further: Vec<(FurtherListener, TcpListener)>,
    tls: &'a ListenerCertificates,
    own_address: &str,
) -> Vec<(ClientListener, Option<&'a Arc<ListenerCertificate>>, TcpListener)> {
    let listener = |name: &str, answers| ClientListener {
        name: name.into(),
        answers,
        own_address: own_address.into(),
    };
    let grpc = tls.certificate(ListenerKind::Grpc);
    let name = ListenerKind::Grpc.name();
    let mut all = vec![(listener(name, AddressAnswers::Advertised), grpc, builtin)];
    for (further, socket) in further {
        let certificate = further_certificate(&further, grpc, tls);
        all.push((listener(&further.name, further.answers), certificate, socket));
    }
    all
}

/// Returns the gRPC routes of one listener, which bound the memory of requests, mark each call with
/// its listener and its client, and count and trace it.
fn guarded_routes(
    routes: &Router,
    deps: &Arc<ServerDeps>,
    listener: ClientListener,
    memory: RequestMemoryLimiter,
) -> Router {
    let (metrics, traces) = (deps.metrics.clone(), deps.traces.clone());
    let (security, clock) = (deps.security.clone(), deps.clock.clone());
    let authenticate = from_fn(move |request, next| {
        authentication::authenticate_call(security.clone(), clock.clone(), request, next)
    });
    routes
        .clone()
        .layer(authenticate)
        .layer(from_fn(move |request: Request, next| {
            let origin = CallOrigin::new(&listener, request.uri(), request.headers());
            let mut request = request.map(|body| memory.limit_body(body));
            request.extensions_mut().insert(origin);
            guard::guard_call(metrics.clone(), traces.clone(), request, next)
        }))
}

/// Serves one gRPC listener until `stop` resolves and its calls in flight have ended.
async fn serve_grpc(
    socket: TcpListener,
    (security, traffic): (Option<ConnectionSecurity>, ListenerTraffic),
    routes: Router,
    deps: &ServerDeps,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let policy = ConnectionPolicy {
        limit: deps.limits.max_connections,
        limit_per_address: deps.limits.max_connections_per_address,
        open_connections: deps.metrics.connections.clone(),
        traffic,
        security,
        preface_bytes: HTTP2_PREFACE_BYTES,
        handshake_timeout: HANDSHAKE_TIMEOUT,
    };
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(u32::try_from(MAX_CALLS_PER_CONNECTION)?)
        .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .http2_max_header_list_size(MAX_HEADER_LIST_BYTES)
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(connections::accept(socket, policy), stop)
        .await?;
    Ok(())
}

/// Returns the certificate of a further listener; `builtin` is that of its protocol's built-in one.
fn further_certificate<'a>(
    listener: &FurtherListener,
    builtin: Option<&'a Arc<ListenerCertificate>>,
    tls: &'a ListenerCertificates,
) -> Option<&'a Arc<ListenerCertificate>> {
    match listener.tls {
        FurtherListenerTls::Off => None,
        FurtherListenerTls::Own => tls.named_certificate(&listener.name),
        FurtherListenerTls::AsBuiltIn => builtin,
    }
}

/// A Kafka listener that is served.
struct KafkaListener<'a> {
    name: String,
    /// Those that it answers with.
    addresses: BrokerAddresses,
    certificate: Option<&'a Arc<ListenerCertificate>>,
    socket: TcpListener,
}

/// Returns every Kafka listener, the built-in one first if there is one.
fn kafka_listeners(
    builtin: Option<TcpListener>,
    further: Vec<(FurtherListener, TcpListener)>,
    tls: &ListenerCertificates,
) -> Vec<KafkaListener<'_>> {
    let certificate = tls.certificate(ListenerKind::Kafka);
    let builtin = builtin.map(|socket| KafkaListener {
        name: ListenerKind::Kafka.name().to_owned(),
        addresses: BrokerAddresses::default(),
        certificate,
        socket,
    });
    let further = further.into_iter().map(|(listener, socket)| {
        let addresses = match &listener.answers {
            AddressAnswers::Listed(book) => BrokerAddresses::listed(book.clone(), &listener.name),
            AddressAnswers::Advertised | AddressAnswers::ClientAuthority => BrokerAddresses::default(),
        };
        KafkaListener {
            addresses,
            certificate: further_certificate(&listener, certificate, tls),
            name: listener.name,
            socket,
        }
    });
    builtin.into_iter().chain(further).collect()
}

/// Serves one Kafka listener until `stop` resolves.
async fn serve_kafka(
    listener: KafkaListener<'_>,
    deps: &Arc<ServerDeps>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let KafkaListener {
        name,
        addresses,
        certificate,
        socket,
    } = listener;
    let policy = ConnectionPolicy {
        limit: deps.limits.max_connections,
        limit_per_address: deps.limits.max_connections_per_address,
        open_connections: deps.metrics.connections.clone(),
        traffic: deps.metrics.listener_traffic(&name),
        security: connection_security(certificate, &deps.metrics)?,
        preface_bytes: KAFKA_PREFACE_BYTES,
        handshake_timeout: HANDSHAKE_TIMEOUT,
    };
    let connections = connections::accept(socket, policy);
    kafka::serve(connections, deps.kafka.clone(), addresses, stop).await;
    Ok(())
}

/// Follows the listeners file, if there is one; never returns.
async fn follow_listeners_file(file: Option<ListenersFileReader>) {
    match file {
        Some(file) => file.reload_periodically(listeners::RELOAD_INTERVAL).await,
        None => std::future::pending().await,
    }
}

/// Returns the routes of the HTTP port, with the console if it is enabled.
fn http_router(deps: &Arc<ServerDeps>, bound: SocketAddr, is_secure: bool) -> Router {
    let pages = http::status_router(deps.clone());
    match &deps.console {
        Some(console) => pages.merge(console::router(
            console.clone(),
            bound.ip().is_loopback(),
            is_secure,
        )),
        None => pages,
    }
}

/// Returns the TLS of a listener, if it has a certificate.
fn connection_security(
    certificate: Option<&Arc<ListenerCertificate>>,
    metrics: &AgentMetrics,
) -> Result<Option<ConnectionSecurity>, TlsError> {
    let Some(certificate) = certificate else {
        return Ok(None);
    };
    Ok(Some(ConnectionSecurity {
        acceptor: certificate.acceptor()?,
        failures: metrics.handshake_error_counter(certificate.name()),
    }))
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
        GroupServiceServer::new(ForwardingGroupService::new(deps.clone())).max_decoding_message_size(largest),
    )
    .add_service(SecurityServiceServer::new(AgentSecurityService::new(
        deps.clone(),
    )))
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
            "streamhouse.v1.SecurityService",
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
