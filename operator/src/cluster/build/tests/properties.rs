//! Properties of every cluster, tested with generated ones.

use proptest::prelude::*;

use super::*;
use crate::cluster::{
    fixtures::{defaults, listener_facts},
    inputs::ListenerFacts,
    validate::validate,
};

/// Generates clusters with different listeners, numbers of agents, parts and lengths of the
/// namespace.
fn specs() -> impl Strategy<Value = (String, String, BuildInputs)> {
    let tls = || {
        prop::sample::select(vec![
            "{}",
            "{tls: {secretName: cert}}",
            "{tls: {issuerRef: {name: ca}}}",
            "{port: 9999}",
        ])
    };
    let grpc = tls();
    let http = prop::sample::select(vec![
        "{}",
        "{tls: {secretName: cert}}",
        "{tls: {issuerRef: {name: ca}}}",
        "{port: 9998}",
    ]);
    let agents = prop::sample::select(vec![
        "{}",
        "{replicas: 0}",
        "{replicas: 7, zoneSpread: Off}",
        "{autoscaling: {minReplicas: 1, maxReplicas: 9, targetCPUUtilizationPercentage: 60}}",
        "{serviceAccount: {name: mine}, settings: {drainTimeout: 2m}}",
        "{podTemplate: {metadata: {labels: {a: b}}, spec: {hostNetwork: true, containers: [{name: agent, args: [x]}]}}}",
    ]);
    let storage = prop::sample::select(vec![
        "{bucket: data}",
        "{bucket: data, prefix: p, endpoint: 'http://minio:9000', pathStyle: true, credentialsSecret: {name: key}}",
        "{bucket: data, caSecret: {name: ca}}",
    ]);
    let names = (
        "[a-z]([a-z0-9-]{0,38}[a-z0-9])?",
        "[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
    );
    let switches = any::<[bool; 8]>();
    let additional = prop::sample::select(vec![
        "[]",
        "[{name: a-name-of-25-characters-x, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, tls: {issuerRef: {name: ca}}}]",
        "[{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094}, {name: agents, type: internal, port: 9095}]",
        "[{name: external, type: ingress, unsafeWithoutAuthentication: true, port: 9094, bootstrap: {host: a.example.com}}]",
        "[{name: external, type: gateway, unsafeWithoutAuthentication: true, port: 9094, mode: perAgent, gateway: {parentRefs: [{name: web}]},
            bootstrap: {host: a.example.com}, agents: {host: 'a-{slot}.example.com'}}]",
        "[{name: inside, type: internal, protocol: kafka, port: 9096, tls: {issuerRef: {name: ca}}},
            {name: external, type: nodeport, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094}]",
    ]);
    let kafka = prop::sample::select(vec![
        "{enabled: false}",
        "{enabled: true, autoCreatePartitions: 2}",
        "{enabled: true, port: 9093, tls: {issuerRef: {name: ca}}}",
    ]);
    let names = (names, (additional, kafka), 0..4_u16);
    (names, grpc, http, agents, storage, switches).prop_map(|(((name, namespace), (additional, kafka), slots), grpc, http, agents, storage, on)| {
        let elsewhere = if on[0] && !http.contains("tls") { "namespace: monitoring, " } else { "" };
        let spec = format!(
            "{{postgresql: {{connectionSecret: {{name: db}}}}, objectStorage: {storage}, agents: {agents},
            listeners: {{grpc: {grpc}, http: {http}, kafka: {kafka}, additional: {additional}}}, stopped: {}, networkPolicy: {{enabled: {}}},
            monitoring: {{serviceMonitor: {{{elsewhere}enabled: {}}}, prometheusRule: {{{elsewhere}enabled: {}}}, dashboards: {{{elsewhere}enabled: {}}}}}}}",
            on[1], on[2], on[3], on[4], on[5]
        );
        let cluster = format!("{{apiVersion: streamhouse.io/v1alpha1, kind: StreamHouseCluster,
            metadata: {{name: {name}, namespace: {namespace}, uid: u1}}, spec: {spec}}}");
        let listeners = ListenerFacts { slots, ..listener_facts("external") };
        let inputs = BuildInputs { monitoring_api: on[6], cert_manager_api: on[7], listeners, ..inputs() };
        (cluster, namespace, inputs)
    })
}

fn is_name(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_cluster_becomes_objects_that_the_api_takes((cluster, namespace, inputs) in specs()) {
        let cluster = serde_yaml_ng::from_str(&cluster).unwrap();
        let desired = validate(&cluster, &defaults()).unwrap();
        let children = build(&desired, &inputs);
        prop_assert_eq!(&children, &build(&desired, &inputs), "not deterministic");
        let mut seen = BTreeSet::new();
        for child in &children {
            assert_known(child);
            prop_assert!(is_name(child.name()), "{}", child.name());
            prop_assert!(seen.insert((child.kind, child.namespace(), child.name())), "{} twice", child.name());
            let metadata = &child.object.metadata;
            let annotations = metadata.annotations.as_ref().unwrap();
            prop_assert_eq!(annotations[ANNOTATION_RENDERED_HASH].len(), 16);
            let owned = child.namespace() == namespace;
            prop_assert_eq!(metadata.owner_references.is_some(), owned);
            prop_assert_eq!(annotations.contains_key(ANNOTATION_OWNER_UID), !owned);
            for value in metadata.labels.as_ref().unwrap().values() {
                prop_assert!(value.len() <= 63);
            }
        }
        let deployment = find_kind(&children, ManagedKind::Deployment);
        let spec = &deployment["spec"];
        let labels = &spec["template"]["metadata"]["labels"];
        for (name, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
            prop_assert_eq!(&labels[name], value, "the selector finds the pods");
        }
        let automatic = children.iter().any(|child| child.kind == ManagedKind::HorizontalPodAutoscaler);
        prop_assert_eq!(spec.get("replicas").is_none(), automatic);
        let variables: BTreeSet<&str> = spec["template"]["spec"]["containers"][0]["env"].as_array().unwrap().iter()
            .map(|variable| variable["name"].as_str().unwrap()).collect();
        for set in desired.variables.keys() {
            prop_assert!(!variables.contains(set.as_str()), "{} is set twice", set);
        }
    }
}
