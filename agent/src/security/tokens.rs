//! Authenticates clients by tokens of an identity provider, for every listener.

use std::{net::IpAddr, sync::Arc};

use streamhouse_core::{
    Error, ErrorCode,
    settings::{AgentSettings, SaslMechanism},
    time::Clock,
};
use tokio::time::{Duration, Instant};

use super::{
    ClientIdentity, ClientSecurity,
    access::TokenLifetime,
    oauth::{OAuthFileError, OAuthVerifier, TokenRefusal},
};
use crate::metrics::AuthenticationOutcome;

/// How long a token may authenticate a connection, however late it expires.
const MAX_SESSION: Duration = Duration::from_secs(366 * 86_400);

impl ClientSecurity {
    /// Reads the OAuth file, if the settings name one.
    ///
    /// # Errors
    /// If it cannot be used.
    pub async fn load_tokens(
        &self,
        settings: &AgentSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<(), OAuthFileError> {
        if let Some(path) = &settings.oauth_file {
            let verifier = OAuthVerifier::load(path, clock, self.entropy.as_ref(), self.metrics.clone());
            let _ = self.tokens.set(verifier.await?);
        }
        Ok(())
    }

    /// Verifies a token, as OAUTHBEARER and HTTP's Bearer send it. The client may name whom it
    /// wants to act as, which can be nobody else.
    ///
    /// # Errors
    /// `SaslAuthenticationFailed` if it is refused, `ResourceExhausted` if too many were,
    /// `MetadataUnavailable` before the keys of the identity provider are known.
    pub async fn verify_token(
        &self,
        token: &str,
        authorization_id: &str,
        host: Option<IpAddr>,
    ) -> Result<ClientIdentity, Error> {
        self.failures.check(host, Instant::now())?;
        let Some(verifier) = self.tokens.get() else {
            let message = "this cluster does not accept tokens";
            return Err(Error::new(ErrorCode::SaslAuthenticationFailed, message));
        };
        let accepted = match verifier.verify(token).await {
            Ok(accepted) => accepted,
            Err(TokenRefusal::NoKeys) => return Err(keys_unknown()),
            Err(TokenRefusal::Token(problem)) => return Err(self.refuse_token(host, &problem.to_string())),
        };
        let principal = accepted.principal;
        if !authorization_id.is_empty() && authorization_id != principal.name() {
            return Err(self.refuse_token(host, "the authorization id is not the token's principal"));
        }
        self.metrics
            .security
            .record_authentication(SaslMechanism::OAuthBearer.name(), AuthenticationOutcome::Ok);
        let lifetime = TokenLifetime {
            valid_until: Instant::now() + accepted.remaining.min(MAX_SESSION),
            clock_skew: accepted.clock_skew,
        };
        Ok(ClientIdentity::by_token(principal, lifetime))
    }

    /// Counts and logs a refused token. No part of it is logged, for it may be valid elsewhere.
    fn refuse_token(&self, host: Option<IpAddr>, problem: &str) -> Error {
        let mechanism = SaslMechanism::OAuthBearer.name();
        self.failures.count(host, Instant::now());
        self.metrics
            .security
            .record_authentication(mechanism, AuthenticationOutcome::Failed);
        if self.failures.may_log(Instant::now()) {
            tracing::warn!(client = ?host, mechanism, problem, "an authentication failed");
        }
        let message = format!("authentication failed: {problem}");
        Error::new(ErrorCode::SaslAuthenticationFailed, message)
    }
}

/// The error before the keys were read.
fn keys_unknown() -> Error {
    let message = "this agent has not read the keys of the identity provider yet";
    Error::new(ErrorCode::MetadataUnavailable, message).with_retry_after_ms(1_000)
}

/// Follows the OAuth file and the keys of the identity provider. Runs until dropped; does nothing
/// if clients do not authenticate by tokens.
pub async fn follow_token_keys(security: Arc<ClientSecurity>) {
    match security.tokens.get() {
        Some(verifier) => verifier.follow().await,
        None => std::future::pending().await,
    }
}
