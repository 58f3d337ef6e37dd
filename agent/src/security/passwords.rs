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

    /// Returns whether a password is that of a credential. `admit` decides right before a check
    /// whether it may be made.
    ///
    /// # Errors
    /// `ResourceExhausted` if too many checks wait, and the error of `admit`.
    pub(super) async fn is_right(
        &self,
        credential: &ScramCredential,
        user: &str,
        password: &str,
        admit: impl FnOnce() -> Result<(), Error>,
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
        // Meanwhile another call may have verified it.
        if self.right.contains_key(&digest) {
            return Ok(true);
        }
        admit()?;
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::poll;
    use streamhouse_core::security::ScramMechanism;

    use super::*;

    #[tokio::test]
    async fn a_check_is_admitted_when_it_begins_also_if_nobody_waits_for_its_end() {
        let credential =
            ScramCredential::derive(ScramMechanism::Sha256, "secret", b"salt".to_vec(), 4096).unwrap();
        let verifier = PasswordVerifier::new(b"key");
        let admitted = AtomicUsize::new(0);
        let admit = || {
            admitted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        for _ in 0..10 {
            drop(verifier.turns.acquire_many(2).await.unwrap());
            let mut given_up = Box::pin(verifier.is_right(&credential, "alice", "wrong", admit));
            assert!(poll!(&mut given_up).is_pending());
        }
        assert_eq!(admitted.load(Ordering::Relaxed), 10);
        let refused = || Err(Error::new(ErrorCode::ResourceExhausted, "no more"));
        let result = verifier.is_right(&credential, "alice", "secret", refused).await;
        assert_eq!(result.unwrap_err().code(), ErrorCode::ResourceExhausted);
        assert!(
            verifier
                .is_right(&credential, "alice", "secret", admit)
                .await
                .unwrap()
        );
        // What was right is not checked again.
        assert!(
            verifier
                .is_right(&credential, "alice", "secret", refused)
                .await
                .unwrap()
        );
        assert!(
            verifier
                .is_right(&credential, "bob", "secret", refused)
                .await
                .is_err()
        );
    }
}
