//! The objects of clusters, as snapshots and as properties of generated clusters.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    batch::v1::Job,
    core::v1::{ConfigMap, Service, ServiceAccount},
    networking::v1::{Ingress, NetworkPolicy},
    policy::v1::PodDisruptionBudget,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::*;
use crate::cluster::{
    children::{ANNOTATION_CONFIG_HASH, ANNOTATION_OWNER_UID, ANNOTATION_RENDERED_HASH},
    fixtures::{EVERYTHING, desired_with, inputs},
    labels,
};

mod listeners;
mod properties;

fn build_children(spec: &str) -> Vec<ChildObject> {
    build(&desired_with(spec), &inputs())
}

fn find_kind(children: &[ChildObject], kind: ManagedKind) -> Value {
    let child = children.iter().find(|child| child.kind == kind).unwrap();
    serde_json::to_value(&child.object).unwrap()
}

/// Renders the objects as YAML, with the dashboard's JSON abbreviated.
fn to_yaml(children: &[ChildObject]) -> String {
    let mut documents = Vec::new();
    for child in children {
        let mut object = serde_json::to_value(&child.object).unwrap();
        for (name, text) in object
            .get_mut("data")
            .and_then(Value::as_object_mut)
            .into_iter()
            .flatten()
        {
            if name.ends_with(".json") {
                *text = json!(format!(
                    "({} panels)",
                    text.as_str().unwrap().matches("\"gridPos\"").count()
                ));
            }
        }
        documents.push(serde_yaml_ng::to_string(&object).unwrap());
    }
    documents.join("---\n")
}

#[test]
fn minimal() {
    insta::assert_snapshot!(to_yaml(&build_children("{}")));
}

#[test]
fn everything() {
    insta::assert_snapshot!(to_yaml(&build_children(EVERYTHING)));
}

/// Renders only the objects that differ from those of the minimal cluster.
fn yaml_difference(spec: &str) -> String {
    let minimal = build_children("{}");
    let changed: Vec<ChildObject> = build_children(spec)
        .into_iter()
        .filter(|child| !minimal.contains(child))
        .collect();
    to_yaml(&changed)
}

#[test]
fn certificates_from_a_secret() {
    insta::assert_snapshot!(yaml_difference(
        "listeners: {grpc: {tls: {secretName: events-certificate}}}"
    ));
}

#[test]
fn certificates_from_cert_manager() {
    insta::assert_snapshot!(yaml_difference(
        "listeners:
  grpc: {tls: {issuerRef: {name: letsencrypt, kind: ClusterIssuer}}}
  http: {tls: {issuerRef: {name: local}}}
monitoring: {serviceMonitor: {enabled: true}}"
    ));
}

#[test]
fn autoscaling() {
    insta::assert_snapshot!(yaml_difference(
        "agents: {autoscaling: {minReplicas: 2, maxReplicas: 8, targetCPUUtilizationPercentage: 70,
  metrics: [{type: Pods, pods: {metric: {name: streamhouse_bytes}, target: {type: AverageValue, averageValue: 10M}}}]}}"
    ));
}

#[test]
fn stopped() {
    insta::assert_snapshot!(yaml_difference("{stopped: true, monitoring: {prometheusRule: {enabled: true, disabledAlerts: [HighConsumerLag]}}}")
        .lines().take_while(|line| !line.starts_with("kind: PrometheusRule")).collect::<Vec<_>>().join("\n"));
}

#[test]
fn labels_of_the_spec_replace_none_of_the_operators() {
    let plain = "{enabled: true}";
    let own = build_children(&format!(
        "monitoring: {{serviceMonitor: {plain}, prometheusRule: {plain}, dashboards: {plain}}}"
    ));
    let names: BTreeSet<&String> = own
        .iter()
        .filter_map(|child| child.object.metadata.labels.as_ref())
        .flat_map(|labels| labels.keys())
        .collect();
    let forged: Vec<String> = names.iter().map(|name| format!("{name}: forged")).collect();
    let labels = format!(
        "{{enabled: true, labels: {{{}, more: added}}}}",
        forged.join(", ")
    );
    let built = build_children(&format!(
        "monitoring: {{serviceMonitor: {labels}, prometheusRule: {labels}, dashboards: {labels}}}"
    ));
    let mut added = 0;
    for (own, built) in own.iter().zip(&built) {
        let mut labels = built.object.metadata.labels.clone().unwrap();
        added += usize::from(labels.remove("more").is_some());
        labels.retain(|name, value| {
            own.object.metadata.labels.as_ref().unwrap().contains_key(name) || value != "forged"
        });
        assert_eq!(
            Some(&labels),
            own.object.metadata.labels.as_ref(),
            "{}",
            built.name()
        );
    }
    assert_eq!((own.len(), added), (built.len(), 3));
}

#[test]
fn monitoring_in_another_namespace() {
    let children = build_children(
        "monitoring:
  serviceMonitor: {enabled: true, namespace: monitoring, labels: {release: prometheus}}
  prometheusRule: {enabled: true, namespace: monitoring}
  dashboards: {enabled: true, namespace: monitoring}",
    );
    let elsewhere: Vec<ChildObject> = children
        .into_iter()
        .filter(|child| child.namespace() == "monitoring")
        .collect();
    assert_eq!(elsewhere.len(), 3);
    for child in &elsewhere {
        assert_eq!(child.object.metadata.owner_references, None);
        let annotations = child.object.metadata.annotations.as_ref().unwrap();
        assert_eq!(
            annotations[ANNOTATION_OWNER_UID],
            "6f2c1c9e-8f5e-4a57-9d1c-1f0b6c1f7a11"
        );
        assert!(child.name().starts_with("team-a-events-"), "{}", child.name());
    }
    let without_rules: Vec<ChildObject> = elsewhere
        .into_iter()
        .filter(|child| child.kind != ManagedKind::PrometheusRule)
        .collect();
    insta::assert_snapshot!(to_yaml(&without_rules));
}

#[test]
fn pods_on_openshift_have_no_ids_and_keep_the_rest_of_the_standard() {
    let inputs = BuildInputs {
        openshift: true,
        ..inputs()
    };
    let desired = desired_with("{}");
    let mut children = build(&desired, &inputs);
    children.extend(purge_objects(&desired, &inputs, None));
    let pods = children
        .iter()
        .filter_map(|child| child.object.data.pointer("/spec/template/spec"));
    assert_eq!(pods.clone().count(), 3);
    for pod in pods {
        let expected = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
        assert_eq!(pod["securityContext"], expected);
        assert_eq!(pod["containers"][0]["securityContext"]["runAsNonRoot"], true);
    }
}

#[test]
fn a_pod_template_of_the_users() {
    insta::assert_snapshot!(yaml_difference(
        "agents: {podTemplate: {
  metadata: {labels: {team: a}},
  spec: {nodeSelector: {disk: none}, tolerations: [{key: streaming, operator: Exists}], terminationGracePeriodSeconds: 120,
    topologySpreadConstraints: [{topologyKey: topology.kubernetes.io/zone, maxSkew: 2}],
    volumes: [{name: scratch, emptyDir: {}}],
    containers: [
      {name: agent, env: [{name: STREAMHOUSE_ZONE, value: here}, {name: HTTPS_PROXY, value: 'http://proxy:3128'}],
       volumeMounts: [{name: scratch, mountPath: /scratch}], readinessProbe: {periodSeconds: 9}},
      {name: shipper, image: 'example.com/shipper:1'}]}}}"
    ));
}

#[test]
fn what_is_not_installed_is_left_out() {
    let spec = "{monitoring: {serviceMonitor: {enabled: true}, prometheusRule: {enabled: true}, dashboards: {enabled: true}},
        listeners: {grpc: {tls: {issuerRef: {name: local}}}}}";
    let bare = BuildInputs {
        secret_hash: "5ec2e7".to_owned(),
        ..BuildInputs::default()
    };
    let kinds: BTreeSet<ManagedKind> = build(&desired_with(spec), &bare)
        .iter()
        .map(|child| child.kind)
        .collect();
    for kind in ManagedKind::ALL {
        let expected = matches!(
            kind,
            ManagedKind::ServiceAccount
                | ManagedKind::ConfigMap
                | ManagedKind::Service
                | ManagedKind::Deployment
                | ManagedKind::PodDisruptionBudget
        );
        assert_eq!(kinds.contains(kind), expected, "{kind}");
    }
}

#[test]
fn another_secret_or_setting_rolls_the_pods_and_nothing_else_does() {
    let hash = |spec: &str, secret_hash: &str| {
        let inputs = BuildInputs {
            secret_hash: secret_hash.to_owned(),
            ..inputs()
        };
        let deployment = find_kind(&build(&desired_with(spec), &inputs), ManagedKind::Deployment);
        deployment["spec"]["template"]["metadata"]["annotations"][ANNOTATION_CONFIG_HASH]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let usual = hash("{}", "1");
    assert_ne!(hash("{}", "2"), usual);
    assert_ne!(hash("agents: {settings: {flushInterval: 100ms}}", "1"), usual);
    assert_eq!(
        hash(
            "{agents: {replicas: 9}, paused: true, monitoring: {dashboards: {enabled: true}}}",
            "1"
        ),
        usual
    );
}

#[test]
fn another_bucket_is_another_check() {
    let name = |spec: &str| {
        let children = build_children(spec);
        children
            .iter()
            .find(|child| child.kind == ManagedKind::Job)
            .unwrap()
            .name()
            .to_owned()
    };
    assert_ne!(name("objectStorage: {bucket: another-bucket}"), name("{}"));
    assert_ne!(
        name("objectStorage: {bucket: streamhouse-data, credentialsSecret: {name: key}}"),
        name("{}")
    );
    let further = "{agents: {replicas: 9, settings: {flushInterval: 100ms}}, listeners: {grpc: {tls: {secretName: a}}}}";
    assert_eq!(name(further), name("{}"));
}

#[test]
fn a_job_ends_whatever_the_user_adds_to_the_pods() {
    let job = find_kind(&build_children("agents: {podTemplate: {spec: {
        nodeSelector: {disk: none}, restartPolicy: Always,
        containers: [{name: agent, livenessProbe: {httpGet: {path: /, port: 1}}, args: [run], env: [{name: A, value: b}]},
            {name: shipper, image: x}]}}}"), ManagedKind::Job);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["nodeSelector"], json!({ "disk": "none" }));
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    let container = &pod["containers"][0];
    assert_eq!(container["args"], json!(["check", "object-store"]));
    assert!(
        container["env"]
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "A", "value": "b" }))
    );
    assert!(container.get("livenessProbe").is_none());
}

#[test]
fn no_job_is_found_by_the_selector_of_agents() {
    let desired = desired_with("{}");
    for job in [
        jobs::preflight_job(&desired, &inputs()),
        jobs::purge_job(&desired, &inputs(), None),
    ] {
        let labels = &serde_json::to_value(&job.object).unwrap()["spec"]["template"]["metadata"]["labels"];
        assert!(
            labels::agent_selector("events")
                .iter()
                .any(|(name, value)| labels[name] != *value)
        );
    }
}

/// Asserts that the API's own types have every field.
fn assert_round_trips<T: Serialize + DeserializeOwned>(child: &ChildObject) {
    let given = serde_json::to_value(&child.object).unwrap();
    let read: T =
        serde_json::from_value(given.clone()).unwrap_or_else(|error| panic!("{}: {error}", child.kind));
    let back = serde_json::to_value(read).unwrap();
    assert_covers(&given, &back, child.kind.as_str());
}

fn assert_covers(given: &Value, known: &Value, path: &str) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(known) => assert_covers(value, known, &path),
                    None => assert!(*value == json!({}) || *value == json!([]), "{path} is no field"),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            assert_eq!(given.len(), known.len(), "{path}");
            given
                .iter()
                .zip(known)
                .for_each(|(given, known)| assert_covers(given, known, path));
        }
        _ => assert_eq!(given, known, "{path}"),
    }
}

/// Checks an object against the type of its kind. The types of optional APIs are not available
/// here.
fn assert_known(child: &ChildObject) {
    match child.kind {
        ManagedKind::ServiceAccount => assert_round_trips::<ServiceAccount>(child),
        ManagedKind::ConfigMap => assert_round_trips::<ConfigMap>(child),
        ManagedKind::Service => assert_round_trips::<Service>(child),
        ManagedKind::Deployment => assert_round_trips::<Deployment>(child),
        ManagedKind::PodDisruptionBudget => assert_round_trips::<PodDisruptionBudget>(child),
        ManagedKind::NetworkPolicy => assert_round_trips::<NetworkPolicy>(child),
        ManagedKind::HorizontalPodAutoscaler => assert_round_trips::<HorizontalPodAutoscaler>(child),
        ManagedKind::Job => assert_round_trips::<Job>(child),
        ManagedKind::Ingress => assert_round_trips::<Ingress>(child),
        ManagedKind::Certificate
        | ManagedKind::GRPCRoute
        | ManagedKind::TLSRoute
        | ManagedKind::ServiceMonitor
        | ManagedKind::PrometheusRule => {
            assert!(child.object.data["spec"].is_object());
        }
    }
}

#[test]
fn the_purge_runs_the_agents_program_with_its_rights_and_nothing_of_it_has_an_owner() {
    let objects = purge_objects(&desired_with(EVERYTHING), &inputs(), Some("a1"));
    let kinds: Vec<ManagedKind> = objects.iter().map(|child| child.kind).collect();
    assert_eq!(
        kinds,
        [
            ManagedKind::ServiceAccount,
            ManagedKind::ConfigMap,
            ManagedKind::Job
        ]
    );
    for child in &objects {
        assert_known(child);
        assert_eq!(child.object.metadata.owner_references, None);
        let annotations = child.object.metadata.annotations.as_ref().unwrap();
        assert!(annotations.contains_key(ANNOTATION_OWNER_UID));
    }
    let purge = &objects[2];
    let spec = &purge.object.data["spec"]["template"]["spec"];
    let arguments = json!(["purge", "--yes", "--cluster-id", "a1"]);
    assert_eq!(spec["containers"][0]["args"], arguments);
    assert_eq!(spec["serviceAccountName"], objects[0].name());
    let settings = &spec["containers"][0]["envFrom"][0]["configMapRef"]["name"];
    assert_eq!(settings, objects[1].name());
    assert!(purge.name().starts_with("events-purge-"), "{}", purge.name());
}

#[test]
fn a_corrected_image_or_setting_is_another_purge() {
    let name = |spec: &str| {
        jobs::purge_job(&desired_with(spec), &inputs(), None)
            .name()
            .to_owned()
    };
    assert_ne!(name("image: {tag: 1.2.3}"), name("{}"));
    assert_ne!(
        name("objectStorage: {bucket: streamhouse-data, region: eu-central-1}"),
        name("{}")
    );
    assert_eq!(name("agents: {replicas: 9}"), name("{}"));
}

#[test]
fn the_dashboard_opens_on_its_own_cluster_and_has_a_uid_of_its_own() {
    let dashboard = |spec: &DesiredCluster| -> Value {
        let child = monitoring::dashboard(spec).unwrap();
        let data = child.object.data["data"].as_object().unwrap().clone();
        serde_json::from_str(data.values().next().unwrap().as_str().unwrap()).unwrap()
    };
    let one = desired_with("monitoring: {dashboards: {enabled: true}}");
    let other = DesiredCluster {
        name: "other".to_owned(),
        ..one.clone()
    };
    let (one, other) = (dashboard(&one), dashboard(&other));
    assert_ne!(one["uid"], other["uid"]);
    assert!(one["panels"].as_array().unwrap().len() >= 7);
    let variables = one["templating"]["list"].as_array().unwrap();
    let cluster = variables
        .iter()
        .find(|variable| variable["name"] == "cluster")
        .unwrap();
    assert_eq!(cluster["current"]["value"], json!(["events"]));
}
