//! [`ClientCredentials`]: the user and password that a client sends with each call.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::{Error, Result};

/// A user with its password, for clusters whose clients authenticate.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials {
    user: String,
    password: String,
}

impl ClientCredentials {
    /// Creates the credentials of a user. The password is in no debug output.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
        }
    }

    /// Returns the user's name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Checks whether agents can read the credentials.
    pub(super) fn validate(&self) -> Result<()> {
        if self.user.is_empty() || self.user.contains(':') {
            return Err(Error::config(
                "the user of credentials must not be empty, and must not contain a colon",
            ));
        }
        if self.password.is_empty() {
            return Err(Error::config("the password of credentials is empty"));
        }
        Ok(())
    }

    /// Returns the header `authorization`, which no debug output shows.
    pub(crate) fn header(&self) -> Option<MetadataValue<Ascii>> {
        let pair = BASE64_STANDARD.encode(format!("{}:{}", self.user, self.password));
        let mut header = MetadataValue::try_from(format!("Basic {pair}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCredentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_password() {
        let credentials = ClientCredentials::new("alice", "hunter2");
        let header = credentials.header().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic YWxpY2U6aHVudGVyMg==");
        for shown in [format!("{credentials:?}"), format!("{header:?}")] {
            assert!(!shown.contains("hunter2") && !shown.contains("YWxp"), "{shown}");
        }
    }

    #[test]
    fn credentials_that_basic_cannot_carry_are_refused() {
        for (user, password) in [("", "x"), ("a:b", "x"), ("a", "")] {
            assert!(ClientCredentials::new(user, password).validate().is_err());
        }
        ClientCredentials::new("zürich", "a:b c").validate().unwrap();
    }
}
