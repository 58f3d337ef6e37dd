//! Verifies passwords that clients send as they are. Each check costs milliseconds of a processor,
//! so few run at once, and a password that was right is remembered for a while by its keyed hash.

use std::sync::Arc;

use moka::sync::Cache;
use ring::hmac;
use streamhouse_core::{Error, ErrorCode, security::ScramCredential};
use tokio::{
    sync::Semaphore,
    time::{Duration, timeout},
};

/// Checks at once.
const CONCURRENT_CHECKS: usize = 2;
/// How long a client waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Passwords that are remembered, and for how long.
const MAX_REMEMBERED: u64 = 10_000;
const REMEMBERED_FOR: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct PasswordVerifier {
    /// Of this process alone.
    key: hmac::Key,
    right: Cache<[u8; 32], ()>,
    turns: Arc<Semaphore>,
}

impl PasswordVerifier {
    pub(super) fn new(key: &[u8]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            right: Cache::builder()
                .max_capacity(MAX_REMEMBERED)
                .time_to_live(REMEMBERED_FOR)
                .build(),
            turns: Arc::new(Semaphore::new(CONCURRENT_CHECKS)),
        }
    }

    /// Returns whether a password is that of a credential.
    ///
    /// # Errors
    /// `ResourceExhausted` if too many checks wait.
    pub(super) async fn is_right(
        &self,
        credential: &ScramCredential,
        user: &str,
        password: &str,
    ) -> Result<bool, Error> {
        let digest = self.digest(credential, user, password);
        if self.right.contains_key(&digest) {
            return Ok(true);
        }
        let busy = || {
            let message = "too many passwords are being verified; try again later";
            Error::new(ErrorCode::ResourceExhausted, message).with_retry_after_ms(1_000)
        };
        let turn = timeout(MAX_WAIT, self.turns.clone().acquire_owned()).await;
        let turn = turn.map_err(|_| busy())?.map_err(|_| busy())?;
        let (credential, password) = (credential.clone(), password.to_owned());
        let checked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            credential.is_password(&password)
        });
        let is_right = checked.await.map_err(|_| busy())?;
        if is_right {
            self.right.insert(digest, ());
        }
        Ok(is_right)
    }

    /// Returns what a right password is remembered by; another credential makes another.
    fn digest(&self, credential: &ScramCredential, user: &str, password: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [user.as_bytes(), &credential.keys().stored, password.as_bytes()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}
