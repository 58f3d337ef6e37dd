//! Authentication of connections by SASL, as Kafka's brokers serve it: SaslHandshake names the
//! mechanism, SaslAuthenticate carries its messages. After version 0 of SaslHandshake the messages
//! are frames of their own, without a header.
//!
//! `dispatch` asks `SaslConnection` for every request: before its client has
//! authenticated, a connection is served nothing but this and ApiVersions. An exchange that fails
//! ends its connection after the answer. An authenticated connection may authenticate again as the
//! same principal (KIP-368).

use std::sync::Arc;

use bytes::Bytes;
use streamhouse_core::{
    Error, ErrorCode,
    kafka::{
        ApiKey, ApiVersionsResponse, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
        SaslHandshakeResponse,
    },
};
use tokio::time::{Instant, sleep};

use super::{
    error::UNSUPPORTED_SASL_MECHANISM,
    frame::RequestFrame,
    limits::FAILED_AUTHENTICATION_DELAY,
    request::{KafkaAnswer, KafkaClient, RequestContext, encoded},
    sasl_stage::{FinishedExchange, ILLEGAL_SASL_STATE, RunningExchange, SaslStage, TokenFraming},
};
use crate::security::SaslProgress;

const SASL_AUTHENTICATION_FAILED: i16 = 58;

/// Verifies a client's message. Returns the message that the client gets.
///
/// # Errors
/// `SaslAuthenticationFailed` is for the client; after other errors it may try again.
async fn advance(client: &KafkaClient, running: RunningExchange, message: &[u8]) -> Result<Vec<u8>, Error> {
    let RunningExchange {
        exchange,
        framing,
        former,
    } = running;
    let mechanism = exchange.mechanism();
    if let Some(former) = former.filter(|former| former.mechanism != mechanism) {
        let (old, new) = (former.mechanism.name(), mechanism.name());
        return Err(failed(format!(
            "a connection that authenticates again keeps its mechanism, {old}, and does not take {new}"
        )));
    }
    match exchange.respond(message).await? {
        SaslProgress::Continue(exchange, answer) => {
            client.sasl.set(SaslStage::Exchanging(Box::new(RunningExchange {
                exchange,
                framing,
                former,
            })));
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

/// Returns when a client that has just authenticated has to do so again, in milliseconds; 0 for
/// never, and while the exchange goes on.
fn session_lifetime_ms(client: &KafkaClient) -> i64 {
    if !client.sasl.is_authenticated() {
        return 0;
    }
    let remaining = client.access().remaining_session();
    remaining.map_or(0, |remaining| {
        i64::try_from(remaining.as_millis()).unwrap_or(i64::MAX).max(1)
    })
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
    let begun = client
        .sasl
        .begin((&client.deps.security, client.host), &request.mechanism, framing);
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
            Ok(answer) => {
                response.auth_bytes = answer.into();
                response.session_lifetime_ms = session_lifetime_ms(client);
            }
            Err(error) if error.code() == ErrorCode::SaslAuthenticationFailed => {
                sleep(FAILED_AUTHENTICATION_DELAY).await;
                response.error_code = SASL_AUTHENTICATION_FAILED;
                response.error_message = Some(error.message().to_owned());
                close = true;
            }
            // Clients take every code for a wrong password, and try again without one.
            Err(error) => return closed(client, &error).await,
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
        Err(error) => closed(&client, &error).await,
    }
}

async fn closed(client: &KafkaClient, error: &Error) -> KafkaAnswer {
    sleep(FAILED_AUTHENTICATION_DELAY).await;
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
