//! [`ClientCredentials`]: what a client authenticates with at each call, a user's password or the
//! token of an identity provider.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use tonic::metadata::{Ascii, MetadataValue};

use super::token_file;
use crate::error::{Error, Result};

/// A user with its password, or a file with a token, for clusters whose clients authenticate.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCredentials(CredentialKind);

#[derive(Clone, PartialEq, Eq)]
enum CredentialKind {
    Password { user: String, password: String },
    TokenFile(PathBuf),
}

impl ClientCredentials {
    /// Creates the credentials of a user. The password is in no debug output.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self(CredentialKind::Password {
            user: user.into(),
            password: password.into(),
        })
    }

    /// Takes the token of an identity provider from a file. The file is read again before calls,
    /// once in a second at most: whoever writes a newer token there should do so before the former
    /// one expires.
    pub fn from_token_file(path: impl Into<PathBuf>) -> Self {
        Self(CredentialKind::TokenFile(path.into()))
    }

    /// Returns the user's name; empty for a token, which only the agents read.
    pub fn user(&self) -> &str {
        match &self.0 {
            CredentialKind::Password { user, .. } => user,
            CredentialKind::TokenFile(_) => "",
        }
    }

    /// Returns the file with the token; `None` for a user with a password.
    pub fn token_file(&self) -> Option<&Path> {
        match &self.0 {
            CredentialKind::Password { .. } => None,
            CredentialKind::TokenFile(path) => Some(path),
        }
    }

    /// Checks whether agents can read the credentials.
    pub(super) fn validate(&self) -> Result<()> {
        let (user, password) = match &self.0 {
            CredentialKind::Password { user, password } => (user, password),
            CredentialKind::TokenFile(path) => {
                return token_file::read(path).map(drop).map_err(Error::config);
            }
        };
        if user.is_empty() || user.contains(':') {
            return Err(Error::config(
                "the user of credentials must not be empty, and must not contain a colon",
            ));
        }
        if password.is_empty() {
            return Err(Error::config("the password of credentials is empty"));
        }
        Ok(())
    }

    /// Returns what of the credentials others must not read, as errors call it.
    pub(super) fn secret_name(&self) -> &'static str {
        match &self.0 {
            CredentialKind::Password { .. } => "password",
            CredentialKind::TokenFile(_) => "token",
        }
    }

    /// Returns the header `authorization` of a password, which no debug output shows; `None` for a
    /// token, which may change.
    pub(crate) fn fixed_header(&self) -> Option<MetadataValue<Ascii>> {
        let CredentialKind::Password { user, password } = &self.0 else {
            return None;
        };
        let pair = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let mut header = MetadataValue::try_from(format!("Basic {pair}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ClientCredentials");
        match &self.0 {
            CredentialKind::Password { user, .. } => shown.field("user", user),
            CredentialKind::TokenFile(path) => shown.field("token_file", path),
        };
        shown.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_password() {
        let credentials = ClientCredentials::new("alice", "hunter2");
        let header = credentials.fixed_header().unwrap();
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

    #[test]
    fn a_token_file_must_be_readable_from_the_start() {
        let credentials = ClientCredentials::from_token_file("/nowhere/token");
        let error = credentials.validate().unwrap_err().to_string();
        assert!(error.contains("/nowhere/token"), "{error}");
    }
}
