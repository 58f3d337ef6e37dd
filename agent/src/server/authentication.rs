//! Authenticates each gRPC call before a handler sees it, and attaches to it what its client may
//! do. Only health checks need no authentication.

use std::{net::IpAddr, sync::Arc};

use axum::{extract::Request, middleware::Next, response::Response};
use streamhouse_core::{Error, time::Clock};
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
        Ok(access) => {
            request.extensions_mut().insert(access);
            next.run(request).await
        }
        Err(error) => Status::from(error).into_http(),
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
