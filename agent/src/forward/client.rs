//! On whose behalf this agent makes a call at another one, and the headers that say so.

use std::net::IpAddr;

use axum::http::header::AUTHORIZATION;
use tonic::{
    Request,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use super::PeerForwarder;
use crate::{
    listeners::FORWARDED_HEADER,
    security::{AGENT_SCHEME, ClientAccess},
};

/// The client of a call that is forwarded.
#[derive(Debug, Clone)]
pub struct ForwardedClient {
    address: Option<IpAddr>,
    /// `None` for calls that no listener has marked, which other agents refuse if clients
    /// authenticate.
    access: Option<ClientAccess>,
}

/// Headers that say who the client is. Debug output leaves the token out: it is marked sensitive.
#[derive(Debug, Clone)]
pub(super) struct ClientHeaders {
    address: MetadataValue<Ascii>,
    token: Option<MetadataValue<Ascii>>,
}

impl ForwardedClient {
    /// Returns the client of a call.
    pub fn of<T>(request: &Request<T>) -> Self {
        Self {
            address: request.remote_addr().map(|address| address.ip().to_canonical()),
            access: ClientAccess::of(request).ok(),
        }
    }
}

impl PeerForwarder {
    /// Returns the headers of a call that is made now.
    pub(super) fn client_headers(&self, client: &ForwardedClient) -> ClientHeaders {
        let address = client.address.map(|address| address.to_string());
        let address = address.and_then(|address| MetadataValue::try_from(address).ok());
        let deps = &self.deps;
        let token = client.access.as_ref().and_then(|access| {
            let now = deps.clock.now_ms();
            let token = deps.security.agent_token(access, &deps.agent_id, now)?;
            MetadataValue::try_from(format!("{AGENT_SCHEME} {token}")).ok()
        });
        ClientHeaders {
            address: address.unwrap_or(MetadataValue::from_static("unknown")),
            token: token.map(|mut token| {
                token.set_sensitive(true);
                token
            }),
        }
    }
}

impl ClientHeaders {
    /// Adds the headers to those of a call.
    pub(super) fn add_to(self, metadata: &mut MetadataMap) {
        metadata.insert(FORWARDED_HEADER, self.address);
        if let Some(token) = self.token {
            metadata.insert(AUTHORIZATION.as_str(), token);
        }
    }
}
