//! Why a quota or a filter is invalid.

use thiserror::Error;

/// Why a quota, its entity or a filter is invalid; the message says what is allowed.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// An entity names neither user, client id nor address.
    #[error("a quota is for a user, a client-id, both, or an ip")]
    EmptyEntity,
    /// A type of entities is unknown.
    #[error("`{0}` is no type of quota entity: one of user, client-id, ip")]
    UnknownEntityType(String),
    /// A type of entities appears twice.
    #[error("{0} appears more than once")]
    DuplicateEntityType(&'static str),
    /// An address is combined with a user or a client id.
    #[error("an ip cannot be combined with a user or a client-id")]
    CombinedAddress,
    /// A name is empty.
    #[error("the name of a {0} must not be empty; leave it out for the default")]
    EmptyName(&'static str),
    /// A name contains a NUL character, which databases cannot store.
    #[error("the name of a {0} must not contain a NUL character")]
    NulCharacter(&'static str),
    /// The name of an address is not one.
    #[error("`{0}` is not an IP address: host names are not supported")]
    InvalidAddress(String),
    /// A key is unknown.
    #[error("`{name}` is no quota: one of {known}")]
    UnknownKey {
        /// The key.
        name: String,
        /// All keys, separated by commas.
        known: String,
    },
    /// A quota cannot be set for such an entity.
    #[error("{key} cannot be set for {entity}")]
    KeyOfOtherEntity {
        /// The quota.
        key: &'static str,
        /// What the entity is.
        entity: &'static str,
    },
    /// A value is out of bounds.
    #[error("{key} must be {allowed}, not {value}")]
    InvalidValue {
        /// The quota.
        key: &'static str,
        /// What is allowed.
        allowed: &'static str,
        /// The value.
        value: f64,
    },
    /// A number stands for no way to match.
    #[error("{0} is no match type: 0 is exact, 1 default, 2 any name")]
    UnknownMatchType(i8),
    /// A name is missing or superfluous.
    #[error("an exact match has a name, other matches have none")]
    MatchName,
}
