//! The pods: what agents and Jobs have in common (environment, files, rights), and what the user merges over it.

use serde_json::{Value, json};

use super::config;
use crate::cluster::{
    children::ANNOTATION_CONFIG_HASH,
    desired::{Desired, KeyOfSecret},
    inputs::Inputs,
    labels,
    merge::merge,
    paths,
};

/// The container's name, by which a user's pod template speaks of it.
pub(super) const CONTAINER: &str = "agent";
/// Nobody: the images' user.
const USER: i64 = 65532;
/// Readable by the group, which is the pod's own.
const FILE_MODE: i64 = 0o440;

/// The pod template of the agents.
pub(super) fn agents(desired: &Desired, inputs: &Inputs) -> Value {
    let mut container = container(desired, &["run"]);
    let probe = |path: &str, period: i64, failures: i64| {
        let scheme = if desired.http.is_tls() { "HTTPS" } else { "HTTP" };
        json!({
            "httpGet": { "path": path, "port": "http", "scheme": scheme },
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures, "successThreshold": 1,
        })
    };
    merge(
        &mut container,
        &json!({
            "ports": [
                { "name": "grpc", "containerPort": desired.grpc.number, "protocol": "TCP" },
                { "name": "http", "containerPort": desired.http.number, "protocol": "TCP" },
            ],
            "resources": desired.resources,
            // Two minutes to start; then a live one answers within half a minute, and a stopping one is known at once by its own word.
            "startupProbe": probe("/health", 2, 60),
            "livenessProbe": probe("/health", 10, 3),
            "readinessProbe": probe("/ready", 5, 2),
        }),
    );
    let mut spec = spec(desired, container);
    merge(
        &mut spec,
        &json!({
            "terminationGracePeriodSeconds": desired.drain_timeout.as_secs() + 15,
            "topologySpreadConstraints": spread(desired),
        }),
    );
    let mut template = json!({ "metadata": { "labels": {}, "annotations": {} }, "spec": spec });
    if let Some(over) = &desired.pod_template {
        merge(&mut template, over);
    }
    let ours = json!({ "metadata": {
        "labels": labels::common(desired, labels::AGENT),
        "annotations": { ANNOTATION_CONFIG_HASH: config::hash(desired, inputs) },
    } });
    merge(&mut template, &ours);
    template
}

/// The pod template of a Job that runs the agent's program with these arguments.
pub(super) fn job(desired: &Desired, component: &str, arguments: &[&str]) -> Value {
    let mut container = container(desired, arguments);
    merge(
        &mut container,
        &json!({
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
            // Its last line says what is wrong, and so becomes the message of a condition.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }),
    );
    let mut template = json!({ "metadata": { "labels": {} }, "spec": spec(desired, container) });
    if let Some(over) = desired.pod_template.as_ref().map(for_job) {
        merge(&mut template, &over);
    }
    let ours = json!({
        "metadata": { "labels": labels::common(desired, component) },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": CONTAINER, "args": arguments }],
        },
    });
    merge(&mut template, &ours);
    template
}

/// The user's pod template without what would keep a Job from ending or makes sense for a server only.
fn for_job(over: &Value) -> Value {
    let mut over = over.clone();
    let Some(spec) = over.get_mut("spec").and_then(Value::as_object_mut) else {
        return over;
    };
    for server in [
        "topologySpreadConstraints",
        "terminationGracePeriodSeconds",
        "restartPolicy",
    ] {
        spec.remove(server);
    }
    if let Some(containers) = spec.get_mut("containers").and_then(Value::as_array_mut) {
        containers.retain(|container| container["name"] == CONTAINER);
        for container in containers.iter_mut().filter_map(Value::as_object_mut) {
            for server in [
                "args",
                "ports",
                "resources",
                "startupProbe",
                "livenessProbe",
                "readinessProbe",
                "lifecycle",
            ] {
                container.remove(server);
            }
        }
    }
    over
}

fn container(desired: &Desired, arguments: &[&str]) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": desired.image.reference,
        "args": arguments,
        "env": environment(desired),
        "envFrom": [{ "configMapRef": { "name": desired.agent() } }],
        "volumeMounts": mounts(desired).iter().map(|mount| mount.in_container()).collect::<Vec<_>>(),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    if let Some(policy) = desired.image.pull_policy {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

fn spec(desired: &Desired, container: Value) -> Value {
    let pull_secrets: Vec<Value> = desired
        .image
        .pull_secrets
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    json!({
        "serviceAccountName": desired.service_account.name,
        "automountServiceAccountToken": false,
        // Variables of every Service would come on top of the agent's own.
        "enableServiceLinks": false,
        "imagePullSecrets": pull_secrets,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container],
        "volumes": mounts(desired).iter().map(|mount| mount.volume()).collect::<Vec<_>>(),
    })
}

/// What differs from pod to pod, and what is secret.
fn environment(desired: &Desired) -> Vec<Value> {
    let text = |name: &str, value: String| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let secret = |name: &str, from: &KeyOfSecret| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": from.name, "key": from.key } } });
    let mut environment = vec![
        field("POD_IP", "status.podIP"),
        field("STREAMHOUSE_AGENT_ID", "metadata.name"),
        // Kubernetes copies the node's label to its pods; it is empty where it does not yet.
        field(
            "STREAMHOUSE_ZONE",
            "metadata.labels['topology.kubernetes.io/zone']",
        ),
        text(
            "STREAMHOUSE_ADVERTISED_GRPC_ADDRESS",
            format!("$(POD_IP):{}", desired.grpc.number),
        ),
        text(
            "STREAMHOUSE_ADVERTISED_HTTP_ADDRESS",
            format!("$(POD_IP):{}", desired.http.number),
        ),
        secret("STREAMHOUSE_METADATA_URL", &desired.postgresql.connection),
    ];
    if let Some(tls) = &desired.postgresql.tls {
        environment.push(text("PGSSLMODE", tls.mode.as_str().to_owned()));
        if tls.authority.is_some() {
            environment.push(text("PGSSLROOTCERT", paths::DATABASE_AUTHORITY.to_owned()));
        }
    }
    if let Some(credentials) = &desired.storage.credentials {
        environment.push(secret("AWS_ACCESS_KEY_ID", &credentials.access_key_id));
        environment.push(secret("AWS_SECRET_ACCESS_KEY", &credentials.secret_access_key));
    }
    environment
}

/// Files of a Secret in the container.
struct Mount {
    name: &'static str,
    folder: String,
    secret: String,
    /// Key and file name.
    files: Vec<(String, &'static str)>,
}

impl Mount {
    fn in_container(&self) -> Value {
        json!({ "name": self.name, "mountPath": self.folder, "readOnly": true })
    }

    fn volume(&self) -> Value {
        let items: Vec<Value> = self
            .files
            .iter()
            .map(|(key, path)| json!({ "key": key, "path": path }))
            .collect();
        json!({ "name": self.name, "secret": { "secretName": self.secret, "defaultMode": FILE_MODE, "items": items } })
    }
}

fn mounts(desired: &Desired) -> Vec<Mount> {
    let certificate = |listener: &str, name, secret: &str| Mount {
        name,
        folder: format!("{}/{listener}", paths::TLS),
        secret: secret.to_owned(),
        files: ["tls.crt", "tls.key"].map(|file| (file.to_owned(), file)).into(),
    };
    let authority = |name, folder: &str, secret: &KeyOfSecret| Mount {
        name,
        folder: folder.to_owned(),
        secret: secret.name.clone(),
        files: vec![(secret.key.clone(), "ca.crt")],
    };
    let database = desired
        .postgresql
        .tls
        .as_ref()
        .and_then(|tls| tls.authority.as_ref());
    [
        desired
            .grpc
            .certificate
            .as_ref()
            .map(|from| certificate("grpc", "grpc-tls", &from.secret)),
        desired
            .http
            .certificate
            .as_ref()
            .map(|from| certificate("http", "http-tls", &from.secret)),
        database.map(|secret| authority("postgresql-ca", paths::DATABASE, secret)),
        desired
            .storage
            .authority
            .as_ref()
            .map(|secret| authority("object-storage-ca", paths::STORE, secret)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Agents of one generation over nodes and zones; those of the one before do not count, or a roll-out would be lopsided.
fn spread(desired: &Desired) -> Vec<Value> {
    let over = |topology: &str, otherwise: &str| {
        json!({
            "maxSkew": 1, "topologyKey": topology, "whenUnsatisfiable": otherwise,
            "labelSelector": { "matchLabels": labels::selector(&desired.name) },
            "matchLabelKeys": ["pod-template-hash"],
        })
    };
    let mut constraints = vec![over("kubernetes.io/hostname", "ScheduleAnyway")];
    if let Some(otherwise) = desired.zone_spread.when_unsatisfiable() {
        constraints.push(over("topology.kubernetes.io/zone", otherwise));
    }
    constraints
}
