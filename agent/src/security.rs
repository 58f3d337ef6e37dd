//! Who clients are and what they may do, for all listeners: the users, ACLs and quotas of the
//! newest snapshot, and what is decided by them.
//!
//! Listeners authenticate a client once and give each of its requests a [`ClientAccess`], which
//! handlers ask before they act. Without `--authentication` every client is `User:ANONYMOUS`;
//! without `--authorization` every principal may do everything.
//!
//! Guarantees: passwords are compared in constant time and never kept; what unauthenticated clients
//! may cost is bounded; a change in the metadata store takes effect with the next request of a
//! client once this agent has read it, which takes it a second.

mod access;
mod agent_token;
mod cluster_keys;
mod failures;
mod follow;
mod http_authorization;
mod oauth;
mod passwords;
mod quotas;
mod sasl;
mod sessions;
mod snapshot;
mod tokens;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use axum::http::HeaderMap;
use streamhouse_core::{
    Error, ErrorCode,
    security::{KafkaPrincipal, ScramCredential, ScramMechanism},
    settings::{AgentSettings, AuthorizationMode, SaslMechanism},
    time::Entropy,
};
use streamhouse_metadata::{AgentSecret, SecuritySnapshot};
use tokio::{sync::watch, time::Instant};

pub use self::{
    access::{ClientAccess, ClientIdentity},
    follow::{catch_up, follow_agent_secret, follow_changes},
    http_authorization::AGENT_SCHEME,
    oauth::OAuthFileError,
    sasl::{SaslExchange, SaslProgress},
    sessions::MAX_AGE as SESSION_MAX_AGE,
    snapshot::SecurityView,
    tokens::follow_token_keys,
};
use self::{
    agent_token::{AgentTokens, ForwardedCaller, TokenProblem},
    cluster_keys::ClusterKeys,
    failures::FailureLimiter,
    http_authorization::CallCredentials,
    oauth::OAuthVerifier,
    passwords::PasswordVerifier,
    quotas::QuotaBuckets,
};
use crate::metrics::{AgentMetrics, AuthenticationOutcome};

/// Authenticates clients, and decides what they may do.
#[derive(Debug)]
pub struct ClientSecurity {
    /// Empty if clients do not authenticate.
    mechanisms: Vec<SaslMechanism>,
    authorization: AuthorizationMode,
    /// Clients do not authenticate, and no setting says that it is intended.
    is_open: bool,
    super_users: Vec<KafkaPrincipal>,
    /// `None` until the first snapshot is loaded.
    view: ArcSwapOption<SecurityView>,
    /// The version of the snapshot in force; 0 before the first one.
    version: watch::Sender<i64>,
    keys: ArcSwap<ClusterKeys>,
    passwords: PasswordVerifier,
    failures: FailureLimiter,
    agents: AgentTokens,
    /// Set before anything is served if clients may authenticate by tokens.
    tokens: OnceLock<Arc<OAuthVerifier>>,
    quotas: QuotaBuckets,
    entropy: Arc<dyn Entropy>,
    metrics: Arc<AgentMetrics>,
}

/// A call whose client is known.
#[derive(Debug)]
pub struct AuthenticatedCall {
    /// What the client may do.
    pub access: ClientAccess,
    /// Whether another agent has forwarded the call.
    pub is_forwarded: bool,
}

impl ClientSecurity {
    /// Creates the security of an agent with these settings. Nobody can authenticate before the
    /// first snapshot.
    pub fn new(settings: &AgentSettings, entropy: Arc<dyn Entropy>, metrics: Arc<AgentMetrics>) -> Self {
        let new_key = || -> Vec<u8> { (0..8).flat_map(|_| entropy.next_u64().to_be_bytes()).collect() };
        let security = Self {
            mechanisms: settings.authentication.clone(),
            authorization: settings.authorization,
            is_open: settings.authentication.is_empty() && !settings.allow_unauthenticated,
            super_users: settings.super_users.clone(),
            view: ArcSwapOption::default(),
            version: watch::Sender::new(0),
            keys: ArcSwap::from_pointee(ClusterKeys::derive(&new_key())),
            passwords: PasswordVerifier::new(&new_key()),
            failures: FailureLimiter::default(),
            agents: AgentTokens::default(),
            tokens: OnceLock::new(),
            quotas: QuotaBuckets::default(),
            entropy,
            metrics,
        };
        security.warn_if_open();
        security
    }

    /// Returns whether clients must authenticate.
    pub fn is_authentication_required(&self) -> bool {
        !self.mechanisms.is_empty()
    }

    /// Says at the start that everybody may do everything, unless a setting says so already.
    fn warn_if_open(&self) {
        self.metrics.security.set_unauthenticated_access(self.is_open);
        if self.is_open {
            tracing::warn!(
                "authentication is off: whoever reaches this agent may read, write and delete everything; see the settings \
                authentication and allow-unauthenticated"
            );
        }
    }

    /// Returns what people should know of the security of an agent that is ready.
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self.is_open {
            warnings.push("authentication is off: whoever reaches this agent may do everything");
        } else if self.is_authentication_required() && !self.is_authorization_on() {
            warnings.push("authorization is off: every user may do everything");
        }
        warnings
    }

    /// Returns whether ACLs decide what clients may do.
    pub fn is_authorization_on(&self) -> bool {
        self.authorization == AuthorizationMode::Acl
    }

    /// Returns the mechanisms by which clients may authenticate.
    pub fn mechanisms(&self) -> &[SaslMechanism] {
        &self.mechanisms
    }

    /// Returns the access of a client that does not have to authenticate.
    pub fn anonymous(self: &Arc<Self>, host: Option<IpAddr>) -> ClientAccess {
        self.access(ClientIdentity::anonymous(), host)
    }

    /// Returns the access of a client with this identity.
    pub fn access(self: &Arc<Self>, identity: ClientIdentity, host: Option<IpAddr>) -> ClientAccess {
        ClientAccess::new(self.clone(), identity, host)
    }

    /// Returns the version of the snapshot in force; 0 before the first one.
    pub fn version(&self) -> i64 {
        *self.version.borrow()
    }

    /// Replaces the snapshot.
    pub fn replace(&self, snapshot: SecuritySnapshot) {
        let view = SecurityView::new(snapshot, &self.super_users);
        let version = view.version();
        self.view.store(Some(Arc::new(view)));
        self.version.send_replace(version);
    }

    /// Returns the snapshot in force; `None` before the first one.
    pub fn view(&self) -> Option<Arc<SecurityView>> {
        self.view.load_full()
    }

    /// Returns the snapshot in force.
    ///
    /// # Errors
    /// `MetadataUnavailable` before the first one.
    pub fn loaded(&self) -> Result<Arc<SecurityView>, Error> {
        self.view().ok_or_else(not_loaded)
    }

    /// Returns whether an identity still holds: its credential was not replaced or deleted since,
    /// or its token has not expired.
    pub fn is_current(&self, identity: &ClientIdentity) -> bool {
        if identity.is_expired() {
            return false;
        }
        let Some(proven) = identity.credential() else {
            return true;
        };
        let view = self.view.load();
        let stored = view
            .as_ref()
            .and_then(|view| view.credential(identity.principal().name(), proven.mechanism()));
        stored == Some(proven)
    }

    /// Verifies a user's password, as PLAIN and HTTP's Basic send it.
    ///
    /// # Errors
    /// `SaslAuthenticationFailed` if it is wrong or the user unknown, in the same words;
    /// `ResourceExhausted` if too many attempts failed or wait; `MetadataUnavailable` before the
    /// first snapshot.
    pub async fn verify_password(
        &self,
        user: &str,
        password: &str,
        host: Option<IpAddr>,
    ) -> Result<ClientIdentity, Error> {
        self.failures.check(host, Instant::now())?;
        if !self.mechanisms.iter().any(|mechanism| mechanism.is_by_password()) {
            let message = "clients of this cluster authenticate by tokens, not by passwords";
            return Err(Error::new(ErrorCode::SaslAuthenticationFailed, message));
        }
        let credential = self.password_credential(user)?;
        let known = credential.is_some();
        let credential =
            credential.unwrap_or_else(|| self.keys.load().decoys.credential(ScramMechanism::Sha256, user));
        // An attempt counts as failed until it has succeeded: who gives up meanwhile has made it.
        let mut is_counted = false;
        let admit = || {
            self.failures.check(host, Instant::now())?;
            self.failures.count(host, Instant::now());
            is_counted = true;
            Ok(())
        };
        let checked = self.passwords.is_right(&credential, user, password, admit);
        if !(checked.await? && known) {
            return Err(self.refuse(SaslMechanism::Plain, user, host, "wrong user or password"));
        }
        if is_counted {
            self.failures.forgive(host);
        }
        self.metrics
            .security
            .record_authentication(SaslMechanism::Plain.name(), AuthenticationOutcome::Ok);
        ClientIdentity::proven(user, credential)
    }

    /// Uses this secret for calls among agents from now on.
    pub fn set_agent_secret(&self, secret: &AgentSecret) {
        self.agents.set_secret(secret);
        self.keys.store(Arc::new(ClusterKeys::derive(secret.as_bytes())));
    }

    /// Returns the token by which this agent forwards calls of a client; `None` if there is nothing
    /// to vouch for, or before the agents' secret is known.
    pub fn agent_token(&self, access: &ClientAccess, now_ms: i64) -> Option<String> {
        if !self.is_authentication_required() {
            return None;
        }
        let caller = ForwardedCaller {
            principal: access.principal().clone(),
            host: access.host(),
        };
        self.agents.sign(&caller, now_ms)
    }

    /// Authenticates a call by its headers; `peer` is the address of the connection.
    ///
    /// # Errors
    /// As [`verify_password`](Self::verify_password), [`verify_token`](Self::verify_token) and
    /// [`verify_agent_token`](Self::verify_agent_token).
    pub async fn authenticate_call(
        self: &Arc<Self>,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
        now_ms: i64,
    ) -> Result<AuthenticatedCall, Error> {
        let identity = match CallCredentials::read(headers)? {
            CallCredentials::AgentToken(token) => {
                return Ok(AuthenticatedCall {
                    access: self.verify_agent_token(&token, peer, now_ms)?,
                    is_forwarded: true,
                });
            }
            CallCredentials::Password { user, password } => {
                self.verify_password(&user, &password, peer).await?
            }
            CallCredentials::Token(token) => self.verify_token(&token, "", peer).await?,
        };
        Ok(AuthenticatedCall {
            access: self.access(identity, peer),
            is_forwarded: false,
        })
    }

    /// Returns the client of a call that another agent forwards; `peer` is the address of the
    /// connection.
    ///
    /// # Errors
    /// `SaslAuthenticationFailed` if the token is not from an agent of this cluster or too old;
    /// `MetadataUnavailable` before the agents' secret is known.
    pub fn verify_agent_token(
        self: &Arc<Self>,
        token: &str,
        peer: Option<IpAddr>,
        now_ms: i64,
    ) -> Result<ClientAccess, Error> {
        match self.agents.verify(token, now_ms) {
            Ok(caller) => Ok(self.access(ClientIdentity::forwarded(caller.principal), caller.host)),
            Err(TokenProblem::NoSecret) => Err(not_loaded()),
            Err(problem) => {
                self.failures.count(peer, Instant::now());
                if self.failures.may_log(Instant::now()) {
                    tracing::warn!(client = ?peer, %problem, "a call that claims to be another agent's is refused");
                }
                Err(Error::new(
                    ErrorCode::SaslAuthenticationFailed,
                    problem.to_string(),
                ))
            }
        }
    }

    /// Returns a credential of a user by which its password is verified.
    fn password_credential(&self, user: &str) -> Result<Option<ScramCredential>, Error> {
        let view = self.loaded()?;
        let mut mechanisms = [ScramMechanism::Sha256, ScramMechanism::Sha512].into_iter();
        Ok(mechanisms.find_map(|mechanism| view.credential(user, mechanism).cloned()))
    }

    /// Logs a failed attempt, and returns the error that the client gets: it does not say whether
    /// the user exists.
    fn refuse(&self, mechanism: SaslMechanism, user: &str, host: Option<IpAddr>, problem: &str) -> Error {
        self.metrics
            .security
            .record_authentication(mechanism.name(), AuthenticationOutcome::Failed);
        if self.failures.may_log(Instant::now()) {
            let user: String = user.chars().take(100).collect();
            tracing::warn!(?user, client = ?host, mechanism = mechanism.name(), problem, "an authentication failed");
        }
        authentication_failed(mechanism)
    }
}

fn authentication_failed(mechanism: SaslMechanism) -> Error {
    let message = format!(
        "authentication failed: wrong user or password for {}",
        mechanism.name()
    );
    Error::new(ErrorCode::SaslAuthenticationFailed, message)
}

/// The error before the first snapshot.
fn not_loaded() -> Error {
    let message = "this agent has not read the users and ACLs yet";
    Error::new(ErrorCode::MetadataUnavailable, message).with_retry_after_ms(500)
}

#[cfg(test)]
mod tests;
