//! A client's authentication by SASL, message by message.

use std::{net::IpAddr, sync::Arc};

use streamhouse_core::{
    Error, ErrorCode,
    security::{
        OAUTH_INVALID_TOKEN, OAuthBearerMessage, PlainMessage, ScramChallenge, ScramError, ScramMechanism,
        ScramServer,
    },
    settings::SaslMechanism,
};

use tokio::time::Instant;

use super::{ClientIdentity, ClientSecurity};
use crate::metrics::AuthenticationOutcome;

/// An exchange that has begun.
#[derive(Debug)]
pub struct SaslExchange {
    security: Arc<ClientSecurity>,
    mechanism: SaslMechanism,
    host: Option<IpAddr>,
    challenge: Option<Box<ScramChallenge>>,
    /// The token was refused; the client has to acknowledge that.
    is_refused: bool,
}

/// What follows from a client's message.
#[derive(Debug)]
pub enum SaslProgress {
    /// The client gets this message, and sends another one.
    Continue(SaslExchange, Vec<u8>),
    /// The client has authenticated, and gets this message.
    Done(ClientIdentity, Vec<u8>),
}

impl SaslExchange {
    /// Begins an exchange; `None` if the mechanism is not offered.
    pub fn begin(security: &Arc<ClientSecurity>, mechanism: &str, host: Option<IpAddr>) -> Option<Self> {
        let mut offered = security.mechanisms.iter();
        let mechanism = *offered.find(|offered| offered.name() == mechanism)?;
        Some(Self {
            security: security.clone(),
            mechanism,
            host,
            challenge: None,
            is_refused: false,
        })
    }

    /// Returns the mechanism of the exchange.
    pub fn mechanism(&self) -> SaslMechanism {
        self.mechanism
    }

    /// Takes a client's message. An exchange that fails cannot go on.
    ///
    /// # Errors
    /// `SaslAuthenticationFailed` if the client has not proven who it is, `ResourceExhausted` if it
    /// failed too often, `MetadataUnavailable` before the users are known.
    pub async fn respond(self, message: &[u8]) -> Result<SaslProgress, Error> {
        match self.mechanism {
            SaslMechanism::Plain => self.plain(message).await,
            SaslMechanism::ScramSha256 => self.scram(ScramMechanism::Sha256, message),
            SaslMechanism::ScramSha512 => self.scram(ScramMechanism::Sha512, message),
            SaslMechanism::OAuthBearer => self.oauth(message).await,
        }
    }

    async fn plain(self, message: &[u8]) -> Result<SaslProgress, Error> {
        let malformed = |problem: &dyn std::fmt::Display| {
            let message = format!("the message of PLAIN is malformed: {problem}");
            Error::new(ErrorCode::SaslAuthenticationFailed, message)
        };
        let sent = PlainMessage::read(message).map_err(|problem| malformed(&problem))?;
        let identity = self
            .security
            .verify_password(sent.user(), sent.password(), self.host)
            .await?;
        Ok(SaslProgress::Done(identity, Vec::new()))
    }

    /// A token that is refused is answered twice, as RFC 7628 and Kafka do it: with the reason as
    /// JSON, and when the client has acknowledged that, with the end of the exchange.
    async fn oauth(mut self, message: &[u8]) -> Result<SaslProgress, Error> {
        let failed = |message: String| Error::new(ErrorCode::SaslAuthenticationFailed, message);
        if self.is_refused {
            return Err(failed(OAUTH_INVALID_TOKEN.to_owned()));
        }
        let sent = OAuthBearerMessage::read(message).map_err(|problem| failed(problem.to_string()))?;
        let verified = self
            .security
            .verify_token(sent.token(), sent.authorization_id(), self.host);
        match verified.await {
            Ok(identity) => Ok(SaslProgress::Done(identity, Vec::new())),
            Err(error) if error.code() == ErrorCode::SaslAuthenticationFailed => {
                self.is_refused = true;
                Ok(SaslProgress::Continue(self, OAUTH_INVALID_TOKEN.into()))
            }
            Err(error) => Err(error),
        }
    }

    fn scram(mut self, mechanism: ScramMechanism, message: &[u8]) -> Result<SaslProgress, Error> {
        let security = self.security.clone();
        security.failures.check(self.host, Instant::now())?;
        let Some(challenge) = self.challenge.take() else {
            let begun =
                ScramServer::begin(mechanism, message).map_err(|problem| self.refuse("", &problem))?;
            let view = security.loaded()?;
            let credential = view.credential(begun.user(), mechanism);
            let challenge = begun.challenge(
                credential,
                &security.keys.load().decoys,
                security.entropy.as_ref(),
            );
            let answer = challenge.message().as_bytes().to_vec();
            self.challenge = Some(Box::new(challenge));
            return Ok(SaslProgress::Continue(self, answer));
        };
        let user = challenge.user().to_owned();
        let proven = challenge
            .verify(message)
            .map_err(|problem| self.refuse(&user, &problem))?;
        let answer = proven.message().as_bytes().to_vec();
        let identity = ClientIdentity::proven(&user, proven.into_credential())?;
        // The credential of the challenge may have been deleted or replaced since.
        if !security.is_current(&identity) {
            return Err(self.refuse(&user, &ScramError::InvalidProof));
        }
        security
            .metrics
            .security
            .record_authentication(self.mechanism.name(), AuthenticationOutcome::Ok);
        Ok(SaslProgress::Done(identity, answer))
    }

    fn refuse(&self, user: &str, problem: &ScramError) -> Error {
        self.security.failures.count(self.host, Instant::now());
        self.security
            .refuse(self.mechanism, user, self.host, &problem.to_string())
    }
}
