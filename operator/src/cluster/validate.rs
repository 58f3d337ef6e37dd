//! Validates a cluster and derives its desired state: fills in defaults and rejects what a schema
//! cannot. Free of side effects. Used by the reconciliation and by `diff`. Repeats the rules of the
//! schema, since a resource may be older than a rule.
//!
//! Reports the first problem, with its field and what to do.

mod access;
mod agents;
mod api_shapes;
mod listener_ports;
mod listeners;
mod monitoring;
mod quantity;
mod template;

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use streamhouse_core::settings::{AgentSettings, SettingOverrides};

use self::{access::AccessSettings, listener_ports::OwnListeners};
use super::{
    desired::{
        BucketCredentials, DatabaseTls, DesiredCluster, DesiredListener, ImageReference, MetadataDatabase,
        SecretKeySelector, StorageBucket,
    },
    names, paths,
    problem::ClusterProblem,
};
use crate::{
    context::ClusterDefaults,
    crd::{self, ClusterSpec, SecretKeyRef, StreamHouseCluster, source_of_setting},
};

/// Returns the desired state of the cluster.
///
/// # Errors
///
/// Returns the first problem of the spec.
pub fn validate(
    cluster: &StreamHouseCluster,
    defaults: &ClusterDefaults,
) -> Result<DesiredCluster, ClusterProblem> {
    let spec = &cluster.spec;
    let name = cluster.name_any();
    if name.len() > 40
        || !names::is_dns_label(&name)
        || !name.starts_with(|first: char| first.is_ascii_lowercase())
    {
        return Err(ClusterProblem::invalid_spec(
            "metadata.name must have at most 40 characters, consist of lower-case letters, digits and '-', and start with a letter: create a new cluster",
        ));
    }
    let namespace = cluster.namespace().unwrap_or_default();
    if namespace.is_empty() {
        return Err(ClusterProblem::invalid_spec("metadata.namespace is missing"));
    }
    let own = listener_ports::own_listeners(&name, spec)?;
    let further = listeners::additional_listeners(&name, spec, &own)?;
    let storage = bucket(spec)?;
    let forward_port = listener_ports::forward_port(&own, &further);
    let access = access::access_settings(spec, &own, &further)?;
    let (variables, settings) = settings(spec, &own, forward_port, &further, &access)?;
    let resources = agents::resources(spec, &settings)?;
    let monitoring = monitoring::monitoring(spec, &namespace, &own.http, &defaults.monitoring_namespaces)?;
    if let Some(pod_template) = &spec.agents.pod_template {
        template::check_template(pod_template)?;
    }
    Ok(DesiredCluster {
        uid: cluster.uid().unwrap_or_default(),
        owner: owner_reference(cluster),
        version: version(spec, defaults),
        release: release(spec, defaults),
        image: image(spec, defaults)?,
        scale: agents::scale(spec)?,
        resources,
        zone_spread: spec.agents.zone_spread,
        variables,
        drain_timeout: settings.drain_timeout,
        service_account: agents::service_account(&name, spec)?,
        pod_template: spec.agents.pod_template.clone(),
        grpc: own.grpc,
        http: own.http,
        kafka: own.kafka,
        forward_port,
        listeners: further,
        super_users: access.super_users,
        oauth_file: access.oauth_file,
        cluster_domain: listener_ports::cluster_domain(spec, defaults),
        postgresql: database(spec),
        storage,
        service_monitor: monitoring.service_monitor,
        alerts: monitoring.alerts,
        dashboard: monitoring.dashboard,
        refused_monitoring: monitoring.refused,
        network_policy: agents::network_policy(spec)?,
        max_unavailable: agents::max_unavailable(spec)?,
        deletion_policy: spec.deletion_policy,
        name,
        namespace,
    })
}

/// Returns the owner reference of the children, which blocks a foreground deletion of the cluster.
fn owner_reference(cluster: &StreamHouseCluster) -> Option<OwnerReference> {
    let owner = cluster.controller_owner_ref(&())?;
    Some(OwnerReference {
        block_owner_deletion: Some(true),
        ..owner
    })
}

fn version(spec: &ClusterSpec, defaults: &ClusterDefaults) -> String {
    spec.version.clone().unwrap_or_else(|| defaults.version.clone())
}

/// Returns the release of the agents, as far as the spec tells it.
fn release(spec: &ClusterSpec, defaults: &ClusterDefaults) -> Option<String> {
    let own = spec.image.tag.is_some() || spec.image.digest.is_some();
    (spec.version.is_some() || !own).then(|| version(spec, defaults))
}

fn image(spec: &ClusterSpec, defaults: &ClusterDefaults) -> Result<ImageReference, ClusterProblem> {
    let image = &spec.image;
    let repository = image.repository.clone().unwrap_or_else(|| defaults.image.clone());
    let last = repository.rsplit('/').next().unwrap_or_default();
    if repository.contains(|c: char| c.is_whitespace() || c == '@') || last.contains(':') || last.is_empty() {
        return Err(ClusterProblem::invalid_spec(format!(
            "spec.image.repository {repository:?} must be a registry and a name only: set the tag as image.tag and the digest as image.digest"
        )));
    }
    let tag = image.tag.clone().unwrap_or_else(|| version(spec, defaults));
    let digest = image
        .digest
        .as_ref()
        .map(|digest| format!("@{digest}"))
        .unwrap_or_default();
    Ok(ImageReference {
        reference: format!("{repository}:{tag}{digest}"),
        pull_policy: image.pull_policy.map(crd::ImagePullPolicy::as_str),
        pull_secrets: image.pull_secrets.clone(),
    })
}

fn secret_key(secret: &SecretKeyRef, usual: &str) -> SecretKeySelector {
    SecretKeySelector {
        name: secret.name.clone(),
        key: secret.key.clone().unwrap_or_else(|| usual.to_owned()),
    }
}

fn database(spec: &ClusterSpec) -> MetadataDatabase {
    let postgresql = &spec.postgresql;
    MetadataDatabase {
        connection: secret_key(&postgresql.connection_secret, "uri"),
        tls: postgresql.tls.as_ref().map(|tls| DatabaseTls {
            mode: tls.mode,
            authority: tls.ca_secret.as_ref().map(|secret| secret_key(secret, "ca.crt")),
        }),
    }
}

fn bucket(spec: &ClusterSpec) -> Result<StorageBucket, ClusterProblem> {
    let storage = &spec.object_storage;
    if let Some(endpoint) = &storage.endpoint
        && !["http://", "https://"]
            .iter()
            .any(|scheme| endpoint.starts_with(scheme))
    {
        return Err(ClusterProblem::invalid_spec(
            "spec.objectStorage.endpoint must start with http:// or https://",
        ));
    }
    let credentials = storage.credentials_secret.as_ref().map(|secret| {
        let key = |key: &String| SecretKeySelector {
            name: secret.name.clone(),
            key: key.clone(),
        };
        BucketCredentials {
            access_key_id: key(&secret.access_key_id_key),
            secret_access_key: key(&secret.secret_access_key_key),
        }
    });
    Ok(StorageBucket {
        authority: storage
            .ca_secret
            .as_ref()
            .map(|secret| secret_key(secret, "ca.crt")),
        credentials,
    })
}

/// Returns the variables of the agents, without those of the pod template, and all their settings
/// as the agents will parse them.
fn settings(
    spec: &ClusterSpec,
    own: &OwnListeners,
    forward_port: u16,
    further: &[DesiredListener],
    access: &AccessSettings,
) -> Result<(BTreeMap<String, String>, AgentSettings), ClusterProblem> {
    let refuse = |problem: String| ClusterProblem::invalid_spec(format!("spec.agents.settings: {problem}"));
    let mut overrides = SettingOverrides::default();
    // Logs in Kubernetes are collected by machines; the user may override this.
    overrides.set("log-format", "json").map_err(refuse)?;
    for (name, value) in &spec.agents.settings {
        if let Some(owner) = source_of_setting(&names::to_kebab_case(name)) {
            return Err(refuse(format!("{name} is derived from {owner}: remove it")));
        }
        overrides.set(name, value.to_string()).map_err(refuse)?;
    }
    let storage = &spec.object_storage;
    let prefix = storage
        .prefix
        .as_ref()
        .map(|prefix| format!("/{}", prefix.trim_end_matches('/')));
    let store = format!("s3://{}{}", storage.bucket, prefix.unwrap_or_default());
    let auto_create = listener_ports::auto_create_partitions(spec)?.map(|count| count.to_string());
    // Every interface, of IPv6 and IPv4.
    let listen = |port: u16| format!("[::]:{port}");
    let ours = [
        ("grpc-listen", Some(listen(own.grpc.number))),
        ("http-listen", Some(listen(own.http.number))),
        ("grpc-forward-listen", Some(listen(forward_port))),
        ("kafka-listen", own.kafka.as_ref().map(|port| listen(port.number))),
        ("kafka-auto-create-partitions", auto_create),
        ("object-store", Some(store)),
        ("s3-endpoint", storage.endpoint.clone()),
        ("s3-region", storage.region.clone()),
        ("s3-path-style", storage.path_style.then(|| "true".to_owned())),
    ];
    for (name, value) in ours {
        if let Some(value) = value {
            overrides.set(name, value).map_err(refuse)?;
        }
    }
    for (name, value) in &access.values {
        let refuse = |problem: String| ClusterProblem::invalid_spec(format!("spec.authorization: {problem}"));
        overrides.set(name, value.as_str()).map_err(refuse)?;
    }
    let variables: BTreeMap<String, String> = overrides
        .variables()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    // The rest is in the pod template, and allows checking the combination of all settings. Any
    // valid connection string does; only agents read theirs.
    let has_tls = own.has_tls() || further.iter().any(|listener| listener.port.has_tls());
    let of_pods = [
        ("metadata-url", Some("postgres://postgresql/streamhouse")),
        (
            "listeners-file",
            (!further.is_empty()).then_some(paths::LISTENERS_FILE),
        ),
        ("tls-dir", has_tls.then_some(paths::TLS_DIR)),
        (
            "oauth-file",
            access.oauth_file.as_ref().map(|_| paths::OAUTH_FILE),
        ),
        (
            "s3-ca-file",
            storage.ca_secret.as_ref().map(|_| paths::STORE_CA_FILE),
        ),
    ];
    for (name, value) in of_pods {
        if let Some(value) = value {
            overrides.set(name, value).map_err(refuse)?;
        }
    }
    let settings = overrides.resolve(false).map_err(refuse)?;
    Ok((variables, settings))
}

#[cfg(test)]
mod tests;
