//! Authentication of connections by SASL, as Kafka's brokers serve it: SaslHandshake names the
//! mechanism, SaslAuthenticate carries its messages. After version 0 of SaslHandshake the messages
//! are frames of their own, without a header.
//!
//! `dispatch` asks [`SaslConnection::admit`] for every request: before its client has
//! authenticated, a connection is served nothing but this and ApiVersions. An exchange that fails
//! ends its connection after the answer. An authenticated connection may authenticate again as the
//! same principal (KIP-368).

use std::{io, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        ApiKey, ApiVersionsResponse, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
        SaslHandshakeResponse,
    },
    settings::SaslMechanism,
};
use tokio::time::Instant;

use super::{
    frame::RequestFrame,
    limits::MIN_REAUTHENTICATION_INTERVAL,
    request::{KafkaAnswer, KafkaClient, RequestContext, encoded},
};
use crate::security::{ClientSecurity, SaslExchange, SaslProgress};

const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const ILLEGAL_SASL_STATE: i16 = 34;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// The authentication of one connection.
#[derive(Debug)]
pub(super) struct SaslConnection(Mutex<SaslStage>);

/// Where the authentication of a connection stands.
#[derive(Debug)]
enum SaslStage {
    /// Clients do not authenticate.
    NotRequired,
    /// The client has to begin an exchange.
    Required,
    /// The next frame belongs to the exchange.
    Exchanging(RunningExchange),
    /// A message of the exchange is being verified, or was refused.
    Closed,
    Authenticated(FinishedExchange),
}

/// An exchange whose next message is awaited.
#[derive(Debug)]
struct RunningExchange {
    exchange: SaslExchange,
    mechanism: SaslMechanism,
    framing: TokenFraming,
    /// Of a connection that authenticates again.
    former: Option<FinishedExchange>,
}

/// How the messages of an exchange arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenFraming {
    /// In SaslAuthenticate requests.
    Request,
    /// As frames of their own.
    Raw,
}

/// An exchange by which the client has authenticated.
#[derive(Debug, Clone, Copy)]
struct FinishedExchange {
    mechanism: SaslMechanism,
    ended_at: Instant,
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
            SaslStage::Required | SaslStage::Closed => false,
        }
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
    fn begin(&self, client: &KafkaClient, mechanism: &str, framing: TokenFraming) -> Result<(), i16> {
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
        let security = &client.deps.security;
        let mut offered = security.mechanisms().iter();
        let named = offered.find(|offered| offered.name() == mechanism);
        let begun = SaslExchange::begin(security, mechanism, client.host);
        let (Some(mechanism), Some(exchange)) = (named, begun) else {
            *stage = SaslStage::Closed;
            return Err(UNSUPPORTED_SASL_MECHANISM);
        };
        *stage = SaslStage::Exchanging(RunningExchange {
            exchange,
            mechanism: *mechanism,
            framing,
            former,
        });
        Ok(())
    }

    /// Takes the exchange, whose client has sent a message.
    fn take_exchange(&self) -> Option<RunningExchange> {
        let mut stage = self.0.lock();
        if !matches!(&*stage, SaslStage::Exchanging(_)) {
            return None;
        }
        match std::mem::replace(&mut *stage, SaslStage::Closed) {
            SaslStage::Exchanging(running) => Some(running),
            _ => None,
        }
    }

    fn set(&self, stage: SaslStage) {
        *self.0.lock() = stage;
    }
}

/// Verifies a client's message. Returns the message that the client gets.
///
/// # Errors
/// `SaslAuthenticationFailed` is for the client; after other errors it may try again.
async fn advance(client: &KafkaClient, running: RunningExchange, message: &[u8]) -> Result<Vec<u8>, Error> {
    let RunningExchange {
        exchange,
        mechanism,
        framing,
        former,
    } = running;
    if let Some(former) = former.filter(|former| former.mechanism != mechanism) {
        let (old, new) = (former.mechanism.name(), mechanism.name());
        return Err(failed(format!(
            "a connection that authenticates again keeps its mechanism, {old}, and does not take {new}"
        )));
    }
    match exchange.respond(message).await? {
        SaslProgress::Continue(exchange, answer) => {
            client.sasl.set(SaslStage::Exchanging(RunningExchange {
                exchange,
                mechanism,
                framing,
                former,
            }));
            Ok(answer)
        }
        SaslProgress::Done(identity, answer) => {
            let known = client.access();
            if former.is_some() && known.principal() != identity.principal() {
                return Err(failed(format!(
                    "a connection that authenticates again remains one of {}",
                    known.principal()
                )));
            }
            client.replace_access(client.deps.security.access(identity, client.host));
            client.sasl.set(SaslStage::Authenticated(FinishedExchange {
                mechanism,
                ended_at: Instant::now(),
            }));
            Ok(answer)
        }
    }
}

fn failed(message: String) -> Error {
    Error::new(ErrorCode::SaslAuthenticationFailed, message)
}

/// Serves SaslHandshake.
pub(super) async fn handshake(
    context: RequestContext,
    request: SaslHandshakeRequest,
    correlation_id: i32,
) -> KafkaAnswer {
    let client = &context.client;
    let framing = match context.version {
        0 => TokenFraming::Raw,
        _ => TokenFraming::Request,
    };
    let begun = client.sasl.begin(client, &request.mechanism, framing);
    let error_code = begun.err().unwrap_or(0);
    let offered = client.deps.security.mechanisms().iter();
    let response = SaslHandshakeResponse {
        error_code,
        mechanisms: match error_code {
            ILLEGAL_SASL_STATE => Vec::new(),
            _ => offered.map(|mechanism| mechanism.name().to_owned()).collect(),
        },
    };
    KafkaAnswer {
        close: error_code == UNSUPPORTED_SASL_MECHANISM,
        ..encoded(&response, ApiKey::SaslHandshake, context.version, correlation_id)
    }
}

/// Serves SaslAuthenticate.
pub(super) async fn authenticate(
    context: RequestContext,
    request: SaslAuthenticateRequest,
    correlation_id: i32,
) -> KafkaAnswer {
    let client = &context.client;
    let mut response = SaslAuthenticateResponse::default();
    let mut close = false;
    match client.sasl.take_exchange() {
        None => {
            response.error_code = ILLEGAL_SASL_STATE;
            response.error_message =
                Some("SaslAuthenticate is for connections that have begun to authenticate".to_owned());
        }
        Some(running) => match advance(client, running, request.auth_bytes.expose()).await {
            Ok(answer) => response.auth_bytes = answer.into(),
            Err(error) if error.code() == ErrorCode::SaslAuthenticationFailed => {
                response.error_code = SASL_AUTHENTICATION_FAILED;
                response.error_message = Some(error.message().to_owned());
                close = true;
            }
            // Clients take every code for a wrong password, and try again without one.
            Err(error) => return closed(client, &error),
        },
    }
    let answer = encoded(
        &response,
        ApiKey::SaslAuthenticate,
        context.version,
        correlation_id,
    );
    KafkaAnswer { close, ..answer }
}

/// Serves a message of an exchange that has no header.
pub(super) async fn raw_token(client: Arc<KafkaClient>, frame: RequestFrame) -> KafkaAnswer {
    let Some(running) = client.sasl.take_exchange() else {
        return KafkaAnswer::close();
    };
    match advance(&client, running, &frame.bytes).await {
        Ok(answer) => {
            let length = i32::try_from(answer.len()).unwrap_or(i32::MAX);
            KafkaAnswer {
                buffers: vec![Bytes::copy_from_slice(&length.to_be_bytes()), answer.into()],
                ..KafkaAnswer::default()
            }
        }
        Err(error) => closed(&client, &error),
    }
}

fn closed(client: &KafkaClient, error: &Error) -> KafkaAnswer {
    tracing::debug!(%error, client = ?client.host, "a Kafka client has not authenticated");
    KafkaAnswer::close()
}

/// Answers a request that does not belong into an exchange.
pub(super) fn refuse_state(key: ApiKey, version: i16, correlation_id: i32) -> KafkaAnswer {
    let answer = match key {
        ApiKey::SaslHandshake => {
            let response = SaslHandshakeResponse {
                error_code: ILLEGAL_SASL_STATE,
                ..SaslHandshakeResponse::default()
            };
            encoded(&response, key, version, correlation_id)
        }
        _ => {
            let response = ApiVersionsResponse {
                error_code: ILLEGAL_SASL_STATE,
                ..ApiVersionsResponse::default()
            };
            encoded(&response, ApiKey::ApiVersions, version, correlation_id)
        }
    };
    KafkaAnswer {
        close: true,
        ..answer
    }
}
