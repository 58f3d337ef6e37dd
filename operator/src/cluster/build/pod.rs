//! Builds the pod templates: what agents and Jobs share (environment, files, security context), and
//! the user's override.

use serde_json::{Value, json};

use super::{
    CONTAINER_NAME, config,
    environment::{self, SecretMount},
    listeners, oauth,
};
use crate::cluster::{
    children::ANNOTATION_CONFIG_HASH,
    desired::{DesiredCluster, KAFKA_LISTENER},
    inputs::BuildInputs,
    labels,
    merge::merge,
};

/// User of the images, which is unprivileged.
const USER_ID: i64 = 65532;

/// Builds the pod template of the agents.
pub(super) fn agent_template(desired: &DesiredCluster, inputs: &BuildInputs) -> Value {
    let mounts = [
        environment::certificate_mounts(desired),
        environment::ca_mounts(desired),
    ]
    .concat();
    let environment = [
        environment::identity_variables(desired),
        environment::listener_variables(desired),
        environment::access_variables(desired),
        environment::right_variables(desired),
    ]
    .concat();
    let mut container = container(desired, &["run"], &environment, &mounts);
    let probe = |path: &str, period: i64, failures: i64| {
        let scheme = if desired.http.has_tls() { "HTTPS" } else { "HTTP" };
        json!({
            "httpGet": { "path": path, "port": "http", "scheme": scheme },
            "periodSeconds": period, "timeoutSeconds": 3, "failureThreshold": failures, "successThreshold": 1,
        })
    };
    merge(
        &mut container,
        &json!({
            "ports": own_ports(desired),
            "resources": desired.resources,
            // Up to two minutes to start; afterwards a hanging agent is restarted after half a
            // minute, and a stopping one reports itself as not ready at once.
            "startupProbe": probe("/health", 2, 60),
            "livenessProbe": probe("/health", 10, 3),
            "readinessProbe": probe("/ready", 5, 2),
        }),
    );
    let mut spec = pod_spec(desired, inputs, container, &mounts);
    listeners::add_to_pod(desired, &mut spec);
    oauth::add_to_pod(desired, &mut spec);
    merge(
        &mut spec,
        &json!({
            "terminationGracePeriodSeconds": desired.drain_timeout.as_secs() + 15,
            "topologySpreadConstraints": topology_spread(desired),
        }),
    );
    let mut template = json!({ "metadata": { "labels": {}, "annotations": {} }, "spec": spec });
    if let Some(over) = &desired.pod_template {
        merge(&mut template, over);
    }
    let ours = json!({ "metadata": {
        "labels": labels::common_labels(desired, labels::AGENT_COMPONENT),
        "annotations": { ANNOTATION_CONFIG_HASH: config::config_hash(desired, inputs) },
    } });
    merge(&mut template, &ours);
    template
}

/// Returns the container ports of the built-in listeners.
fn own_ports(desired: &DesiredCluster) -> Vec<Value> {
    let kafka = desired.kafka.iter().map(|port| (KAFKA_LISTENER, port.number));
    let always = [
        ("grpc", desired.grpc.number),
        ("grpc-forward", desired.forward_port),
        ("http", desired.http.number),
    ];
    let port =
        |(name, number): (&str, u16)| json!({ "name": name, "containerPort": number, "protocol": "TCP" });
    always.into_iter().chain(kafka).map(port).collect()
}

/// Builds the pod template of a Job that runs the agent's program with these arguments.
pub(super) fn job_template(
    desired: &DesiredCluster,
    inputs: &BuildInputs,
    component: &str,
    arguments: &[&str],
) -> Value {
    // The certificate of a listener may not exist yet, and a Job has no listener.
    let mounts = environment::ca_mounts(desired);
    let mut container = container(
        desired,
        arguments,
        &environment::access_variables(desired),
        &mounts,
    );
    merge(
        &mut container,
        &json!({
            "resources": { "requests": { "cpu": "50m", "memory": "64Mi" }, "limits": { "memory": "256Mi" } },
            // The last line of the log becomes the message of a condition.
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }),
    );
    let spec = pod_spec(desired, inputs, container, &mounts);
    let mut template = json!({ "metadata": { "labels": {} }, "spec": spec });
    if let Some(over) = desired.pod_template.as_ref().map(job_overlay) {
        merge(&mut template, &over);
    }
    let ours = json!({
        "metadata": { "labels": labels::common_labels(desired, component) },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": CONTAINER_NAME, "args": arguments }],
        },
    });
    merge(&mut template, &ours);
    template
}

/// Returns the user's override without what would keep a Job from ending or applies to a server
/// only.
fn job_overlay(over: &Value) -> Value {
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
        containers.retain(|container| container["name"] == CONTAINER_NAME);
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

fn container(
    desired: &DesiredCluster,
    arguments: &[&str],
    environment: &[Value],
    mounts: &[SecretMount],
) -> Value {
    let mut container = json!({
        "name": CONTAINER_NAME,
        "image": desired.image.reference,
        "args": arguments,
        "env": environment,
        "envFrom": [{ "configMapRef": { "name": desired.agent_name() } }],
        "volumeMounts": mounts.iter().map(SecretMount::to_volume_mount).collect::<Vec<_>>(),
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

fn pod_spec(
    desired: &DesiredCluster,
    inputs: &BuildInputs,
    container: Value,
    mounts: &[SecretMount],
) -> Value {
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
        "securityContext": security_context(inputs),
        "containers": [container],
        "volumes": mounts.iter().map(SecretMount::to_volume).collect::<Vec<_>>(),
    }))
}

/// Returns the security context, which satisfies the restricted pod security standard. OpenShift
/// refuses ids that are not of the namespace's range, and sets them by itself.
fn security_context(inputs: &BuildInputs) -> Value {
    let mut context = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    if !inputs.openshift {
        for id in ["runAsUser", "runAsGroup", "fsGroup"] {
            context[id] = json!(USER_ID);
        }
    }
    context
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
fn topology_spread(desired: &DesiredCluster) -> Vec<Value> {
    let over = |topology: &str, otherwise: &str| {
        json!({
            "maxSkew": 1, "topologyKey": topology, "whenUnsatisfiable": otherwise,
            "labelSelector": { "matchLabels": labels::agent_selector(&desired.name) },
            "matchLabelKeys": ["pod-template-hash"],
        })
    };
    let mut constraints = vec![over("kubernetes.io/hostname", "ScheduleAnyway")];
    if let Some(otherwise) = desired.zone_spread.when_unsatisfiable() {
        constraints.push(over("topology.kubernetes.io/zone", otherwise));
    }
    constraints
}
