//! Clusters for tests, in the form that users write. Used only by the tests of this crate.

use crate::{
    apis::OptionalApi,
    cluster::{
        desired::DesiredCluster,
        inputs::{AgentFacts, BuildInputs, ListenerFacts, ServiceFacts},
        problem::ClusterProblem,
        validate::validate,
    },
    context::ClusterDefaults,
    crd::StreamHouseCluster,
};

/// Defaults of the operator in these tests.
pub(crate) fn defaults() -> ClusterDefaults {
    ClusterDefaults {
        image: "ghcr.io/streamhouse/streamhouse-agent".to_owned(),
        version: "0.1.0".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        monitoring_namespaces: vec!["monitoring".to_owned()],
    }
}

/// All optional APIs installed and a Secret read.
pub(crate) fn inputs() -> BuildInputs {
    BuildInputs {
        secret_hash: "5ec2e7".to_owned(),
        monitoring_api: true,
        cert_manager_api: true,
        http_authority: true,
        openshift: false,
        preflight: true,
        route_versions: [
            (OptionalApi::GrpcRoute, "v1".to_owned()),
            (OptionalApi::TlsRoute, "v1alpha2".to_owned()),
        ]
        .into(),
        listeners: ListenerFacts::default(),
    }
}

/// Returns the cluster team-a/events with a minimal spec and these fields.
pub(crate) fn cluster_with(spec: &str) -> StreamHouseCluster {
    let mut resource: serde_json::Value = serde_yaml_ng::from_str(
        "apiVersion: streamhouse.io/v1alpha1
kind: StreamHouseCluster
metadata: {name: events, namespace: team-a, uid: 6f2c1c9e-8f5e-4a57-9d1c-1f0b6c1f7a11, generation: 1}
spec:
  postgresql: {connectionSecret: {name: events-postgresql}}
  objectStorage: {bucket: streamhouse-data}
",
    )
    .unwrap();
    let spec: serde_json::Value = serde_yaml_ng::from_str(spec).unwrap();
    for (name, value) in spec.as_object().into_iter().flatten() {
        resource["spec"][name] = value.clone();
    }
    serde_json::from_value(resource).unwrap()
}

/// Returns the validated cluster with these fields.
pub(crate) fn desired_with(spec: &str) -> DesiredCluster {
    validate(&cluster_with(spec), &defaults()).unwrap()
}

/// Returns the validation problem of the cluster with these fields.
pub(crate) fn problem_with(spec: &str) -> ClusterProblem {
    validate(&cluster_with(spec), &defaults()).unwrap_err()
}

/// A spec with every field set.
pub(crate) const EVERYTHING: &str = include_str!("../../tests/clusters/everything.yaml");

/// Facts about a listener of this name with two agents and their Services; the second load balancer
/// has no address yet.
pub(crate) fn listener_facts(listener: &str) -> ListenerFacts {
    let agent = |slot, ips: &[&str], node: &str| AgentFacts {
        slot: Some(slot),
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        node: Some(node.to_owned()),
        listeners_hash: None,
    };
    let service = |slot: Option<u16>, host: Option<&str>| {
        let facts = ServiceFacts {
            node_port: Some(30000 + slot.map_or(0, |slot| slot + 1)),
            balancer_hosts: host.into_iter().map(str::to_owned).collect(),
        };
        ((listener.to_owned(), slot), facts)
    };
    let node = |addresses: &[(&str, &str)]| {
        let addresses = addresses.iter();
        addresses
            .map(|(kind, host)| ((*kind).to_owned(), (*host).to_owned()))
            .collect()
    };
    ListenerFacts {
        slots: 3,
        agents: [
            ("pod-a".to_owned(), agent(0, &["10.0.0.1", "fd00::1"], "node-a")),
            ("pod-b".to_owned(), agent(1, &["10.0.0.2"], "node-b")),
        ]
        .into(),
        services: [
            service(None, Some("bootstrap.elb.example.com")),
            service(Some(0), Some("a.elb.example.com")),
            service(Some(1), None),
        ]
        .into(),
        nodes: [
            (
                "node-a".to_owned(),
                node(&[
                    ("InternalIP", "10.1.0.1"),
                    ("InternalIP", "fd00::a"),
                    ("ExternalIP", "192.0.2.1"),
                ]),
            ),
            (
                "node-b".to_owned(),
                node(&[("ExternalDNS", "node-b.example.com"), ("InternalIP", "10.1.0.2")]),
            ),
        ]
        .into(),
        ..ListenerFacts::default()
    }
}
