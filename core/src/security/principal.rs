//! Who a client is, in Kafka's words: a type and a name, such as `User:alice`.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The type of the principals that StreamHouse authenticates.
const USER_TYPE: &str = "User";
/// The name that stands for every user in a rule.
const WILDCARD_NAME: &str = "*";

/// A client, or whom a rule is for. Two principals are the same if type and name are, letter by
/// letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KafkaPrincipal {
    kind: Cow<'static, str>,
    name: Cow<'static, str>,
}

/// Why a text is not a principal.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PrincipalError {
    /// It has no colon, or nothing before or after it.
    #[error("a principal is TYPE:NAME, such as User:alice, not `{0}`")]
    Malformed(String),
    /// It contains a NUL character, which databases cannot store.
    #[error("a principal must not contain a NUL character")]
    NulCharacter,
}

impl KafkaPrincipal {
    /// A client that has proven nothing.
    pub const ANONYMOUS: Self = Self::fixed("ANONYMOUS");

    /// Every principal, in a rule: `User:*`.
    pub const WILDCARD: Self = Self::fixed(WILDCARD_NAME);

    const fn fixed(name: &'static str) -> Self {
        Self {
            kind: Cow::Borrowed(USER_TYPE),
            name: Cow::Borrowed(name),
        }
    }

    /// Returns the principal of a user.
    ///
    /// # Errors
    ///
    /// Fails if the name is empty or contains NUL.
    pub fn user(name: &str) -> Result<Self, PrincipalError> {
        Self::new(USER_TYPE, name)
    }

    fn new(kind: &str, name: &str) -> Result<Self, PrincipalError> {
        if kind.is_empty() || name.is_empty() {
            return Err(PrincipalError::Malformed(format!("{kind}:{name}")));
        }
        if kind.contains('\0') || name.contains('\0') {
            return Err(PrincipalError::NulCharacter);
        }
        let kind = match kind {
            USER_TYPE => Cow::Borrowed(USER_TYPE),
            other => Cow::Owned(other.to_owned()),
        };
        let name = Cow::Owned(name.to_owned());
        Ok(Self { kind, name })
    }

    /// Returns the type, such as `User`.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Returns the name, such as `alice`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether a rule with this principal is for every principal.
    pub fn is_wildcard(&self) -> bool {
        *self == Self::WILDCARD
    }

    /// Returns whether rules give the principal a meaning of its own, so that no credential may be
    /// made for it: anonymous clients and every user.
    pub fn is_reserved(&self) -> bool {
        self.is_wildcard() || *self == Self::ANONYMOUS
    }

    /// Returns whether a text is this principal.
    pub(super) fn is_written(&self, text: &str) -> bool {
        text.split_once(':') == Some((&self.kind, &self.name))
    }
}

impl fmt::Display for KafkaPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}

impl FromStr for KafkaPrincipal {
    type Err = PrincipalError;

    /// Reads `TYPE:NAME`; the name may contain further colons.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once(':');
        let (kind, name) = parts.ok_or_else(|| PrincipalError::Malformed(text.to_owned()))?;
        Self::new(kind, name)
    }
}

impl TryFrom<String> for KafkaPrincipal {
    type Error = PrincipalError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<KafkaPrincipal> for String {
    fn from(principal: KafkaPrincipal) -> Self {
        principal.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_are_read_and_written_as_by_kafka() {
        for text in [
            "User:alice",
            "User:CN=a:b,OU=c",
            "Group:x",
            "User:*",
            "user:alice",
        ] {
            let principal: KafkaPrincipal = text.parse().unwrap();
            assert_eq!(principal.to_string(), text);
            assert!(principal.is_written(text));
            let json = serde_json::to_string(&principal).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<KafkaPrincipal>(&json).unwrap(), principal);
        }
        let nested: KafkaPrincipal = "User:a:b".parse().unwrap();
        assert_eq!((nested.kind(), nested.name()), ("User", "a:b"));
        assert_ne!("user:a".parse::<KafkaPrincipal>(), "User:a".parse());
        assert!(!nested.is_written("User:a"));
    }

    #[test]
    fn what_is_no_principal_is_refused() {
        for text in ["", "alice", ":alice", "User:", ":", "User:a\0b", "Us\0er:a"] {
            assert!(text.parse::<KafkaPrincipal>().is_err(), "{text:?}");
        }
        assert!(KafkaPrincipal::user("").is_err());
    }

    #[test]
    fn reserved_principals_are_the_same_however_they_are_made() {
        assert_eq!("User:*".parse(), Ok(KafkaPrincipal::WILDCARD));
        assert_eq!(KafkaPrincipal::user("ANONYMOUS"), Ok(KafkaPrincipal::ANONYMOUS));
        assert!(KafkaPrincipal::WILDCARD.is_reserved() && KafkaPrincipal::ANONYMOUS.is_reserved());
        assert!(KafkaPrincipal::WILDCARD.is_wildcard() && !KafkaPrincipal::ANONYMOUS.is_wildcard());
        let other: KafkaPrincipal = "Group:*".parse().unwrap();
        assert!(!other.is_wildcard() && !other.is_reserved());
    }
}
