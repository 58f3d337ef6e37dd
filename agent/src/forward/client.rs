//! On whose behalf this agent makes a call at another one, and the headers that say so.

use axum::http::header::AUTHORIZATION;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

use super::PeerForwarder;
use crate::{
    listeners::FORWARDED_HEADER,
    security::{AGENT_SCHEME, ClientAccess},
};

/// Headers that say who the client is. Debug output leaves the token out: it is marked sensitive.
#[derive(Debug, Clone)]
pub(super) struct ClientHeaders {
    address: MetadataValue<Ascii>,
    token: Option<MetadataValue<Ascii>>,
}

impl PeerForwarder {
    /// Returns the headers of a call that is made now for a client.
    pub(super) fn client_headers(&self, access: &ClientAccess) -> ClientHeaders {
        let address = access.host().map(|address| address.to_string());
        let address = address.and_then(|address| MetadataValue::try_from(address).ok());
        let token = self.deps.security.agent_token(access, self.deps.clock.now_ms());
        let token = token.and_then(|token| MetadataValue::try_from(format!("{AGENT_SCHEME} {token}")).ok());
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
