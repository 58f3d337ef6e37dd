//! The OAuth file: whose tokens are accepted, for which audience, and where the keys are.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hyper::Uri;
use serde::Deserialize;
use streamhouse_core::{security::TokenRules, settings::parse_duration};
use tokio::{fs::File, io::AsyncReadExt};

/// The largest OAuth file, in bytes.
const MAX_FILE_BYTES: usize = 64 << 10;

/// Reason why the OAuth file cannot be used; says what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("oauth-file: {0}")]
pub struct OAuthFileError(pub(super) String);

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OAuthConfig {
    pub(super) rules: TokenRules,
    pub(super) keys: KeyLocation,
}

/// Where the keys of the identity provider are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyLocation {
    File(PathBuf),
    Url(Uri),
}

impl fmt::Display for KeyLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// The file as written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WrittenConfig {
    issuer: String,
    audience: String,
    jwks_file: Option<PathBuf>,
    jwks_url: Option<String>,
    principal_claim: Option<String>,
    clock_skew: Option<String>,
}

/// Reads the OAuth file.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, OAuthFileError> {
    read_bounded(path, MAX_FILE_BYTES).await.map_err(OAuthFileError)
}

/// Reads a file that is not larger than this number of bytes.
pub(super) async fn read_bounded(path: &Path, max_bytes: usize) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    let read = async { File::open(path).await?.take(limit).read_to_end(&mut bytes).await };
    read.await
        .map_err(|problem| format!("cannot read {shown}: {problem}"))?;
    match bytes.len() > max_bytes {
        true => Err(format!("{shown} is larger than {max_bytes} bytes")),
        false => Ok(bytes),
    }
}

/// Reads what the file says; `path` is where it is, for the path of the keys may be relative.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<OAuthConfig, OAuthFileError> {
    let written: WrittenConfig =
        serde_yaml_ng::from_slice(bytes).map_err(|problem| OAuthFileError(problem.to_string()))?;
    written.validate(path).map_err(OAuthFileError)
}

impl WrittenConfig {
    fn validate(self, path: &Path) -> Result<OAuthConfig, String> {
        for (name, value) in [("issuer", &self.issuer), ("audience", &self.audience)] {
            if value.is_empty() {
                return Err(format!("{name} is empty"));
            }
        }
        let keys = match (self.jwks_file, self.jwks_url) {
            (Some(file), None) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                KeyLocation::File(folder.join(file))
            }
            (None, Some(url)) => KeyLocation::Url(parse_url(&url)?),
            _ => return Err("set one of jwksFile and jwksUrl".to_owned()),
        };
        let mut rules = TokenRules::new(&self.issuer, &self.audience);
        if let Some(claim) = &self.principal_claim {
            if claim.is_empty() {
                return Err("principalClaim is empty".to_owned());
            }
            rules = rules.with_principal_claim(claim);
        }
        if let Some(skew) = &self.clock_skew {
            let skew = parse_duration(skew).map_err(|problem| format!("clockSkew: {problem}"))?;
            if skew > TokenRules::MAX_CLOCK_SKEW {
                return Err("clockSkew is longer than 5m".to_owned());
            }
            rules = rules.with_clock_skew(skew);
        }
        Ok(OAuthConfig { rules, keys })
    }
}

/// Reads the URL of the keys: who could change what is behind it could sign tokens.
fn parse_url(text: &str) -> Result<Uri, String> {
    let url: Uri = text
        .parse()
        .map_err(|_| "jwksUrl is no URL like https://id.example/keys".to_owned())?;
    let (Some(scheme), Some(authority)) = (url.scheme_str(), url.authority()) else {
        return Err("jwksUrl is no URL like https://id.example/keys".to_owned());
    };
    if authority.as_str().contains('@') {
        return Err("jwksUrl must not contain a user or password".to_owned());
    }
    match scheme {
        "https" => Ok(url),
        "http" if is_loopback(authority.host()) => Ok(url),
        _ => Err("jwksUrl must begin with https://; http:// is for this machine alone".to_owned()),
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_local = address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    host == "localhost" || is_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(more: &str) -> Result<OAuthConfig, String> {
        let text = format!("issuer: https://id.example\naudience: streamhouse\n{more}\n");
        parse(text.as_bytes(), Path::new("/etc/oauth/oauth.yaml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_says_whose_tokens_are_accepted() {
        let config = parsed("jwksFile: keys.json\nprincipalClaim: client_id\nclockSkew: 5m").unwrap();
        assert_eq!(config.keys, KeyLocation::File("/etc/oauth/keys.json".into()));
        let rules = TokenRules::new("https://id.example", "streamhouse")
            .with_principal_claim("client_id")
            .with_clock_skew(TokenRules::MAX_CLOCK_SKEW);
        assert_eq!(config.rules, rules);
        for url in [
            "https://id.example/keys",
            "http://localhost:8080/keys",
            "http://127.0.0.1/k",
            "http://[::1]/k",
        ] {
            let config = parsed(&format!("jwksUrl: {url:?}")).unwrap();
            assert_eq!(config.keys, KeyLocation::Url(url.parse().unwrap()));
            assert_eq!(config.rules, TokenRules::new("https://id.example", "streamhouse"));
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for (more, problem) in [
            ("", "one of jwksFile and jwksUrl"),
            (
                "jwksFile: a\njwksUrl: https://id.example",
                "one of jwksFile and jwksUrl",
            ),
            ("jwksUrl: http://id.example/keys", "https://"),
            ("jwksUrl: http://127.0.0.1.example/keys", "https://"),
            ("jwksUrl: ftp://id.example/keys", "https://"),
            ("jwksUrl: id.example", "no URL"),
            ("jwksUrl: /keys", "no URL"),
            ("jwksUrl: https://me:hunter2@id.example/", "user or password"),
            ("jwksFile: a\nclockSkew: 301s", "clockSkew"),
            ("jwksFile: a\nclockSkew: soon", "clockSkew"),
            ("jwksFile: a\nprincipalClaim: ''", "principalClaim"),
            ("jwksFile: a\nclientSecret: hunter2", "clientSecret"),
        ] {
            let error = parsed(more).unwrap_err();
            assert!(
                error.contains(problem) && error.starts_with("oauth-file: "),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        for text in [
            "",
            "issuer: a\njwksFile: b",
            "issuer: ''\naudience: a\njwksFile: b",
        ] {
            assert!(parse(text.as_bytes(), Path::new("oauth.yaml")).is_err(), "{text}");
        }
    }
}
