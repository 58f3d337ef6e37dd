//! Reads the header `authorization` of a call: a user's name and password, a token of an identity
//! provider, or another agent's token.

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{Engine, prelude::BASE64_STANDARD};
use streamhouse_core::{Error, ErrorCode};

/// The scheme of tokens of agents.
pub const AGENT_SCHEME: &str = "StreamHouse-Agent";
/// The scheme of user names and passwords.
const BASIC_SCHEME: &str = "Basic";
/// The scheme of tokens of an identity provider (RFC 6750).
const BEARER_SCHEME: &str = "Bearer";

/// What a call proves itself with. No debug output shows it.
pub(super) enum CallCredentials {
    /// HTTP's Basic.
    Password { user: String, password: String },
    /// A token of an identity provider.
    Token(String),
    /// A token of an agent.
    AgentToken(String),
}

impl CallCredentials {
    /// Reads the header.
    ///
    /// # Errors
    /// `SaslAuthenticationFailed` if there is none, or several, or it cannot be read.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Error> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let (value, more) = (values.next(), values.next());
        let value = value
            .ok_or_else(|| refused("authentication is required: send a user and password, or a token"))?;
        if more.is_some() {
            return Err(refused("a call has one header `authorization`, not several"));
        }
        let malformed = || {
            refused(
                "the header `authorization` cannot be read; it is `Basic` and base64 of user:password, or `Bearer` and a token",
            )
        };
        let text = value.to_str().map_err(|_| malformed())?;
        let (scheme, value) = text.split_once(' ').ok_or_else(malformed)?;
        if scheme.eq_ignore_ascii_case(AGENT_SCHEME) {
            return Ok(Self::AgentToken(value.to_owned()));
        }
        if scheme.eq_ignore_ascii_case(BEARER_SCHEME) {
            return Ok(Self::Token(value.trim_matches(' ').to_owned()));
        }
        if !scheme.eq_ignore_ascii_case(BASIC_SCHEME) {
            return Err(malformed());
        }
        let decoded = BASE64_STANDARD.decode(value).map_err(|_| malformed())?;
        let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
        let (user, password) = decoded.split_once(':').ok_or_else(malformed)?;
        Ok(Self::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }
}

fn refused(message: &'static str) -> Error {
    Error::new(ErrorCode::SaslAuthenticationFailed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<CallCredentials, Error> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        CallCredentials::read(&headers)
    }

    #[test]
    fn basic_and_tokens_are_read() {
        for (value, expected) in [
            ("Basic YWxpY2U6YTpi", ("alice", "a:b")),
            ("basic YWxpY2U6", ("alice", "")),
        ] {
            match read(&[value]) {
                Ok(CallCredentials::Password { user, password }) => {
                    assert_eq!((user.as_str(), password.as_str()), expected);
                }
                _ => panic!("{value}"),
            }
        }
        let token = read(&["streamhouse-agent abc"]);
        assert!(matches!(token, Ok(CallCredentials::AgentToken(token)) if token == "abc"));
        for value in ["Bearer a.b.c", "bearer  a.b.c"] {
            let token = read(&[value]);
            assert!(matches!(token, Ok(CallCredentials::Token(token)) if token == "a.b.c"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_without_a_part_of_it() {
        for values in [
            &[][..],
            &["Basic YWxpY2U6YTpi", "Basic YWxpY2U6YTpi"],
            &["Basic"],
            &["Basic !"],
            &["Basic YWxpY2U="],
            &["Basic /w=="],
            &["Bearer"],
            &["Digest YWxpY2U6YTpi"],
            &["Bearer YWxpY2U6YTpi", "Basic YWxpY2U6YTpi"],
            &["YWxpY2U6YTpi"],
            &[""],
        ] {
            let Err(error) = read(values) else {
                panic!("{values:?}")
            };
            assert_eq!(error.code(), ErrorCode::SaslAuthenticationFailed);
            assert!(!error.message().contains("YWx"), "{error}");
        }
    }
}
