//! Where the authentication of a connection stands, and what it is served meanwhile.

use std::{io, net::IpAddr, sync::Arc};

use parking_lot::Mutex;
use streamhouse_core::{kafka::ApiKey, settings::SaslMechanism};
use tokio::time::Instant;

use super::{error::UNSUPPORTED_SASL_MECHANISM, limits::MIN_REAUTHENTICATION_INTERVAL};
use crate::security::{ClientSecurity, SaslExchange};

pub(super) const ILLEGAL_SASL_STATE: i16 = 34;

/// The authentication of one connection.
#[derive(Debug)]
pub(super) struct SaslConnection(Mutex<SaslStage>);

/// Where the authentication of a connection stands.
#[derive(Debug)]
pub(super) enum SaslStage {
    /// Clients do not authenticate.
    NotRequired,
    /// The client has to begin an exchange.
    Required,
    /// The next frame belongs to the exchange.
    Exchanging(Box<RunningExchange>),
    /// A message of the exchange is being verified, or was refused.
    Verifying {
        is_open: bool,
    },
    Authenticated(FinishedExchange),
}

/// An exchange whose next message is awaited.
#[derive(Debug)]
pub(super) struct RunningExchange {
    pub(super) exchange: SaslExchange,
    pub(super) framing: TokenFraming,
    /// Of a connection that authenticates again.
    pub(super) former: Option<FinishedExchange>,
}

/// How the messages of an exchange arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenFraming {
    /// In SaslAuthenticate requests.
    Request,
    /// As frames of their own.
    Raw,
}

/// An exchange by which the client has authenticated.
#[derive(Debug, Clone, Copy)]
pub(super) struct FinishedExchange {
    pub(super) mechanism: SaslMechanism,
    pub(super) ended_at: Instant,
}

/// What happens with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SaslAdmission {
    Serve,
    /// It is answered with ILLEGAL_SASL_STATE, and the connection ends.
    RefuseState,
}

impl SaslConnection {
    pub(super) fn new(security: &ClientSecurity) -> Self {
        Self(Mutex::new(match security.is_authentication_required() {
            true => SaslStage::Required,
            false => SaslStage::NotRequired,
        }))
    }

    /// Returns whether requests of the client are served.
    pub(super) fn is_open(&self) -> bool {
        match &*self.0.lock() {
            SaslStage::NotRequired | SaslStage::Authenticated(_) => true,
            SaslStage::Exchanging(running) => running.former.is_some(),
            SaslStage::Verifying { is_open } => *is_open,
            SaslStage::Required => false,
        }
    }

    /// Returns whether the client has authenticated, and no further exchange has begun.
    pub(super) fn is_authenticated(&self) -> bool {
        matches!(&*self.0.lock(), SaslStage::Authenticated(_))
    }

    /// Returns whether the next frame is a message of the exchange, without a header.
    pub(super) fn awaits_raw_token(&self) -> bool {
        let stage = self.0.lock();
        matches!(&*stage, SaslStage::Exchanging(running) if running.framing == TokenFraming::Raw)
    }

    /// Decides whether a request with this number of an API may be served now.
    ///
    /// # Errors
    /// If the connection must end without an answer.
    pub(super) fn admit(&self, api_key: i16) -> io::Result<SaslAdmission> {
        let key = ApiKey::from_number(api_key);
        match (&*self.0.lock(), key) {
            (SaslStage::NotRequired | SaslStage::Authenticated(_), _)
            | (SaslStage::Required, Some(ApiKey::ApiVersions | ApiKey::SaslHandshake))
            | (SaslStage::Exchanging(_), Some(ApiKey::SaslAuthenticate)) => Ok(SaslAdmission::Serve),
            (SaslStage::Exchanging(_), Some(ApiKey::ApiVersions | ApiKey::SaslHandshake)) => {
                Ok(SaslAdmission::RefuseState)
            }
            _ => {
                let message = format!("API {api_key} is not served before the client has authenticated");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
            }
        }
    }

    /// Begins an exchange. Returns the code if that cannot be.
    pub(super) fn begin(
        &self,
        (security, host): (&Arc<ClientSecurity>, Option<IpAddr>),
        mechanism: &str,
        framing: TokenFraming,
    ) -> Result<(), i16> {
        let mut stage = self.0.lock();
        let former = match &*stage {
            SaslStage::Required => None,
            SaslStage::Authenticated(former)
                if former.ended_at.elapsed() >= MIN_REAUTHENTICATION_INTERVAL =>
            {
                Some(*former)
            }
            _ => return Err(ILLEGAL_SASL_STATE),
        };
        let Some(exchange) = SaslExchange::begin(security, mechanism, host) else {
            *stage = SaslStage::Verifying { is_open: false };
            return Err(UNSUPPORTED_SASL_MECHANISM);
        };
        *stage = SaslStage::Exchanging(Box::new(RunningExchange {
            exchange,
            framing,
            former,
        }));
        Ok(())
    }

    /// Takes the exchange, whose client has sent a message.
    pub(super) fn take_exchange(&self) -> Option<RunningExchange> {
        let mut stage = self.0.lock();
        let SaslStage::Exchanging(running) = &*stage else {
            return None;
        };
        let is_open = running.former.is_some();
        match std::mem::replace(&mut *stage, SaslStage::Verifying { is_open }) {
            SaslStage::Exchanging(running) => Some(*running),
            _ => None,
        }
    }

    pub(super) fn set(&self, stage: SaslStage) {
        *self.0.lock() = stage;
    }
}
