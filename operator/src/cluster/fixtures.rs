//! Clusters for tests, written as users write them. Called by the tests of this crate only.

use crate::{
    cluster::{desired::Desired, inputs::Inputs, problem::Problem, validate::validate},
    context::Defaults,
    crd::StreamHouseCluster,
};

/// What the operator of these tests is.
pub(crate) fn defaults() -> Defaults {
    Defaults {
        image: "ghcr.io/streamhouse/streamhouse-agent".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// Everything installed, and a Secret read.
pub(crate) fn inputs() -> Inputs {
    Inputs {
        secret_hash: "5ec2e7".to_owned(),
        monitoring_api: true,
        cert_manager_api: true,
        http_authority: true,
        preflight: true,
    }
}

/// The cluster team-a/events with what a minimal one says, and this in its spec.
pub(crate) fn cluster(spec: &str) -> StreamHouseCluster {
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

/// The same, checked.
pub(crate) fn desired(spec: &str) -> Desired {
    validate(&cluster(spec), &defaults()).unwrap()
}

/// What is wrong with it.
pub(crate) fn problem(spec: &str) -> Problem {
    validate(&cluster(spec), &defaults()).unwrap_err()
}

/// Every field set.
pub(crate) const EVERYTHING: &str = include_str!("../../tests/clusters/everything.yaml");
