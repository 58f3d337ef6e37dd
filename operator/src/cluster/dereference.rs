//! Reads the Secrets that a cluster references. They are read one by one, by name, and never listed
//! or watched, so that the operator needs no right to do so; a change is detected within the drift
//! interval. The first reading step of a reconciliation. A missing Secret is reported as a
//! [`Problem`] that names the Secret and the key, never a value.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use sha2::{Digest, Sha256};
use streamhouse_metadata::{ConnectOptions, TlsMode, TlsOptions};

use super::{
    desired::{Desired, KeyOfSecret, NeededSecret},
    inputs::Inputs,
    problem::Problem,
};
use crate::{
    apis::OptionalApi,
    context::Context,
    crd::{self, ConditionType, Reason},
};

/// Maximum number of connections to one database: the operator's calls are few and short.
const CONNECTIONS: u32 = 4;
/// Key of the CA certificate in a Secret.
const AUTHORITY: &str = "ca.crt";

/// Connection parameters of the metadata store. Its `Debug` output contains no secret.
#[derive(Clone)]
pub(super) struct Connection {
    /// Connection string, including the password.
    pub(super) url: String,
    /// Options, including certificates.
    pub(super) options: ConnectOptions,
    /// Changes with any of the parameters.
    pub(super) fingerprint: String,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The resolved references of a cluster.
#[derive(Debug)]
pub(super) struct Dereferenced {
    /// Connection to the metadata store, or what is missing.
    pub(super) connection: Result<Connection, Problem>,
    /// Everything that is missing.
    pub(super) problems: Vec<Problem>,
    /// Whether a Secret is missing that agents read at start, so that they must not be restarted.
    pub(super) hold: bool,
    /// Inputs of the children.
    pub(super) inputs: Inputs,
}

/// Reads the Secrets that the cluster requires.
pub(super) async fn dereference(context: &Context, desired: &Desired) -> kube::Result<Dereferenced> {
    let mut secrets = Secrets::default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &desired.namespace);
    let needed = desired.secrets();
    for secret in &needed {
        if let Some(found) = api.get_opt(&secret.name).await? {
            secrets
                .0
                .insert(secret.name.clone(), found.data.unwrap_or_default());
        }
    }
    let mut problems = Vec::new();
    let mut hold = false;
    for secret in &needed {
        if let Some(what) = secrets.lacks(secret) {
            hold |= secret.restarts;
            problems.push(missing(desired, secret, what));
        }
    }
    let malformed = malformed_credentials(desired, &secrets);
    hold |= !malformed.is_empty();
    problems.extend(malformed);
    let http = desired.http.certificate.as_ref();
    let http_authority = http.is_some_and(|http| secrets.value(&http.secret, AUTHORITY).is_some());
    Ok(Dereferenced {
        connection: connection(desired, &secrets),
        problems,
        hold,
        inputs: Inputs {
            secret_hash: secrets.hash(&needed),
            monitoring_api: context.apis.has(OptionalApi::Monitoring),
            cert_manager_api: context.apis.has(OptionalApi::CertManager),
            http_authority,
            preflight: !hold,
        },
    })
}

/// Returns the problem of a missing Secret, for the condition that it affects.
fn missing(desired: &Desired, secret: &NeededSecret, what: String) -> Problem {
    let database = &desired.postgresql;
    let authority = database.tls.as_ref().and_then(|tls| tls.authority.as_ref());
    let of_database =
        database.connection.name == secret.name || authority.is_some_and(|key| key.name == secret.name);
    let condition = match secret.restarts {
        // Running agents keep the certificates they have loaded.
        false => ConditionType::Degraded,
        true if of_database => ConditionType::MetadataReachable,
        true => ConditionType::StorageReachable,
    };
    Problem {
        condition,
        reason: Reason::SecretMissing,
        message: what,
    }
}

/// Finds invalid credentials of the object store, with which agents would refuse to start.
/// Surrounding white space is trimmed, here and by the agents, since a Secret that is created from
/// a file often ends with a line feed.
fn malformed_credentials(desired: &Desired, secrets: &Secrets) -> Vec<Problem> {
    let credentials = desired.storage.credentials.iter();
    let keys = credentials.flat_map(|keys| [&keys.access_key_id, &keys.secret_access_key]);
    keys.filter_map(|key| {
        let what = match std::str::from_utf8(secrets.value(&key.name, &key.key)?).map(str::trim) {
            Err(_) => "not text",
            Ok("") => "empty",
            Ok(value) if value.chars().any(char::is_control) => {
                "contains a line feed or another control character: store the value without it"
            }
            Ok(_) => return None,
        };
        Some(Problem {
            condition: ConditionType::StorageReachable,
            reason: Reason::ConnectionInvalid,
            message: format!("Secret {}, key {}: {what}", key.name, key.key),
        })
    })
    .collect()
}

fn connection(desired: &Desired, secrets: &Secrets) -> Result<Connection, Problem> {
    let database = &desired.postgresql;
    let key = &database.connection;
    let url = secrets.text(key)?.trim();
    let refuse = |what: &str| {
        Err(Problem {
            condition: ConditionType::MetadataReachable,
            reason: Reason::ConnectionInvalid,
            message: format!("Secret {}, key {}: {what}", key.name, key.key),
        })
    };
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return refuse("not a connection string: expected postgres://user:password@host:port/database");
    }
    if url.chars().any(char::is_control) {
        return refuse("contains a line feed or another control character: store the value without it");
    }
    if let Err(error) = streamhouse_metadata::check_address(url) {
        return refuse(&error.to_string());
    }
    let mut fingerprint = Sha256::new();
    fingerprint.update(url);
    let mut options = ConnectOptions {
        max_connections: CONNECTIONS,
        application_name: crd::MANAGER.to_owned(),
        ..ConnectOptions::default()
    };
    if let Some(tls) = &database.tls {
        if ["sslmode=", "sslrootcert=", "ssl-mode=", "ssl-root-cert="]
            .iter()
            .any(|part| url.contains(part))
        {
            return refuse("TLS is configured here and in spec.postgresql.tls: configure it in one place");
        }
        let ca_pem = match &tls.authority {
            Some(authority) => Some(secrets.text(authority)?.as_bytes().to_vec()),
            None => None,
        };
        fingerprint.update(tls.mode.as_str());
        fingerprint.update(ca_pem.as_deref().unwrap_or_default());
        let mode = match tls.mode {
            crd::TlsMode::Require => TlsMode::Require,
            crd::TlsMode::VerifyCa => TlsMode::VerifyCa,
            crd::TlsMode::VerifyFull => TlsMode::VerifyFull,
        };
        options.tls = Some(TlsOptions { mode, ca_pem });
    }
    Ok(Connection {
        url: url.to_owned(),
        options,
        fingerprint: hex(&fingerprint.finalize()),
    })
}

/// The Secrets that were found, by name.
#[derive(Default)]
struct Secrets(BTreeMap<String, BTreeMap<String, ByteString>>);

impl Secrets {
    fn value(&self, name: &str, key: &str) -> Option<&[u8]> {
        self.0.get(name)?.get(key).map(|value| value.0.as_slice())
    }

    fn text(&self, key: &KeyOfSecret) -> Result<&str, Problem> {
        let problem = |what: String| Problem {
            condition: ConditionType::MetadataReachable,
            reason: Reason::SecretMissing,
            message: what,
        };
        let value = self.value(&key.name, &key.key);
        let value = value.ok_or_else(|| {
            problem(format!(
                "Secret {} or its key {} does not exist: create it",
                key.name, key.key
            ))
        })?;
        std::str::from_utf8(value)
            .map_err(|_| problem(format!("Secret {}, key {}: not text", key.name, key.key)))
    }

    /// Describes what is missing of a Secret.
    fn lacks(&self, needed: &NeededSecret) -> Option<String> {
        let Some(found) = self.0.get(&needed.name) else {
            return Some(format!("Secret {} does not exist: create it", needed.name));
        };
        let absent: Vec<&str> = needed
            .keys
            .iter()
            .map(String::as_str)
            .filter(|key| !found.contains_key(*key))
            .collect();
        (!absent.is_empty())
            .then(|| format!("Secret {} has no key {}: add it", needed.name, absent.join(", ")))
    }

    /// Hashes the keys that agents read at start.
    fn hash(&self, needed: &[NeededSecret]) -> String {
        let mut hash = Sha256::new();
        for secret in needed.iter().filter(|secret| secret.restarts) {
            for key in &secret.keys {
                let value = self.value(&secret.name, key).unwrap_or_default();
                for part in [secret.name.as_bytes(), key.as_bytes(), value] {
                    hash.update((part.len() as u64).to_be_bytes());
                    hash.update(part);
                }
            }
        }
        let mut text = hex(&hash.finalize());
        // Enough to distinguish versions; more would only help to guess the contents.
        text.truncate(16);
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(value: &str) -> Secrets {
        let data = BTreeMap::from([("uri".to_owned(), ByteString(value.as_bytes().to_vec()))]);
        Secrets(BTreeMap::from([("metadata".to_owned(), data)]))
    }

    fn needed(keys: &[&str], restarts: bool) -> NeededSecret {
        NeededSecret {
            name: "metadata".to_owned(),
            keys: keys.iter().map(ToString::to_string).collect(),
            restarts,
        }
    }

    #[test]
    fn the_hash_follows_what_agents_read_at_their_start_and_nothing_else() {
        let one = secrets("a").hash(&[needed(&["uri"], true)]);
        assert_eq!(one, secrets("a").hash(&[needed(&["uri"], true)]));
        assert_ne!(one, secrets("b").hash(&[needed(&["uri"], true)]));
        assert_eq!(
            secrets("a").hash(&[needed(&["uri"], false)]),
            secrets("b").hash(&[needed(&["uri"], false)])
        );
    }

    #[test]
    fn what_cannot_be_signed_with_is_named_with_its_secret_and_key() {
        let desired = crate::cluster::fixtures::desired(
            "objectStorage: {bucket: streamhouse-data, credentialsSecret: {name: bucket}}",
        );
        let problems = |id: &[u8], secret: &[u8]| {
            let data = BTreeMap::from([
                ("accessKeyId".to_owned(), ByteString(id.to_vec())),
                ("secretAccessKey".to_owned(), ByteString(secret.to_vec())),
            ]);
            let secrets = Secrets(BTreeMap::from([("bucket".to_owned(), data)]));
            malformed_credentials(&desired, &secrets)
        };
        assert_eq!(problems(b"id\n", b"hush hush\r\n"), []);
        for (id, secret, key) in [
            (b"i\nd" as &[u8], b"hush" as &[u8], "accessKeyId"),
            (b" \n", b"hush", "accessKeyId"),
            (b"\xff", b"hush", "accessKeyId"),
            (b"id", b"hu\nsh", "secretAccessKey"),
        ] {
            let found = problems(id, secret);
            let [problem] = found.as_slice() else {
                panic!("{found:?}")
            };
            assert_eq!(problem.condition, ConditionType::StorageReachable);
            assert_eq!(problem.reason, Reason::ConnectionInvalid);
            let named = format!("Secret bucket, key {key}: ");
            assert!(
                problem.message.starts_with(&named) && !problem.message.contains("hu"),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_connection_string_with_a_line_feed_inside_is_refused_by_name() {
        let desired = crate::cluster::fixtures::desired("postgresql: {connectionSecret: {name: metadata}}");
        assert!(connection(&desired, &secrets("postgres://u:hush@h/d\n")).is_ok());
        let problem = connection(&desired, &secrets("postgres://u:hush\n@h/d")).unwrap_err();
        assert_eq!(problem.reason, Reason::ConnectionInvalid);
        assert!(
            problem.message.starts_with("Secret metadata, key uri: "),
            "{problem}"
        );
        assert!(!problem.message.contains("hush"), "{problem}");
    }

    #[test]
    fn a_connection_string_that_is_read_otherwise_than_meant_is_refused_with_advice() {
        let desired = crate::cluster::fixtures::desired("postgresql: {connectionSecret: {name: metadata}}");
        for (url, advice) in [
            ("postgres://u:hu#sh@h/d", "percent-encode"),
            ("postgres://u:hu/sh@h/d", "percent-encode"),
            ("postgres://u:hush@one,two/d", "several hosts"),
        ] {
            let problem = connection(&desired, &secrets(url)).unwrap_err();
            assert_eq!(problem.reason, Reason::ConnectionInvalid);
            assert!(problem.message.contains(advice), "{problem}");
            assert!(!problem.message.contains("sh@"), "{problem}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(secrets("a").lacks(&needed(&["uri"], true)), None);
        let lacks = secrets("a").lacks(&needed(&["uri", "dsn"], true)).unwrap();
        assert_eq!(lacks, "Secret metadata has no key dsn: add it");
        let lacks = Secrets::default().lacks(&needed(&["uri"], true)).unwrap();
        assert_eq!(lacks, "Secret metadata does not exist: create it");
    }
}
