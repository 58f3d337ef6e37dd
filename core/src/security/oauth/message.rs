//! The first message of a client of OAUTHBEARER, which carries its token.

use std::fmt;

use thiserror::Error;

use super::rules::MAX_TOKEN_BYTES;

/// The answer to a token that is refused, as Kafka's brokers send it. The client answers with one
/// byte 0x01, and then the exchange fails.
pub const OAUTH_INVALID_TOKEN: &str = r#"{"status":"invalid_token"}"#;

/// Bytes of a message beside its token: the authorization id and SASL extensions.
const MAX_OTHER_BYTES: usize = 8 << 10;
/// Stands after the header and after each pair of a message.
const SEPARATOR: char = '\u{1}';
/// The pair with the token.
const AUTH_KEY: &str = "auth";
/// The scheme of its value.
const BEARER: &str = "Bearer";

/// What a client sends to authenticate: a claim, until the token is verified.
#[derive(Clone, PartialEq, Eq)]
pub struct OAuthBearerMessage<'a> {
    authorization_id: String,
    token: &'a str,
}

/// Why bytes are not a message of OAUTHBEARER that can be served. No error contains a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OAuthBearerError {
    /// They are too many.
    #[error("the OAUTHBEARER message is too long")]
    TooLong,
    /// They are not UTF-8.
    #[error("the OAUTHBEARER message is not UTF-8")]
    InvalidText,
    /// They do not begin with a header of GS2 without channel binding.
    #[error("an OAUTHBEARER message begins with `n,` or `n,a=NAME`, a comma and a byte 0x01")]
    MalformedHeader,
    /// What follows is no list of pairs.
    #[error("an OAUTHBEARER message has pairs KEY=VALUE, each before a byte 0x01, and ends with one more")]
    MalformedPairs,
    /// There is no token, or more than one.
    #[error("an OAUTHBEARER message has one pair `auth=Bearer TOKEN`")]
    MissingToken,
}

impl<'a> OAuthBearerMessage<'a> {
    /// Reads what a client sent. SASL extensions are checked and ignored.
    ///
    /// # Errors
    ///
    /// Fails if it is malformed or very long.
    pub fn read(message: &'a [u8]) -> Result<Self, OAuthBearerError> {
        if message.len() > MAX_TOKEN_BYTES + MAX_OTHER_BYTES {
            return Err(OAuthBearerError::TooLong);
        }
        let text = std::str::from_utf8(message).map_err(|_| OAuthBearerError::InvalidText)?;
        let (authorization_id, pairs) = split_header(text).ok_or(OAuthBearerError::MalformedHeader)?;
        let pairs = pairs
            .strip_suffix(SEPARATOR)
            .ok_or(OAuthBearerError::MalformedPairs)?;
        if pairs.is_empty() {
            return Err(OAuthBearerError::MissingToken);
        }
        let pairs = pairs
            .strip_suffix(SEPARATOR)
            .ok_or(OAuthBearerError::MalformedPairs)?;
        let mut token = None;
        for pair in pairs.split(SEPARATOR) {
            let (key, value) = split_pair(pair).ok_or(OAuthBearerError::MalformedPairs)?;
            if key != AUTH_KEY {
                continue;
            }
            let found = bearer_token(value).ok_or(OAuthBearerError::MissingToken)?;
            if token.replace(found).is_some() {
                return Err(OAuthBearerError::MissingToken);
            }
        }
        let token = token.ok_or(OAuthBearerError::MissingToken)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(OAuthBearerError::TooLong);
        }
        Ok(Self {
            authorization_id,
            token,
        })
    }

    /// Returns whom the client wants to act as; empty if it does not say.
    pub fn authorization_id(&self) -> &str {
        &self.authorization_id
    }

    /// Returns the token.
    pub const fn token(&self) -> &'a str {
        self.token
    }
}

impl fmt::Debug for OAuthBearerMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthBearerMessage")
            .field("authorization_id", &self.authorization_id)
            .finish_non_exhaustive()
    }
}

/// Returns the authorization id of a message and what follows the header.
fn split_header(text: &str) -> Option<(String, &str)> {
    let (authorization, rest) = text.strip_prefix("n,")?.split_once(',')?;
    let pairs = rest.strip_prefix(SEPARATOR)?;
    if authorization.is_empty() {
        return Some((String::new(), pairs));
    }
    let name = authorization.strip_prefix("a=").filter(|name| !name.is_empty())?;
    Some((unescape(name)?, pairs))
}

/// Returns a name of SASL as it is: `=2C` stands for a comma, and `=3D` for `=`.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut unescaped = parts.next()?.to_owned();
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (None, Some(rest)) => ('=', rest),
            (None, None) => return None,
        };
        unescaped.push(character);
        unescaped.push_str(rest);
    }
    (!unescaped.contains('\0')).then_some(unescaped)
}

/// Splits `KEY=VALUE`, as RFC 7628 allows them.
fn split_pair(pair: &str) -> Option<(&str, &str)> {
    let (key, value) = pair.split_once('=')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_value = |byte: u8| matches!(byte, 0x20..=0x7e | b'\t' | b'\r' | b'\n');
    (is_key && !value.is_empty() && value.bytes().all(is_value)).then_some((key, value))
}

/// Returns the token of `Bearer TOKEN`.
fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_matches(' ');
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    let is_valid = scheme.eq_ignore_ascii_case(BEARER) && !token.is_empty() && token.bytes().all(is_token);
    is_valid.then_some(token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(message: &str) -> Result<(String, String), OAuthBearerError> {
        let read = OAuthBearerMessage::read(message.as_bytes())?;
        Ok((read.authorization_id().to_owned(), read.token().to_owned()))
    }

    #[test]
    fn messages_are_read_as_by_kafka() {
        for (message, authorization_id, token) in [
            ("n,,\u{1}auth=Bearer a.b-c._d\u{1}\u{1}", "", "a.b-c._d"),
            ("n,,\u{1}auth=bearer   a+/~b==\u{1}\u{1}", "", "a+/~b=="),
            ("n,a=alice,\u{1}auth=Bearer t\u{1}\u{1}", "alice", "t"),
            ("n,a=a=2Cb=3Dc ü,\u{1}auth=Bearer t\u{1}\u{1}", "a,b=c ü", "t"),
            (
                "n,,\u{1}host=h\u{1}auth=Bearer t\u{1}logicalCluster=x=1 \t\u{1}\u{1}",
                "",
                "t",
            ),
        ] {
            let expected = (authorization_id.to_owned(), token.to_owned());
            assert_eq!(read(message), Ok(expected), "{message:?}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        use OAuthBearerError::{MalformedHeader, MalformedPairs, MissingToken, TooLong};
        let long = |count| format!("n,,\u{1}auth=Bearer {}\u{1}\u{1}", "x".repeat(count));
        for (message, error) in [
            ("", MalformedHeader),
            ("\u{1}", MalformedHeader),
            ("y,,\u{1}auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("p=tls-unique,,\u{1}auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("n,a=,\u{1}auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("n,alice,\u{1}auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("n,a=a=2Db,\u{1}auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("n,a=a\0b,\u{1}auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("n,,auth=Bearer t\u{1}\u{1}", MalformedHeader),
            ("n,,\u{1}", MalformedPairs),
            ("n,,\u{1}auth=Bearer t", MalformedPairs),
            ("n,,\u{1}auth=Bearer t\u{1}", MalformedPairs),
            ("n,,\u{1}auth=Bearer t\u{1}\u{1}x", MalformedPairs),
            ("n,,\u{1}auth=Bearer t\u{1}\u{1}\u{1}", MalformedPairs),
            ("n,,\u{1}a1=x\u{1}auth=Bearer t\u{1}\u{1}", MalformedPairs),
            ("n,,\u{1}a=\u{1}auth=Bearer t\u{1}\u{1}", MalformedPairs),
            ("n,,\u{1}a=ü\u{1}auth=Bearer t\u{1}\u{1}", MalformedPairs),
            ("n,,\u{1}\u{1}", MissingToken),
            ("n,,\u{1}host=h\u{1}\u{1}", MissingToken),
            ("n,,\u{1}auth=t\u{1}\u{1}", MissingToken),
            ("n,,\u{1}auth=Basic t\u{1}\u{1}", MissingToken),
            ("n,,\u{1}auth=Bearer  \u{1}\u{1}", MissingToken),
            ("n,,\u{1}auth=Bearer a b\u{1}\u{1}", MissingToken),
            ("n,,\u{1}auth=Bearer a!\u{1}\u{1}", MissingToken),
            ("n,,\u{1}auth=Bearer a\u{1}auth=Bearer b\u{1}\u{1}", MissingToken),
            (&long(MAX_TOKEN_BYTES + 1), TooLong),
            (&long(1 << 20), TooLong),
        ] {
            assert_eq!(read(message), Err(error), "{message:?}");
        }
        assert!(read(&long(MAX_TOKEN_BYTES)).is_ok());
        let not_text = OAuthBearerMessage::read(b"n,,\x01auth=Bearer \xff\x01\x01");
        assert_eq!(not_text, Err(OAuthBearerError::InvalidText));
    }

    #[test]
    fn the_token_is_not_in_debug_output() {
        let read = OAuthBearerMessage::read(b"n,,\x01auth=Bearer hunter2\x01\x01").unwrap();
        assert_eq!(
            format!("{read:?}"),
            "OAuthBearerMessage { authorization_id: \"\", .. }"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, parts in prop::collection::vec("[na=,.2CD3b \u{1}]{0,4}", 0..8)) {
            let _ = OAuthBearerMessage::read(&bytes);
            let _ = OAuthBearerMessage::read(parts.concat().as_bytes());
            let _ = OAuthBearerMessage::read(format!("n,a={},\u{1}auth=Bearer t\u{1}\u{1}", parts.concat()).as_bytes());
        }

        #[test]
        fn what_is_written_is_read(
            name in "[^\0]{0,9}",
            token in "[-._~+/a-zA-Z0-9]{1,40}={0,2}",
            extensions in prop::collection::vec(("[a-zA-Z]{1,8}", "[!-~][ -~]{0,8}"), 0..4),
            cut in 0usize..200,
        ) {
            let escaped = name.replace('=', "=3D").replace(',', "=2C");
            let authorization = if name.is_empty() { String::new() } else { format!("a={escaped}") };
            let extensions: String = extensions
                .iter()
                .filter(|(key, _)| key != AUTH_KEY)
                .map(|(key, value)| format!("{key}={value}\u{1}"))
                .collect();
            let message = format!("n,{authorization},\u{1}auth=Bearer {token}\u{1}{extensions}\u{1}");
            prop_assert_eq!(read(&message), Ok((name, token)));
            // No message is a part of another one.
            if let Some(part) = message.get(..cut).filter(|part| part.len() + 1 < message.len()) {
                prop_assert!(read(part).is_err());
            }
        }
    }
}
