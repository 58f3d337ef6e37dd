//! Builds the pod templates: what agents and Jobs share (environment, files, security context), and
//! the user's override.

use serde_json::{Value, json};

use super::{
    config,
    given::{self, Mount},
};
use crate::cluster::{
    children::ANNOTATION_CONFIG_HASH, desired::Desired, inputs::Inputs, labels, merge::merge,
};

/// Name of the container, by which a user's pod template refers to it.
pub(super) const CONTAINER: &str = "agent";
/// User of the images, which is unprivileged.
const USER: i64 = 65532;

/// Builds the pod template of the agents.
pub(super) fn agents(desired: &Desired, inputs: &Inputs) -> Value {
    let mounts = [given::certificates(desired), given::authorities(desired)].concat();
    let environment = [given::identity(desired), given::access(desired)].concat();
    let mut container = container(desired, &["run"], &environment, &mounts);
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
            // Up to two minutes to start; afterwards a hanging agent is restarted after half a
            // minute, and a stopping one reports itself as not ready at once.
            "startupProbe": probe("/health", 2, 60),
            "livenessProbe": probe("/health", 10, 3),
            "readinessProbe": probe("/ready", 5, 2),
        }),
    );
    let mut spec = spec(desired, container, &mounts);
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

/// Builds the pod template of a Job that runs the agent's program with these arguments.
pub(super) fn job(desired: &Desired, component: &str, arguments: &[&str]) -> Value {
    // The certificate of a listener may not exist yet, and a Job has no listener.
    let mounts = given::authorities(desired);
    let mut container = container(desired, arguments, &given::access(desired), &mounts);
    merge(
        &mut container,
        &json!({
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
            // The last line of the log becomes the message of a condition.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }),
    );
    let mut template = json!({ "metadata": { "labels": {} }, "spec": spec(desired, container, &mounts) });
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

/// Returns the user's override without what would keep a Job from ending or applies to a server
/// only.
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

fn container(desired: &Desired, arguments: &[&str], environment: &[Value], mounts: &[Mount]) -> Value {
    let mut container = json!({
        "name": CONTAINER,
        "image": desired.image.reference,
        "args": arguments,
        "env": environment,
        "envFrom": [{ "configMapRef": { "name": desired.agent() } }],
        "volumeMounts": mounts.iter().map(Mount::in_container).collect::<Vec<_>>(),
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
    without_empty_lists(container)
}

fn spec(desired: &Desired, container: Value, mounts: &[Mount]) -> Value {
    let pull_secrets: Vec<Value> = desired
        .image
        .pull_secrets
        .iter()
        .map(|name| json!({ "name": name }))
        .collect();
    without_empty_lists(json!({
        "serviceAccountName": desired.service_account.name,
        "automountServiceAccountToken": false,
        // The variables of every Service would be added to the agent's own.
        "enableServiceLinks": false,
        "imagePullSecrets": pull_secrets,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container],
        "volumes": mounts.iter().map(Mount::volume).collect::<Vec<_>>(),
    }))
}

/// Removes empty lists, which the API server does not store.
fn without_empty_lists(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|_, value| !value.as_array().is_some_and(Vec::is_empty));
    }
    object
}

/// Spreads the agents over nodes and zones. Counts only pods of the same template, because those of
/// the previous one would skew a rollout.
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
