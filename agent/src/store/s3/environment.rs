//! Input of the S3 client from outside the settings: credentials, and the environment variables
//! that the SDK reads. The SDK puts the access key id, the session token and the region into
//! headers, and panics on characters that no header may contain; a Secret created from a file often
//! ends in a line feed. Therefore surrounding whitespace is trimmed, and inner control characters
//! are refused by the name of the value.

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future},
};

/// Variables that the SDK trims, or that are trimmed for it.
const TRIMMED_VARIABLES: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
];
/// Variables that the SDK uses unchanged.
const EXACT_VARIABLES: [&str; 5] = [
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_PROFILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
];
/// The reason of a refusal; the value itself may be secret.
const REFUSAL: &str = "contains a line feed or another character that is not allowed; remove it";

/// Refuses environment variables that no request can carry; `variable` looks one up.
///
/// # Errors
/// A message for people that names the variable and not its value.
pub fn check_environment(variable: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let refused = |name: &str| Err(format!("{name} {REFUSAL}"));
    for name in TRIMMED_VARIABLES {
        let Some(value) = variable(name) else { continue };
        let legal = if name.contains("SECRET_ACCESS_KEY") {
            is_printable(value.trim())
        } else {
            is_header_value(value.trim())
        };
        if !legal {
            return refused(name);
        }
    }
    for name in EXACT_VARIABLES {
        if variable(name).is_some_and(|value| !is_printable(&value)) {
            return refused(name);
        }
    }
    Ok(())
}

/// Returns the region without surrounding whitespace.
pub(super) fn trim_region(region: &str) -> Result<&str, String> {
    let region = region.trim();
    if is_header_value(region) {
        Ok(region)
    } else {
        Err(format!("{region:?} is not a valid region; correct it"))
    }
}

/// Returns whether a header can carry the text.
fn is_header_value(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic())
}

/// Returns whether the text can be signed with; the secret access key is not put into headers.
fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// Credentials that no request can carry. The message names the affected part and not its value.
#[derive(Debug, thiserror::Error)]
#[error("the {0} {REFUSAL}")]
pub(super) struct MalformedCredentials(&'static str);

/// Wraps a credentials provider: trims its credentials, and refuses malformed ones.
#[derive(Debug)]
pub(super) struct CheckedCredentials(SharedCredentialsProvider);

impl CheckedCredentials {
    /// Wraps `inner`.
    pub(super) fn new(inner: SharedCredentialsProvider) -> Self {
        Self(inner)
    }
}

impl ProvideCredentials for CheckedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.0.provide_credentials().await.and_then(check_credentials)
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.0
            .fallback_on_interrupt()
            .and_then(|keys| check_credentials(keys).ok())
    }
}

fn check_credentials(keys: Credentials) -> provider::Result {
    let (id, secret) = (keys.access_key_id().trim(), keys.secret_access_key().trim());
    let token = keys
        .session_token()
        .map(str::trim)
        .filter(|token| !token.is_empty());
    let refused = |what| {
        Err(CredentialsError::invalid_configuration(MalformedCredentials(
            what,
        )))
    };
    if !is_header_value(id) {
        return refused("access key id");
    }
    if !is_printable(secret) {
        return refused("secret access key");
    }
    if !token.is_none_or(is_header_value) {
        return refused("session token");
    }
    if (id, secret, token)
        == (
            keys.access_key_id(),
            keys.secret_access_key(),
            keys.session_token(),
        )
    {
        return Ok(keys);
    }
    let token = token.map(str::to_owned);
    Ok(Credentials::new(id, secret, token, keys.expiry(), "trimmed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(id: &str, secret: &str, token: Option<&str>) -> provider::Result {
        check_credentials(Credentials::new(
            id,
            secret,
            token.map(str::to_owned),
            None,
            "test",
        ))
    }

    #[test]
    fn what_surrounds_credentials_is_trimmed() {
        let keys = keys("id\n", " secret\r\n", Some("token\n")).unwrap();
        assert_eq!(
            (
                keys.access_key_id(),
                keys.secret_access_key(),
                keys.session_token()
            ),
            ("id", "secret", Some("token"))
        );
        assert_eq!(
            self::keys("id", "two words", Some("\n")).unwrap().session_token(),
            None
        );
        assert_eq!(trim_region("eu-west-1\n").unwrap(), "eu-west-1");
    }

    #[test]
    fn what_stands_inside_is_refused_by_name_and_not_repeated() {
        for (id, secret, token, named) in [
            ("i\nd", "hush", None, "access key id"),
            ("\u{fc}", "hush", None, "access key id"),
            ("id", "hu\nsh", None, "secret access key"),
            ("id", "hush", Some("to\nken"), "session token"),
        ] {
            let error = keys(id, secret, token).unwrap_err();
            let error = std::error::Error::source(&error).unwrap().to_string();
            assert!(error.contains(named) && !error.contains("hu"), "{error}");
        }
        assert!(trim_region("eu\nwest").is_err());
    }

    #[test]
    fn variables_are_refused_by_name() {
        for name in TRIMMED_VARIABLES.into_iter().chain(EXACT_VARIABLES) {
            let given = |value: &'static str| {
                check_environment(move |asked| (asked == name).then(|| value.to_owned()))
            };
            let error = given("a\nhush").unwrap_err();
            assert!(error.starts_with(name) && !error.contains("hush"), "{error}");
            assert_eq!(given("a"), Ok(()));
            assert_eq!(given("a\n").is_ok(), TRIMMED_VARIABLES.contains(&name), "{name}");
        }
    }
}
