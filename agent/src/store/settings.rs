//! The settings of a store: where it is, and how to access it. Read by
//! [`open_store`](super::open_store).

use std::{fmt, path::PathBuf};

/// The location of the object store and how to access it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreSettings {
    /// `s3://bucket`, `s3://bucket/prefix` or `file:/absolute/path` (also `file:relative/path`).
    pub url: String,
    /// The S3 endpoint, such as `http://127.0.0.1:9000`; by default that of AWS.
    pub endpoint: Option<String>,
    /// The S3 region; by default taken from the environment.
    pub region: Option<String>,
    /// Whether the bucket is addressed in the path instead of the host name; by default if an
    /// endpoint is given.
    pub path_style: Option<bool>,
    /// PEM certificates to trust in addition to the platform's.
    pub ca_file: Option<PathBuf>,
    /// Static credentials; without them the standard chain is used (environment, profile, web
    /// identity, instance role).
    pub credentials: Option<S3Credentials>,
}

/// Static S3 credentials. `Debug` shows none of them.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Credentials {
    /// The access key id.
    pub access_key_id: String,
    /// The secret access key.
    pub secret_access_key: String,
    /// The session token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_credentials() {
        let credentials = Some(S3Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "hush".to_owned(),
            session_token: None,
        });
        let settings = StoreSettings {
            url: "s3://data".to_owned(),
            credentials,
            ..StoreSettings::default()
        };
        assert!(!format!("{settings:?}").contains("hush"));
    }
}
