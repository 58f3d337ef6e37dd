//! Authenticates each gRPC call before a handler sees it, and attaches to it what its client may
//! do. Only health checks need no authentication.

use std::{
    future::{Future as _, poll_fn},
    net::IpAddr,
    sync::Arc,
};

use axum::{extract::Request, http::header::USER_AGENT, middleware::Next, response::Response};
use streamhouse_core::{Error, security::QuotaKey, time::Clock};
use tokio::time::{Duration, Instant, sleep};
use tonic::{Status, transport::server::TcpConnectInfo};

use crate::{
    listeners::CallOrigin,
    security::{ClientAccess, ClientSecurity},
};

/// Path of the service that is open to everybody: it says whether the agent is ready.
const HEALTH_SERVICE: &str = "/grpc.health.v1.Health/";

/// Runs a call if its client is known.
pub(super) async fn authenticate_call(
    security: Arc<ClientSecurity>,
    clock: Arc<dyn Clock>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.uri().path().starts_with(HEALTH_SERVICE) {
        return next.run(request).await;
    }
    match identify(&security, clock.as_ref(), &mut request).await {
        Ok(access) => run_within_quota(access.with_client_id(client_id(&request)), request, next).await,
        Err(error) => Status::from(error).into_http(),
    }
}

/// Runs a call of a client, later if its calls have taken longer than its quota allows. The time of
/// produce streams, which are one call, is not measured.
async fn run_within_quota(access: ClientAccess, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(access.clone());
    let origin = request.extensions().get::<CallOrigin>();
    let is_forwarded = origin.is_some_and(CallOrigin::is_forwarded);
    if is_forwarded || !access.has_quotas() {
        return next.run(request).await;
    }
    let (key, client_id) = (QuotaKey::RequestPercentage, access.client_id());
    let delay = access.throttle_time(key, client_id);
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let mut spent = Duration::ZERO;
    let mut answer = Box::pin(next.run(request));
    let response = poll_fn(|task| {
        let begun = Instant::now();
        let polled = answer.as_mut().poll(task);
        spent += begun.elapsed();
        polled
    })
    .await;
    access.record_use(key, client_id, spent.as_secs_f64() * 100.0);
    response
}

/// Returns the id by which the client of a call calls itself: the first word of its user agent, as
/// StreamHouse's client sends it.
fn client_id(request: &Request) -> &str {
    let agent = request.headers().get(USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    match agent.split_once(" streamhouse-client/") {
        Some((client_id, _)) => client_id,
        None => "",
    }
}

/// Returns the client of a call. Who is no agent has forwarded nothing, whatever the headers say.
async fn identify(
    security: &Arc<ClientSecurity>,
    clock: &dyn Clock,
    request: &mut Request,
) -> Result<ClientAccess, Error> {
    let peer = address_of(request);
    if !security.is_authentication_required() {
        return Ok(security.anonymous(peer));
    }
    let call = security.authenticate_call(request.headers(), peer, clock.now_ms());
    let call = call.await?;
    if let Some(origin) = request.extensions_mut().get_mut::<CallOrigin>() {
        origin.set_forwarded(call.is_forwarded.then(|| call.access.host()));
    }
    Ok(call.access)
}

fn address_of(request: &Request) -> Option<IpAddr> {
    let connection = request.extensions().get::<TcpConnectInfo>()?;
    Some(connection.remote_addr()?.ip().to_canonical())
}
