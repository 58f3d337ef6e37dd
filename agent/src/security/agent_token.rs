//! Tokens by which an agent that forwards a client's call proves to be an agent, and says who the
//! client is. Made and checked with a secret that the agents share by the metadata store.
//!
//! A token is only as secret as the connection that it is sent over, and holds for a few minutes,
//! for any call of its client.

use std::{net::IpAddr, time::Duration};

use arc_swap::ArcSwapOption;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::hmac;
use streamhouse_core::security::KafkaPrincipal;
use streamhouse_metadata::AgentSecret;

/// The version of the token's format.
const FORMAT: u8 = 1;
/// How far the clocks of two agents may be apart, and how long a token holds.
pub(super) const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(300);
/// Length of the code at the end of a token.
const CODE_BYTES: usize = 32;
/// The longest token that is read; headers are not longer.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// Whose call an agent forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ForwardedCaller {
    /// The client.
    pub principal: KafkaPrincipal,
    /// The client's address, if it has one.
    pub host: Option<IpAddr>,
}

/// Why a token proves nothing. No problem contains a part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenProblem {
    /// The shared secret is not known yet.
    #[error("this agent has not read the secret of the agents yet")]
    NoSecret,
    /// It is malformed, was altered, or was made with another secret.
    #[error("the token is not from an agent of this cluster")]
    Invalid,
    /// It was made too long ago, or by a clock that is ahead.
    #[error("the token is too old, or the clocks of the agents differ by more than five minutes")]
    Expired,
}

/// Makes and checks tokens.
#[derive(Debug, Default)]
pub(super) struct AgentTokens {
    key: ArcSwapOption<hmac::Key>,
}

impl AgentTokens {
    /// Uses this secret from now on.
    pub(super) fn set_secret(&self, secret: &AgentSecret) {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        self.key.store(Some(key.into()));
    }

    /// Returns a token; `None` while the secret is not known, or if a name is too long.
    pub(super) fn sign(&self, caller: &ForwardedCaller, now_ms: i64) -> Option<String> {
        let key = self.key.load_full()?;
        let mut token = vec![FORMAT];
        token.extend(now_ms.to_be_bytes());
        let host = caller.host.map(|host| host.to_string()).unwrap_or_default();
        for text in [&caller.principal.to_string(), &host] {
            token.extend(u16::try_from(text.len()).ok()?.to_be_bytes());
            token.extend(text.as_bytes());
        }
        let code = hmac::sign(&key, &token);
        token.extend(code.as_ref());
        Some(BASE64_URL_SAFE_NO_PAD.encode(token))
    }

    /// Returns what a token proves.
    pub(super) fn verify(&self, token: &str, now_ms: i64) -> Result<ForwardedCaller, TokenProblem> {
        let key = self.key.load_full().ok_or(TokenProblem::NoSecret)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenProblem::Invalid);
        }
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(token);
        let decoded = decoded.map_err(|_| TokenProblem::Invalid)?;
        let split = decoded.split_last_chunk::<CODE_BYTES>();
        let (claims, code) = split.ok_or(TokenProblem::Invalid)?;
        hmac::verify(&key, claims, code).map_err(|_| TokenProblem::Invalid)?;
        let (made_at_ms, caller) = read_claims(claims).ok_or(TokenProblem::Invalid)?;
        let difference = Duration::from_millis(now_ms.abs_diff(made_at_ms));
        if difference > MAX_CLOCK_DIFFERENCE {
            return Err(TokenProblem::Expired);
        }
        Ok(caller)
    }
}

/// Reads what an agent has signed. An agent vouches only for clients that have authenticated.
fn read_claims(claims: &[u8]) -> Option<(i64, ForwardedCaller)> {
    let (&[format], rest) = claims.split_first_chunk::<1>()?;
    if format != FORMAT {
        return None;
    }
    let (made_at_ms, mut rest) = rest.split_first_chunk::<8>()?;
    let mut texts = [""; 2];
    for text in &mut texts {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (bytes, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        *text = std::str::from_utf8(bytes).ok()?;
        rest = after;
    }
    let [principal, host] = texts;
    let caller = ForwardedCaller {
        principal: principal.parse().ok()?,
        host: match host {
            "" => None,
            host => Some(host.parse().ok()?),
        },
    };
    (rest.is_empty() && !caller.principal.is_reserved()).then(|| (i64::from_be_bytes(*made_at_ms), caller))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn tokens(byte: u8) -> AgentTokens {
        let tokens = AgentTokens::default();
        tokens.set_secret(&AgentSecret::from_bytes(&[byte; AgentSecret::BYTES]).unwrap());
        tokens
    }

    fn caller(principal: &str) -> ForwardedCaller {
        ForwardedCaller {
            principal: principal.parse().unwrap(),
            host: Some("192.0.2.7".parse().unwrap()),
        }
    }

    #[test]
    fn a_token_says_who_the_client_is() {
        for host in [None, Some("fd00::7".parse().unwrap())] {
            let caller = ForwardedCaller {
                host,
                ..caller("User:zürich:1")
            };
            let token = tokens(1).sign(&caller, NOW).unwrap();
            assert_eq!(tokens(1).verify(&token, NOW), Ok(caller));
        }
    }

    #[test]
    fn a_token_of_another_secret_or_time_or_for_nobody_proves_nothing() {
        let token = tokens(1).sign(&caller("User:alice"), NOW).unwrap();
        assert_eq!(tokens(2).verify(&token, NOW), Err(TokenProblem::Invalid));
        assert_eq!(
            AgentTokens::default().verify(&token, NOW),
            Err(TokenProblem::NoSecret)
        );
        assert_eq!(AgentTokens::default().sign(&caller("User:alice"), NOW), None);
        for (later, expected) in [
            (300_000, Ok(caller("User:alice"))),
            (-300_000, Ok(caller("User:alice"))),
            (300_001, Err(TokenProblem::Expired)),
            (-300_001, Err(TokenProblem::Expired)),
        ] {
            assert_eq!(tokens(1).verify(&token, NOW + later), expected);
        }
        for reserved in ["User:ANONYMOUS", "User:*"] {
            let token = tokens(1).sign(&caller(reserved), NOW).unwrap();
            assert_eq!(tokens(1).verify(&token, NOW), Err(TokenProblem::Invalid));
        }
    }

    #[test]
    fn no_bit_of_a_token_can_be_altered() {
        let tokens = tokens(1);
        let token = tokens.sign(&caller("User:alice"), NOW).unwrap();
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let altered = BASE64_URL_SAFE_NO_PAD.encode(altered);
            assert_eq!(tokens.verify(&altered, NOW), Err(TokenProblem::Invalid), "{bit}");
        }
        for length in 0..bytes.len() {
            let cut = BASE64_URL_SAFE_NO_PAD.encode(&bytes[..length]);
            assert_eq!(tokens.verify(&cut, NOW), Err(TokenProblem::Invalid), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}", claims: Vec<u8>) {
            prop_assert!(tokens(1).verify(&text, NOW).is_err());
            let _ = read_claims(&claims);
        }
    }
}
