//! Who may do what: verifiers of SCRAM, access control lists, quotas of clients, and the owners of
//! users.
//!
//! Texts are Kafka's upper-case names; the store compares them and does not interpret them. Each
//! stored row has an owner: the resource that manages it, or none if it was made by hand.

use std::{collections::BTreeSet, fmt};

use streamhouse_core::security::QuotaName;

/// A verifier of SCRAM, from which the password cannot be computed. It lets its holder check a
/// client's proof, so neither key appears in a log.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScramCredentialRow {
    /// The name of the user.
    pub user_name: String,
    /// `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The salt of the password.
    pub salt: Vec<u8>,
    /// How often the password is hashed.
    pub iterations: i32,
    /// RFC 5802's `StoredKey`.
    pub stored_key: Vec<u8>,
    /// RFC 5802's `ServerKey`.
    pub server_key: Vec<u8>,
}

impl ScramCredentialRow {
    /// Returns what identifies the credential.
    pub fn id(&self) -> ScramCredentialId {
        ScramCredentialId {
            user_name: self.user_name.clone(),
            mechanism: self.mechanism.clone(),
        }
    }
}

impl fmt::Debug for ScramCredentialRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramCredentialRow")
            .field("user_name", &self.user_name)
            .field("mechanism", &self.mechanism)
            .field("iterations", &self.iterations)
            .finish_non_exhaustive()
    }
}

/// The user and the mechanism of a [`ScramCredentialRow`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScramCredentialId {
    /// See [`ScramCredentialRow::user_name`].
    pub user_name: String,
    /// See [`ScramCredentialRow::mechanism`].
    pub mechanism: String,
}

/// Credentials to store and to delete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScramAlteration {
    /// The credentials to store.
    pub upserts: Vec<ScramCredentialRow>,
    /// The credentials to delete.
    pub deletions: Vec<ScramCredentialId>,
}

impl ScramAlteration {
    /// Returns the names of the users that it changes, each once.
    pub(crate) fn user_names(&self) -> Vec<String> {
        let upserted = self.upserts.iter().map(|row| &row.user_name);
        let names: BTreeSet<&String> = upserted
            .chain(self.deletions.iter().map(|id| &id.user_name))
            .collect();
        names.into_iter().cloned().collect()
    }
}

/// The outcome of a [`ScramAlteration`] for one user: all or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScramAlterationOutcome {
    /// The credentials of the user are as wanted.
    Altered,
    /// A credential to delete does not exist: nothing was changed for this user.
    UnknownCredential,
    /// A credential is named twice: nothing was changed for this user.
    Duplicate,
}

/// The secret that the agents of a cluster share. Whoever has it can act as any client, so it
/// appears nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct AgentSecret([u8; Self::BYTES]);

impl AgentSecret {
    /// Its length in bytes.
    pub const BYTES: usize = 32;

    /// Returns a secret of these bytes; `None` if they are not [`BYTES`](Self::BYTES).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns the secret, as a key for message authentication codes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AgentSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentSecret").finish_non_exhaustive()
    }
}

/// An entry of an access control list.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AclRow {
    /// The type and name of the principal, such as `User:alice` or `User:*`.
    pub principal: String,
    /// The type of the resource, such as `TOPIC`.
    pub resource_type: String,
    /// The name or prefix of the resource, or `*`.
    pub resource_name: String,
    /// `LITERAL` or `PREFIXED`.
    pub pattern_type: String,
    /// The address of the client, or `*`.
    pub host: String,
    /// The operation, such as `READ`.
    pub operation: String,
    /// `ALLOW` or `DENY`.
    pub permission: String,
}

/// The entity and the key of a [`ClientQuotaRow`]. A part that is `None` does not matter, which is
/// not the same as [`QuotaName::Default`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientQuotaId {
    /// The name of the user.
    pub user_name: Option<QuotaName>,
    /// The client id.
    pub client_id: Option<QuotaName>,
    /// The address of the client.
    pub ip: Option<QuotaName>,
    /// What is limited, such as `producer_byte_rate`.
    pub key: String,
}

/// A quota of clients.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientQuotaRow {
    /// Whom and what it limits.
    pub id: ClientQuotaId,
    /// The limit; finite.
    pub value: f64,
}

/// Quotas to store and to remove.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QuotaAlteration {
    /// The quotas to store.
    pub upserts: Vec<ClientQuotaRow>,
    /// The quotas to remove; those that do not exist are no error.
    pub removals: Vec<ClientQuotaId>,
}

impl QuotaAlteration {
    /// Returns the quotas that it names.
    pub(crate) fn ids(&self) -> Vec<ClientQuotaId> {
        let upserted = self.upserts.iter().map(|row| &row.id);
        upserted.chain(&self.removals).cloned().collect()
    }
}

/// Everything that decides who may do what, as of one moment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SecuritySnapshot {
    /// Rises with every change; 0 before the first one. See
    /// [`ClusterSnapshot::security_version`](crate::ClusterSnapshot::security_version).
    pub version: i64,
    /// The credentials by user and mechanism.
    pub credentials: Vec<ScramCredentialRow>,
    /// The entries of the access control lists in order, each once.
    pub acls: Vec<AclRow>,
    /// The quotas by entity and key.
    pub quotas: Vec<ClientQuotaRow>,
}

/// The rows that one owner has: a user with everything that belongs to it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UserRows {
    /// The name of the user. Nobody else can own it.
    pub user_name: String,
    /// The credentials of this user; none if it has another way to authenticate.
    pub credentials: Vec<ScramCredentialRow>,
    /// The entries of the access control lists.
    pub acls: Vec<AclRow>,
    /// The quotas.
    pub quotas: Vec<ClientQuotaRow>,
}

/// What happens with credentials and quotas that were made by hand and that an owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnownedRows {
    /// The owner takes them over: they are replaced, and go when the owner goes.
    Adopt,
    /// They stay, and the owner is refused.
    Refuse,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_credential_has_no_keys() {
        let secret = ScramCredentialRow {
            user_name: "alice".to_owned(),
            mechanism: "SCRAM-SHA-256".to_owned(),
            salt: vec![0xa1; 4],
            iterations: 4096,
            stored_key: vec![0xa1; 32],
            server_key: vec![0xa1; 32],
        };
        let alteration = ScramAlteration {
            upserts: vec![secret.clone()],
            deletions: vec![secret.id()],
        };
        let user = UserRows {
            user_name: "alice".to_owned(),
            credentials: vec![secret.clone()],
            ..UserRows::default()
        };
        let snapshot = SecuritySnapshot {
            credentials: vec![secret.clone()],
            ..SecuritySnapshot::default()
        };
        for text in [
            format!("{secret:?}"),
            format!("{secret:#?}"),
            format!("{alteration:?}"),
            format!("{user:?}"),
            format!("{snapshot:?}"),
        ] {
            assert!(text.contains("alice") && text.contains("4096"), "{text}");
            let secrets = ["161", "a1", "salt", "stored_key", "server_key"];
            assert!(!secrets.iter().any(|secret| text.contains(secret)), "{text}");
        }
    }
}
