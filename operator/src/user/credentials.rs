//! Passwords and the verifiers that the metadata store keeps of them. A stored verifier stays as
//! long as it is that of the password, so that a reconciliation at rest writes nothing.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use streamhouse_core::{
    security::{ScramCredential, ScramError, ScramMechanism},
    time::Entropy,
};
use streamhouse_metadata::ScramCredentialRow;

use super::error::{UserError, UserProblem};

/// Length of a generated password: 190 bits.
const PASSWORD_LENGTH: usize = 32;
/// Letters of a generated password, which no client has to escape.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Longest password in bytes: it has to fit into a line of a configuration file.
const MAX_PASSWORD_BYTES: usize = 1024;

/// Which stored verifiers are known to be those of which password, by the uid of the User: to
/// verify them takes milliseconds for each, and is the same at every drift interval.
#[derive(Default)]
pub(super) struct VerifiedCredentials(Mutex<HashMap<String, [u8; 32]>>);

impl VerifiedCredentials {
    /// Returns whether these were verified last.
    pub(super) fn are_known(&self, uid: &str, password: &str, rows: &[ScramCredentialRow]) -> bool {
        self.0.lock().get(uid) == Some(&fingerprint(password, rows))
    }

    /// Records that the verifiers are those of the password.
    pub(super) fn remember(&self, uid: &str, password: &str, rows: &[ScramCredentialRow]) {
        let known = fingerprint(password, rows);
        self.0.lock().insert(uid.to_owned(), known);
    }

    /// Drops what is remembered of Users that no longer exist.
    pub(super) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

fn fingerprint(password: &str, rows: &[ScramCredentialRow]) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(password.as_bytes());
    for row in rows {
        add(row.mechanism.as_bytes());
        add(&row.iterations.to_be_bytes());
        for part in [&row.salt, &row.stored_key, &row.server_key] {
            add(part);
        }
    }
    hash.finalize().into()
}

/// Returns a new password.
pub(super) fn generate_password(entropy: &dyn Entropy) -> String {
    let mut password = String::with_capacity(PASSWORD_LENGTH);
    while password.len() < PASSWORD_LENGTH {
        // Numbers that the alphabet cannot divide evenly are skipped: all letters are as likely.
        for byte in entropy.next_u64().to_le_bytes() {
            let letter = usize::from(byte & 63);
            if let Some(letter) = ALPHABET.get(letter).filter(|_| password.len() < PASSWORD_LENGTH) {
                password.push(char::from(*letter));
            }
        }
    }
    password
}

/// Checks a password from a Secret. The problem says nothing about its content.
pub(super) fn check_password(bytes: &[u8]) -> Result<String, &'static str> {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Err("not text: store the password in UTF-8");
    };
    if text.is_empty() {
        return Err("empty: store a password");
    }
    if text.len() > MAX_PASSWORD_BYTES {
        return Err("longer than 1024 bytes: store a shorter password");
    }
    if text.chars().any(char::is_control) {
        return Err("contains a line feed or another control character: store the password without it");
    }
    Ok(text.to_owned())
}

/// Returns the verifiers of a password: the stored ones as far as they are its verifiers, otherwise
/// new ones. Takes milliseconds of a processor for each, on a thread that may block.
///
/// # Errors
///
/// Fails if the password cannot have a verifier.
pub(super) async fn credentials_of(
    user_name: String,
    password: String,
    mechanisms: Vec<ScramMechanism>,
    stored: Vec<ScramCredentialRow>,
    entropy: Arc<dyn Entropy>,
) -> Result<Vec<ScramCredentialRow>, UserError> {
    let derive = move || {
        let rows = mechanisms.iter().map(|mechanism| {
            let known = stored.iter().find(|row| row.mechanism == mechanism.name());
            match known.filter(|row| is_verifier_of(row, &password)) {
                Some(row) => Ok(row.clone()),
                None => new_verifier(&user_name, *mechanism, &password, &*entropy),
            }
        });
        rows.collect::<Result<Vec<_>, ScramError>>()
    };
    match tokio::task::spawn_blocking(derive).await {
        Ok(rows) => Ok(rows.map_err(|error| UserProblem::invalid_spec(error.to_string()))?),
        // Its message could contain what the thread worked on.
        Err(_) => Err(UserError::Internal("the derivation of credentials has panicked")),
    }
}

fn is_verifier_of(row: &ScramCredentialRow, password: &str) -> bool {
    let Ok(credential) = row.credential() else {
        return false;
    };
    // Both keys count: with another server key, clients would not trust the agents.
    let (mechanism, salt) = (credential.mechanism(), credential.salt().to_vec());
    let derived = ScramCredential::derive(mechanism, password, salt, credential.iterations());
    derived.is_ok_and(|derived| derived == credential)
}

fn new_verifier(
    user_name: &str,
    mechanism: ScramMechanism,
    password: &str,
    entropy: &dyn Entropy,
) -> Result<ScramCredentialRow, ScramError> {
    let credential = ScramCredential::generate(mechanism, password, entropy)?;
    Ok(ScramCredentialRow::new(user_name, &credential))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use streamhouse_core::time::system_entropy;

    use super::*;

    #[test]
    fn generated_passwords_are_long_and_need_no_escapes() {
        let entropy = system_entropy();
        let some: BTreeSet<String> = (0..100).map(|_| generate_password(&*entropy)).collect();
        assert_eq!(some.len(), 100);
        for password in &some {
            assert_eq!(password.len(), PASSWORD_LENGTH);
            assert!(password.bytes().all(|letter| letter.is_ascii_alphanumeric()));
        }
    }

    #[test]
    fn passwords_that_clients_could_not_use_are_refused_without_being_shown() {
        assert_eq!(check_password("pässword".as_bytes()), Ok("pässword".to_owned()));
        for wrong in [&b""[..], b"hush\n", b"hu\0sh", b"\xff", &[b'a'; 1025]] {
            let problem = check_password(wrong).unwrap_err();
            assert!(
                problem.contains("store") && !problem.contains("hush"),
                "{problem}"
            );
        }
    }

    async fn rows(password: &str, stored: &[ScramCredentialRow]) -> Vec<ScramCredentialRow> {
        let mechanisms = vec![ScramMechanism::Sha256, ScramMechanism::Sha512];
        let (name, password) = ("alice".to_owned(), password.to_owned());
        credentials_of(name, password, mechanisms, stored.to_vec(), system_entropy())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn what_was_verified_is_known_until_anything_of_it_changes() {
        let verified = VerifiedCredentials::default();
        let stored = rows("one", &[]).await;
        assert!(!verified.are_known("uid-1", "one", &stored));
        verified.remember("uid-1", "one", &stored);
        assert!(verified.are_known("uid-1", "one", &stored));
        assert!(!verified.are_known("uid-1", "two", &stored));
        assert!(!verified.are_known("uid-2", "one", &stored));
        assert!(!verified.are_known("uid-1", "one", &stored[..1]));
        let mut changed = stored.clone();
        changed[1].server_key[0] ^= 1;
        assert!(!verified.are_known("uid-1", "one", &changed));
        verified.retain(|uid| uid == "uid-2");
        assert!(!verified.are_known("uid-1", "one", &stored));
    }

    #[tokio::test]
    async fn a_verifier_changes_only_with_the_password() {
        let first = rows("one", &[]).await;
        assert_eq!(first.len(), 2);
        assert_eq!(rows("one", &first).await, first);
        let second = rows("two", &first).await;
        assert!(second.iter().zip(&first).all(|(new, old)| new.salt != old.salt));
        // What is left of a verifier that was changed by hand is replaced.
        let mut broken = first.clone();
        broken[1].server_key[0] ^= 1;
        broken[0].iterations = 1;
        let repaired = rows("one", &broken).await;
        assert!(repaired.iter().zip(&broken).all(|(new, old)| new != old));
        assert_eq!(rows("one", &repaired).await, repaired);
    }
}
