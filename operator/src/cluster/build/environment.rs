//! Environment variables and files of a container: variables that differ between pods or name a
//! mounted file, and variables and files from Secrets. Used by the pod builder. Contains only names
//! and keys of Secrets; Kubernetes puts their contents into the container.

use serde_json::{Value, json};

use crate::cluster::{
    desired::{DesiredCluster, ListenerPort, SecretKeySelector},
    paths,
};

/// Readable by the group, which is that of the pod.
const FILE_MODE: i64 = 0o440;

/// Returns the variables of an agent's identity and advertised addresses.
pub(super) fn identity_variables(desired: &DesiredCluster) -> Vec<Value> {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let address = |port: u16| format!("$(POD_IP):{port}");
    let mut variables = vec![
        field("POD_IP", "status.podIP"),
        field("STREAMHOUSE_AGENT_ID", "metadata.name"),
        // Kubernetes copies this label from the node to its pods; older versions do not, which
        // leaves it empty.
        field(
            "STREAMHOUSE_ZONE",
            "metadata.labels['topology.kubernetes.io/zone']",
        ),
        text_variable(
            "STREAMHOUSE_ADVERTISED_GRPC_ADDRESS",
            address(desired.grpc.number),
        ),
        text_variable(
            "STREAMHOUSE_ADVERTISED_HTTP_ADDRESS",
            address(desired.http.number),
        ),
    ];
    if let Some(kafka) = &desired.kafka {
        let address = match kafka.has_tls() {
            // Clients verify the name, which agents make of the address in brackets.
            true => format!("[$(POD_IP)].{}:{}", desired.kafka_pods_domain(), kafka.number),
            false => address(kafka.number),
        };
        variables.push(text_variable("STREAMHOUSE_ADVERTISED_KAFKA_ADDRESS", address));
    }
    variables
}

/// Returns the variables that name the mounted files of the listeners and their clients. They are
/// in the pod template beside the mounts: a pod of an earlier template, which restarts, must not
/// look for the files.
pub(super) fn listener_variables(desired: &DesiredCluster) -> Vec<Value> {
    let mut variables = Vec::new();
    if !desired.listeners.is_empty() {
        variables.push(text_variable("STREAMHOUSE_LISTENERS_FILE", paths::LISTENERS_FILE));
    }
    if desired.oauth_file.is_some() {
        variables.push(text_variable("STREAMHOUSE_OAUTH_FILE", paths::OAUTH_FILE));
    }
    if desired.ports().any(|(_, port)| port.has_tls()) {
        variables.push(text_variable("STREAMHOUSE_TLS_DIR", paths::TLS_DIR));
    }
    variables
}

/// Returns the variables for the access to the database and the object store.
pub(super) fn access_variables(desired: &DesiredCluster) -> Vec<Value> {
    let mut variables = vec![secret_variable(
        "STREAMHOUSE_METADATA_URL",
        &desired.postgresql.connection,
    )];
    if let Some(tls) = &desired.postgresql.tls {
        variables.push(text_variable("PGSSLMODE", tls.mode.as_str()));
        if tls.authority.is_some() {
            variables.push(text_variable("PGSSLROOTCERT", paths::DATABASE_CA_FILE));
        }
    }
    if desired.storage.authority.is_some() {
        variables.push(text_variable("STREAMHOUSE_S3_CA_FILE", paths::STORE_CA_FILE));
    }
    if let Some(credentials) = &desired.storage.credentials {
        variables.push(secret_variable("AWS_ACCESS_KEY_ID", &credentials.access_key_id));
        variables.push(secret_variable(
            "AWS_SECRET_ACCESS_KEY",
            &credentials.secret_access_key,
        ));
    }
    variables
}

/// Returns the variables about the rights of clients that are in Secrets.
pub(super) fn right_variables(desired: &DesiredCluster) -> Vec<Value> {
    let super_users = desired.super_users.iter();
    super_users
        .map(|secret| secret_variable("STREAMHOUSE_SUPER_USERS", secret))
        .collect()
}

fn text_variable(name: &str, value: impl Into<String>) -> Value {
    json!({ "name": name, "value": value.into() })
}

fn secret_variable(name: &str, from: &SecretKeySelector) -> Value {
    json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": from.name, "key": from.key } } })
}

/// Files of a Secret in the container.
#[derive(Debug, Clone)]
pub(super) struct SecretMount {
    name: String,
    folder: String,
    secret: String,
    /// Key and file name; all keys if empty.
    files: Vec<(String, &'static str)>,
}

impl SecretMount {
    /// Returns the volume mount of the container.
    pub(super) fn to_volume_mount(&self) -> Value {
        json!({ "name": self.name, "mountPath": self.folder, "readOnly": true })
    }

    /// Returns the volume of the pod.
    pub(super) fn to_volume(&self) -> Value {
        let item = |(key, path): &(String, &str)| json!({ "key": key, "path": path });
        let items: Vec<Value> = self.files.iter().map(item).collect();
        let mut secret = json!({ "secretName": self.secret, "defaultMode": FILE_MODE });
        if !items.is_empty() {
            secret["items"] = json!(items);
        }
        json!({ "name": self.name, "secret": secret })
    }
}

/// Returns the certificates of the listeners.
pub(super) fn certificate_mounts(desired: &DesiredCluster) -> Vec<SecretMount> {
    let mount = |(listener, port): (&str, &ListenerPort)| {
        // Agents trust each other by the CA certificate beside that of grpc, where there is one.
        let files = match listener {
            "grpc" => Vec::new(),
            _ => ["tls.crt", "tls.key"].map(|file| (file.to_owned(), file)).into(),
        };
        Some(SecretMount {
            name: format!("{listener}-tls"),
            folder: format!("{}/{listener}", paths::TLS_DIR),
            secret: port.certificate.as_ref()?.secret.clone(),
            files,
        })
    };
    desired.ports().filter_map(mount).collect()
}

/// Returns the CA certificates of the database and the object store.
pub(super) fn ca_mounts(desired: &DesiredCluster) -> Vec<SecretMount> {
    let database = desired
        .postgresql
        .tls
        .as_ref()
        .and_then(|tls| tls.authority.as_ref());
    let store = desired.storage.authority.as_ref();
    let places = [
        ("postgresql-ca", paths::DATABASE_CA_DIR, database),
        ("object-storage-ca", paths::STORE_CA_DIR, store),
    ];
    let mount = |(name, folder, secret): (&'static str, &str, Option<&SecretKeySelector>)| {
        let secret = secret?;
        Some(SecretMount {
            name: name.to_owned(),
            folder: folder.to_owned(),
            secret: secret.name.clone(),
            files: vec![(secret.key.clone(), "ca.crt")],
        })
    };
    places.into_iter().filter_map(mount).collect()
}
