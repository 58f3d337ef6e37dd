//! Reads the Secrets that a cluster references. They are read one by one, by name, and never listed
//! or watched, so that the operator needs no right to do so; a change is detected within the drift
//! interval. The first reading step of a reconciliation. A missing Secret is reported as a
//! [`ClusterProblem`] that names the Secret and the key, never a value.

mod authorities;

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::Api;
use sha2::{Digest, Sha256};
use streamhouse_core::settings::SettingOverrides;
use streamhouse_metadata::{ConnectOptions, TlsMode, TlsOptions};

use super::{
    desired::{DesiredCluster, RequiredSecret, SecretKeySelector},
    inputs::BuildInputs,
    problem::ClusterProblem,
};
use crate::{
    apis::OptionalApi,
    context::OperatorContext,
    crd::{self, ConditionReason, ConditionType},
};

/// Maximum number of connections to one database: the operator's calls are few and short.
const MAX_CONNECTIONS: u32 = 4;
/// Key of the CA certificate in a Secret.
const CA_KEY: &str = "ca.crt";

/// Connection parameters of the metadata store. Its `Debug` output contains no secret.
#[derive(Clone)]
pub(super) struct MetadataConnection {
    /// Connection string, including the password.
    pub(super) url: String,
    /// Options, including certificates.
    pub(super) options: ConnectOptions,
    /// Changes with any of the parameters.
    pub(super) fingerprint: String,
}

impl fmt::Debug for MetadataConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// The resolved references of a cluster.
#[derive(Debug)]
pub(super) struct ResolvedReferences {
    /// Connection to the metadata store, or what is missing.
    pub(super) connection: Result<MetadataConnection, ClusterProblem>,
    /// Everything that is missing.
    pub(super) problems: Vec<ClusterProblem>,
    /// Whether a Secret is missing that agents read at start, so that they must not be restarted.
    pub(super) hold_rollout: bool,
    /// Inputs of the children.
    pub(super) inputs: BuildInputs,
}

/// Reads the Secrets that the cluster requires.
pub(super) async fn dereference(
    context: &OperatorContext,
    desired: &DesiredCluster,
) -> kube::Result<ResolvedReferences> {
    let mut secrets = ResolvedSecrets::default();
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &desired.namespace);
    let needed = desired.required_secrets();
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
        if let Some(what) = secrets.describe_missing(secret) {
            hold |= secret.restarts;
            problems.extend(missing_secret(context, desired, secret, what));
        }
    }
    let malformed = malformed_credentials(desired, &secrets);
    hold |= !malformed.is_empty();
    problems.extend(malformed);
    let super_users = malformed_super_users(desired, &secrets);
    hold |= super_users.is_some();
    problems.extend(super_users);
    let authorities = authorities::malformed_authorities(desired, &secrets);
    hold |= authorities.iter().any(|problem| problem.restarts);
    problems.extend(authorities.into_iter().map(|found| found.problem));
    let http = desired.http.certificate.as_ref();
    let http_authority = http.and_then(|http| secrets.value(&http.secret, CA_KEY));
    Ok(ResolvedReferences {
        connection: parse_connection(desired, &secrets),
        problems,
        hold_rollout: hold,
        inputs: BuildInputs {
            secret_hash: secrets.startup_hash(&needed),
            monitoring_api: context.apis.has(OptionalApi::Monitoring),
            cert_manager_api: context.apis.has(OptionalApi::CertManager),
            http_authority: http_authority.is_some_and(|pem| !pem.trim_ascii().is_empty()),
            openshift: context.apis.is_openshift(),
            preflight: !hold,
            route_versions: [OptionalApi::GrpcRoute, OptionalApi::TlsRoute]
                .into_iter()
                .filter_map(|api| Some((api, context.apis.version(api)?.to_owned())))
                .collect(),
            ..BuildInputs::default()
        },
    })
}

/// Returns the problem of a missing Secret, for the condition that it affects. A Secret that
/// cert-manager issues is under way; without cert-manager, that is reported instead.
fn missing_secret(
    context: &OperatorContext,
    desired: &DesiredCluster,
    secret: &RequiredSecret,
    what: String,
) -> Option<ClusterProblem> {
    let database = &desired.postgresql;
    let authority = database.tls.as_ref().and_then(|tls| tls.authority.as_ref());
    let of_database =
        database.connection.name == secret.name || authority.is_some_and(|key| key.name == secret.name);
    let of_super_users = !of_database
        && desired
            .super_users
            .as_ref()
            .is_some_and(|key| key.name == secret.name);
    let issued = !secret.restarts && is_issued(desired, &secret.name);
    if issued && !context.apis.has(OptionalApi::CertManager) {
        return None;
    }
    let (condition, reason) = match secret.restarts {
        _ if issued => (ConditionType::Progressing, ConditionReason::CertificatePending),
        // Running agents keep the certificates they have loaded.
        false => (ConditionType::Degraded, ConditionReason::SecretMissing),
        true if of_super_users => (ConditionType::Ready, ConditionReason::SecretMissing),
        true if of_database => (ConditionType::MetadataReachable, ConditionReason::SecretMissing),
        true => (ConditionType::StorageReachable, ConditionReason::SecretMissing),
    };
    let message = if issued {
        format!(
            "waiting for cert-manager to issue the certificate in Secret {}: see `kubectl describe certificate`",
            secret.name
        )
    } else {
        what
    };
    Some(ClusterProblem {
        condition,
        reason,
        message,
    })
}

/// Returns whether cert-manager issues the certificate in this Secret.
fn is_issued(desired: &DesiredCluster, secret: &str) -> bool {
    let mut certificates = desired.ports().filter_map(|(_, port)| port.certificate.as_ref());
    certificates.any(|certificate| certificate.secret == secret && certificate.issuer.is_some())
}

/// Finds invalid credentials of the object store, with which agents would refuse to start.
/// Surrounding white space is trimmed, here and by the agents, since a Secret that is created from
/// a file often ends with a line feed.
fn malformed_credentials(desired: &DesiredCluster, secrets: &ResolvedSecrets) -> Vec<ClusterProblem> {
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
        Some(ClusterProblem {
            condition: ConditionType::StorageReachable,
            reason: ConditionReason::InvalidSecret,
            message: format!("Secret {}, key {}: {what}", key.name, key.key),
        })
    })
    .collect()
}

/// Finds super users with which agents would refuse to start.
fn malformed_super_users(desired: &DesiredCluster, secrets: &ResolvedSecrets) -> Option<ClusterProblem> {
    let key = desired.super_users.as_ref()?;
    let what = match std::str::from_utf8(secrets.value(&key.name, &key.key)?) {
        Err(_) => "not text",
        Ok(value) => {
            // The problem quotes the value, which may be any Secret's.
            SettingOverrides::default().set("super-users", value).err()?;
            "not principals such as User:admin, with semicolons between them"
        }
    };
    Some(ClusterProblem {
        condition: ConditionType::Ready,
        reason: ConditionReason::InvalidSecret,
        message: format!("Secret {}, key {}: {what}", key.name, key.key),
    })
}

fn parse_connection(
    desired: &DesiredCluster,
    secrets: &ResolvedSecrets,
) -> Result<MetadataConnection, ClusterProblem> {
    let database = &desired.postgresql;
    let key = &database.connection;
    let url = secrets.text(key)?.trim();
    let refuse = |what: &str| {
        Err(ClusterProblem {
            condition: ConditionType::MetadataReachable,
            reason: ConditionReason::InvalidSecret,
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
        max_connections: MAX_CONNECTIONS,
        application_name: crd::FIELD_MANAGER.to_owned(),
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
            Some(authority) => {
                let pem = secrets.text(authority)?.as_bytes().to_vec();
                authorities::check_authority(ConditionType::MetadataReachable, authority, &pem)?;
                Some(pem)
            }
            None => None,
        };
        fingerprint.update(tls.mode.as_str());
        fingerprint.update(ca_pem.as_deref().unwrap_or_default());
        let mode = match tls.mode {
            crd::PostgresqlTlsMode::Require => TlsMode::Require,
            crd::PostgresqlTlsMode::VerifyCa => TlsMode::VerifyCa,
            crd::PostgresqlTlsMode::VerifyFull => TlsMode::VerifyFull,
        };
        options.tls = Some(TlsOptions { mode, ca_pem });
    }
    Ok(MetadataConnection {
        url: url.to_owned(),
        options,
        fingerprint: hex(&fingerprint.finalize()),
    })
}

/// The Secrets that were found, by name.
#[derive(Default)]
struct ResolvedSecrets(BTreeMap<String, BTreeMap<String, ByteString>>);

impl ResolvedSecrets {
    fn value(&self, name: &str, key: &str) -> Option<&[u8]> {
        self.0.get(name)?.get(key).map(|value| value.0.as_slice())
    }

    fn text(&self, key: &SecretKeySelector) -> Result<&str, ClusterProblem> {
        let problem = |what: String| ClusterProblem {
            condition: ConditionType::MetadataReachable,
            reason: ConditionReason::SecretMissing,
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
    fn describe_missing(&self, needed: &RequiredSecret) -> Option<String> {
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
    fn startup_hash(&self, needed: &[RequiredSecret]) -> String {
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

    fn secrets(value: &str) -> ResolvedSecrets {
        let data = BTreeMap::from([("uri".to_owned(), ByteString(value.as_bytes().to_vec()))]);
        ResolvedSecrets(BTreeMap::from([("metadata".to_owned(), data)]))
    }

    fn needed(keys: &[&str], restarts: bool) -> RequiredSecret {
        RequiredSecret {
            name: "metadata".to_owned(),
            keys: keys.iter().map(ToString::to_string).collect(),
            restarts,
        }
    }

    #[test]
    fn the_hash_follows_what_agents_read_at_their_start_and_nothing_else() {
        let one = secrets("a").startup_hash(&[needed(&["uri"], true)]);
        assert_eq!(one, secrets("a").startup_hash(&[needed(&["uri"], true)]));
        assert_ne!(one, secrets("b").startup_hash(&[needed(&["uri"], true)]));
        assert_eq!(
            secrets("a").startup_hash(&[needed(&["uri"], false)]),
            secrets("b").startup_hash(&[needed(&["uri"], false)])
        );
    }

    #[test]
    fn what_cannot_be_signed_with_is_named_with_its_secret_and_key() {
        let desired = crate::cluster::fixtures::desired_with(
            "objectStorage: {bucket: streamhouse-data, credentialsSecret: {name: bucket}}",
        );
        let problems = |id: &[u8], secret: &[u8]| {
            let data = BTreeMap::from([
                ("accessKeyId".to_owned(), ByteString(id.to_vec())),
                ("secretAccessKey".to_owned(), ByteString(secret.to_vec())),
            ]);
            let secrets = ResolvedSecrets(BTreeMap::from([("bucket".to_owned(), data)]));
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
            assert_eq!(problem.reason, ConditionReason::InvalidSecret);
            let named = format!("Secret bucket, key {key}: ");
            assert!(
                problem.message.starts_with(&named) && !problem.message.contains("hu"),
                "{problem}"
            );
        }
    }

    #[test]
    fn super_users_that_are_malformed_are_not_quoted() {
        let desired = crate::cluster::fixtures::desired_with(
            "authentication: {mechanisms: [SCRAM-SHA-512]}\nauthorization: {type: acl, superUsersSecret: {name: supers}}",
        );
        let problem = |value: &[u8]| {
            let data = BTreeMap::from([("superUsers".to_owned(), ByteString(value.to_vec()))]);
            malformed_super_users(
                &desired,
                &ResolvedSecrets(BTreeMap::from([("supers".to_owned(), data)])),
            )
        };
        assert_eq!(problem(b"User:hush;User:other"), None);
        for malformed in [b"hush" as &[u8], b"User:a;hush", b"User:*", b"\xffhush"] {
            let problem = problem(malformed).unwrap();
            assert_eq!(problem.reason, ConditionReason::InvalidSecret);
            let named = "Secret supers, key superUsers: ";
            assert!(
                problem.message.starts_with(named) && !problem.message.contains("hush"),
                "{problem}"
            );
        }
    }

    #[test]
    fn a_connection_string_with_a_line_feed_inside_is_refused_by_name() {
        let desired =
            crate::cluster::fixtures::desired_with("postgresql: {connectionSecret: {name: metadata}}");
        assert!(parse_connection(&desired, &secrets("postgres://u:hush@h/d\n")).is_ok());
        let problem = parse_connection(&desired, &secrets("postgres://u:hush\n@h/d")).unwrap_err();
        assert_eq!(problem.reason, ConditionReason::InvalidSecret);
        assert!(
            problem.message.starts_with("Secret metadata, key uri: "),
            "{problem}"
        );
        assert!(!problem.message.contains("hush"), "{problem}");
    }

    #[test]
    fn a_connection_string_that_is_read_otherwise_than_meant_is_refused_with_advice() {
        let desired =
            crate::cluster::fixtures::desired_with("postgresql: {connectionSecret: {name: metadata}}");
        for (url, advice) in [
            ("postgres://u:hu#sh@h/d", "percent-encode"),
            ("postgres://u:hu/sh@h/d", "percent-encode"),
            ("postgres://u:hush@one,two/d", "several hosts"),
        ] {
            let problem = parse_connection(&desired, &secrets(url)).unwrap_err();
            assert_eq!(problem.reason, ConditionReason::InvalidSecret);
            assert!(problem.message.contains(advice), "{problem}");
            assert!(!problem.message.contains("sh@"), "{problem}");
        }
    }

    /// The Secret that CloudNativePG makes for the owner of a database, `NAME-app`.
    #[test]
    fn the_secret_of_cloudnativepg_works_as_it_is() {
        let desired = crate::cluster::fixtures::desired_with(
            "postgresql: {connectionSecret: {name: streamhouse-db-app}}",
        );
        let uri = "postgresql://app:8%2BkQ%2F%40zT@streamhouse-db-rw.team-a:5432/app";
        let keys = [
            ("dbname", "app"),
            ("host", "streamhouse-db-rw"),
            (
                "jdbc-uri",
                "jdbc:postgresql://streamhouse-db-rw.team-a:5432/app?password=8%2BkQ%2F%40zT&user=app",
            ),
            ("password", "8+kQ/@zT"),
            ("pgpass", "streamhouse-db-rw:5432:app:app:8+kQ/@zT\n"),
            ("port", "5432"),
            ("uri", uri),
            ("user", "app"),
            ("username", "app"),
        ];
        let data = keys.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
        let secrets = ResolvedSecrets(BTreeMap::from([("streamhouse-db-app".to_owned(), data.into())]));
        for needed in desired.required_secrets() {
            assert_eq!(secrets.describe_missing(&needed), None);
        }
        assert_eq!(parse_connection(&desired, &secrets).unwrap().url, uri);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(secrets("a").describe_missing(&needed(&["uri"], true)), None);
        let lacks = secrets("a")
            .describe_missing(&needed(&["uri", "dsn"], true))
            .unwrap();
        assert_eq!(lacks, "Secret metadata has no key dsn: add it");
        let lacks = ResolvedSecrets::default()
            .describe_missing(&needed(&["uri"], true))
            .unwrap();
        assert_eq!(lacks, "Secret metadata does not exist: create it");
    }
}
