//! Verifies tokens by the keys of an identity provider, which are read again from time to time.
//!
//! The agent's own calls are few: the OAuth file is read every [`RELOAD_INTERVAL`], and with it
//! keys that are in a file; keys behind a URL every [`REFRESH_INTERVAL`], and when a token names a
//! key that is not known, at most once in [`MIN_REFRESH_INTERVAL`]. What was read last stays in use
//! while the file or the keys cannot be read.

mod fetch;
mod file;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use moka::sync::Cache;
use ring::hmac;
use streamhouse_core::{
    security::{JwkSet, KafkaPrincipal, MAX_TOKEN_BYTES, TokenError, TokenRules, VerifiedToken},
    time::{Clock, Entropy},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    time::{Duration, Instant, sleep},
};

pub use self::file::OAuthFileError;
use self::{
    fetch::KeyReader,
    file::{KeyLocation, OAuthConfig},
};
use crate::metrics::AgentMetrics;

/// Interval between two checks of the OAuth file, and of keys in a file.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// Interval between two requests for the keys.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// The shortest time between two requests for the keys.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Verified tokens that are remembered, and for how long.
const MAX_REMEMBERED: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// Verifies tokens.
#[derive(Debug)]
pub(super) struct OAuthVerifier {
    /// Of this process alone.
    digest_key: hmac::Key,
    clock: Arc<dyn Clock>,
    /// `None` until the keys were read.
    in_force: ArcSwapOption<TokenContext>,
    source: Arc<Mutex<KeySource>>,
    metrics: Arc<AgentMetrics>,
}

/// A token that is accepted.
#[derive(Debug)]
pub(super) struct AcceptedToken {
    /// Whom it was issued for.
    pub(super) principal: KafkaPrincipal,
    /// For how long it is accepted.
    pub(super) remaining: Duration,
    /// By how much that is longer than it is valid.
    pub(super) clock_skew: Duration,
}

/// Why a token is not accepted.
#[derive(Debug)]
pub(super) enum TokenRefusal {
    /// The keys were not read yet.
    NoKeys,
    Token(TokenError),
}

/// What decides about tokens, with what was decided by it.
#[derive(Debug)]
struct TokenContext {
    rules: TokenRules,
    keys: JwkSet,
    /// By a keyed hash of the token.
    verified: Cache<[u8; 32], VerifiedToken>,
}

/// Where the keys come from, and what was read last.
#[derive(Debug)]
struct KeySource {
    path: PathBuf,
    reader: KeyReader,
    /// The OAuth file as of the last check, so that each change is reported once.
    file: Result<Vec<u8>, OAuthFileError>,
    config: OAuthConfig,
    /// The keys in force.
    keys: Option<Vec<u8>>,
    /// When they were read last, or could not be.
    attempted_at: Option<Instant>,
    /// When to read them again.
    due_at: Instant,
    /// What was wrong with them then.
    problem: Option<String>,
}

impl OAuthVerifier {
    /// Reads the OAuth file, and keys that are in a file. Others are read later: an agent must
    /// start while the identity provider does not answer.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(super) async fn load(
        path: &Path,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        metrics: Arc<AgentMetrics>,
    ) -> Result<Arc<Self>, OAuthFileError> {
        let bytes = file::read(path).await?;
        let config = file::parse(&bytes, path)?;
        let is_file = matches!(config.keys, KeyLocation::File(_));
        let source = KeySource {
            path: path.to_owned(),
            reader: KeyReader::new().map_err(OAuthFileError)?,
            file: Ok(bytes),
            config,
            keys: None,
            attempted_at: None,
            due_at: Instant::now(),
            problem: None,
        };
        let digest_key: Vec<u8> = (0..8).flat_map(|_| entropy.next_u64().to_be_bytes()).collect();
        let verifier = Arc::new(Self {
            digest_key: hmac::Key::new(hmac::HMAC_SHA256, &digest_key),
            clock,
            in_force: ArcSwapOption::empty(),
            source: Arc::new(Mutex::new(source)),
            metrics,
        });
        if is_file {
            let mut source = verifier.source.lock().await;
            verifier.read_keys(&mut source).await;
            if let Some(problem) = &source.problem {
                return Err(OAuthFileError(problem.clone()));
            }
        }
        Ok(verifier)
    }

    /// Verifies a token now. One with an unknown key may wait for the keys to be read again.
    pub(super) async fn verify(self: &Arc<Self>, token: &str) -> Result<AcceptedToken, TokenRefusal> {
        let known = self.in_force.load_full();
        let verified = match &known {
            Some(context) => self.verify_by(context, token),
            None => Err(TokenRefusal::NoKeys),
        };
        match verified {
            Err(TokenRefusal::NoKeys | TokenRefusal::Token(TokenError::UnknownKey)) => {
                match self.refreshed(known.as_ref()).await {
                    Some(context) => self.verify_by(&context, token),
                    None => verified,
                }
            }
            verified => verified,
        }
    }

    fn verify_by(&self, context: &TokenContext, token: &str) -> Result<AcceptedToken, TokenRefusal> {
        let now_ms = self.clock.now_ms();
        let verified = context
            .verify(&self.digest_key, token, now_ms)
            .map_err(TokenRefusal::Token)?;
        let skew_ms = context.rules.clock_skew_ms();
        let remaining_ms = verified
            .expires_at_ms
            .saturating_add(skew_ms)
            .saturating_sub(now_ms);
        let duration = |ms: i64| Duration::from_millis(u64::try_from(ms).unwrap_or_default());
        Ok(AcceptedToken {
            principal: verified.principal,
            remaining: duration(remaining_ms),
            clock_skew: duration(skew_ms),
        })
    }

    /// Reads the keys again, if that is not too soon, and returns what is in force if it is not
    /// what is known.
    async fn refreshed(self: &Arc<Self>, known: Option<&Arc<TokenContext>>) -> Option<Arc<TokenContext>> {
        match self.source.clone().try_lock_owned() {
            Ok(source) if source.may_refresh() => {
                // Goes on without its client, so that those who give up do not keep others from it.
                let verifier = self.clone();
                let _ = tokio::spawn(async move { verifier.refresh(source).await }).await;
            }
            Ok(_) => {}
            // They are being read.
            Err(_) => drop(self.source.lock().await),
        }
        let current = self.in_force.load_full()?;
        let is_same = known.is_some_and(|known| Arc::ptr_eq(known, &current));
        (!is_same).then_some(current)
    }

    async fn refresh(&self, mut source: OwnedMutexGuard<KeySource>) {
        self.read_keys(&mut source).await;
    }

    /// Follows the OAuth file and the keys; never returns.
    pub(super) async fn follow(&self) {
        loop {
            {
                let mut source = self.source.lock().await;
                self.read_config(&mut source).await;
                if Instant::now() >= source.due_at {
                    self.read_keys(&mut source).await;
                }
                let is_invalid = source.file.is_err() || source.problem.is_some();
                self.metrics.oauth_invalid.set(i64::from(is_invalid));
            }
            sleep(RELOAD_INTERVAL).await;
        }
    }

    /// Uses the OAuth file if it has changed and can be used.
    async fn read_config(&self, source: &mut KeySource) {
        let found = file::read(&source.path).await;
        let parsed = found.and_then(|bytes| file::parse(&bytes, &source.path).map(|config| (bytes, config)));
        match parsed {
            Ok((bytes, _)) if source.file.as_ref() == Ok(&bytes) => {}
            Ok((bytes, config)) => {
                tracing::info!(file = %source.path.display(), "loaded the changed OAuth file");
                source.file = Ok(bytes);
                if source.config.keys != config.keys {
                    // The rules are for the new keys.
                    source.keys = None;
                    source.due_at = Instant::now();
                }
                source.config = config;
                self.put_in_force(source);
            }
            Err(error) => {
                if source.file.as_ref() != Err(&error) {
                    tracing::error!(
                        file = %source.path.display(), %error,
                        "the changed OAuth file cannot be used; the last good one stays in use"
                    );
                }
                source.file = Err(error);
            }
        }
    }

    /// Reads the keys, and uses them if they have changed and can be used.
    async fn read_keys(&self, source: &mut KeySource) {
        source.attempted_at = Some(Instant::now());
        let read = source.reader.read(&source.config.keys).await;
        let checked = read.and_then(|bytes| match JwkSet::read(&bytes) {
            Ok(keys) => Ok((bytes, keys.key_count())),
            Err(problem) => Err(format!("{}: {problem}", source.config.keys)),
        });
        let is_file = matches!(source.config.keys, KeyLocation::File(_));
        let interval = match (&checked, is_file) {
            (_, true) => Duration::ZERO,
            (Ok(_), false) => REFRESH_INTERVAL,
            (Err(_), false) => MIN_REFRESH_INTERVAL,
        };
        source.due_at = Instant::now() + interval;
        match checked {
            Ok((bytes, count)) => {
                source.problem = None;
                if source.keys.as_ref() != Some(&bytes) {
                    source.keys = Some(bytes);
                    self.put_in_force(source);
                    tracing::info!(keys = count, from = %source.config.keys, "the keys of the identity provider are in use");
                }
            }
            Err(problem) => {
                if source.problem.as_ref() != Some(&problem) {
                    tracing::warn!(
                        problem,
                        "the keys of the identity provider cannot be read; the former ones stay in use"
                    );
                }
                source.problem = Some(problem);
            }
        }
    }

    /// Decides by what was read from now on, and forgets what was decided by other keys.
    fn put_in_force(&self, source: &KeySource) {
        let keys = source.keys.as_ref().and_then(|bytes| JwkSet::read(bytes).ok());
        if let Some(keys) = keys {
            let context = TokenContext::new(source.config.rules.clone(), keys);
            self.in_force.store(Some(Arc::new(context)));
        }
    }
}

impl KeySource {
    fn may_refresh(&self) -> bool {
        self.attempted_at
            .is_none_or(|attempt| attempt.elapsed() >= MIN_REFRESH_INTERVAL)
    }
}

impl TokenContext {
    fn new(rules: TokenRules, keys: JwkSet) -> Self {
        Self {
            rules,
            keys,
            verified: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
        }
    }

    /// Verifies a token. One that was verified before costs no signature.
    fn verify(&self, digest_key: &hmac::Key, token: &str, now_ms: i64) -> Result<VerifiedToken, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(hmac::sign(digest_key, token.as_bytes()).as_ref());
        if let Some(verified) = self.verified.get(&digest) {
            let accepted_until = verified.expires_at_ms.saturating_add(self.rules.clock_skew_ms());
            return match now_ms < accepted_until {
                true => Ok(verified),
                false => Err(TokenError::Expired),
            };
        }
        let verified = self.rules.verify(token, &self.keys, now_ms)?;
        self.verified.insert(digest, verified.clone());
        Ok(verified)
    }
}
