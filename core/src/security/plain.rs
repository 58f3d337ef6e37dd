//! SASL PLAIN: a client sends its user name and password as they are (RFC 4616), so only over TLS.

use std::fmt;

use thiserror::Error;

use super::password::MAX_PASSWORD_BYTES;

/// The longest user name in bytes.
const MAX_USER_LEN: usize = 1024;

/// What a client sends to authenticate: a claim, until the password is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PlainMessage<'a> {
    user: &'a str,
    password: &'a str,
}

/// Why bytes are not a message of PLAIN that can be served. No error contains a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PlainError {
    /// They are not UTF-8.
    #[error("the PLAIN message is not UTF-8")]
    InvalidText,
    /// They are not three texts with NUL between them.
    #[error("a PLAIN message is an authorization id, a user name and a password with NUL between them")]
    Malformed,
    /// There is no user name.
    #[error("the user name is empty")]
    EmptyUser,
    /// There is no password.
    #[error("the password is empty")]
    EmptyPassword,
    /// A text is too long.
    #[error("the user name or the password is too long")]
    TooLong,
    /// The client wants to act as another user.
    #[error("the authorization id must be the user name, or be left out")]
    AuthorizationId,
}

impl<'a> PlainMessage<'a> {
    /// Reads what a client sent.
    ///
    /// # Errors
    ///
    /// Fails if it is malformed, very long, or asks to act as another user.
    pub fn read(message: &'a [u8]) -> Result<Self, PlainError> {
        let text = std::str::from_utf8(message).map_err(|_| PlainError::InvalidText)?;
        let mut parts = text.split('\0');
        let (Some(authorization_id), Some(user), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PlainError::Malformed);
        };
        if user.is_empty() {
            return Err(PlainError::EmptyUser);
        }
        if password.is_empty() {
            return Err(PlainError::EmptyPassword);
        }
        if user.len() > MAX_USER_LEN || password.len() > MAX_PASSWORD_BYTES {
            return Err(PlainError::TooLong);
        }
        if !authorization_id.is_empty() && authorization_id != user {
            return Err(PlainError::AuthorizationId);
        }
        Ok(Self { user, password })
    }

    /// Returns the user that the client says it is.
    pub const fn user(&self) -> &'a str {
        self.user
    }

    /// Returns the password, to be checked in a time that does not depend on it.
    pub const fn password(&self) -> &'a str {
        self.password
    }
}

impl fmt::Debug for PlainMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainMessage")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_read_as_by_kafka() {
        for (message, user, password) in [
            ("\0alice\0secret", "alice", "secret"),
            ("alice\0alice\0secret", "alice", "secret"),
            ("\0a=b,c d\0p w ", "a=b,c d", "p w "),
            ("\0zürich\0🦀", "zürich", "🦀"),
        ] {
            let read = PlainMessage::read(message.as_bytes()).unwrap();
            assert_eq!((read.user(), read.password()), (user, password));
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
        for (message, error) in [
            ("", PlainError::Malformed),
            ("alice\0secret", PlainError::Malformed),
            ("\0alice\0secret\0", PlainError::Malformed),
            ("\0alice\0sec\0ret", PlainError::Malformed),
            ("\0\0secret", PlainError::EmptyUser),
            ("alice\0\0secret", PlainError::EmptyUser),
            ("\0alice\0", PlainError::EmptyPassword),
            ("root\0alice\0secret", PlainError::AuthorizationId),
            ("Alice\0alice\0secret", PlainError::AuthorizationId),
            (&format!("\0alice\0{long}"), PlainError::TooLong),
            (
                &format!("\0{}\0secret", &long[..MAX_USER_LEN + 1]),
                PlainError::TooLong,
            ),
        ] {
            assert_eq!(PlainMessage::read(message.as_bytes()), Err(error), "{message:?}");
        }
        assert_eq!(PlainMessage::read(b"\0a\0\xff"), Err(PlainError::InvalidText));
    }

    #[test]
    fn the_password_is_not_in_debug_output() {
        let read = PlainMessage::read(b"\0alice\0hunter2").unwrap();
        assert_eq!(format!("{read:?}"), "PlainMessage { user: \"alice\", .. }");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, parts in prop::collection::vec("[^\0]{0,3}", 0..5)) {
            let _ = PlainMessage::read(&bytes);
            let read = PlainMessage::read(parts.join("\0").as_bytes()).is_ok();
            let valid = parts.len() == 3 && !parts[1].is_empty() && !parts[2].is_empty()
                && (parts[0].is_empty() || parts[0] == parts[1]);
            prop_assert_eq!(read, valid);
        }
    }
}
