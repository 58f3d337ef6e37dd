//! Clusters for tests, in the form that users write. Used only by the tests of this crate.

use crate::{
    cluster::{desired::DesiredCluster, inputs::BuildInputs, problem::ClusterProblem, validate::validate},
    context::ClusterDefaults,
    crd::StreamHouseCluster,
};

/// Defaults of the operator in these tests.
pub(crate) fn defaults() -> ClusterDefaults {
    ClusterDefaults {
        image: "ghcr.io/streamhouse/streamhouse-agent".to_owned(),
        version: "0.1.0".to_owned(),
    }
}

/// All optional APIs installed and a Secret read.
pub(crate) fn inputs() -> BuildInputs {
    BuildInputs {
        secret_hash: "5ec2e7".to_owned(),
        monitoring_api: true,
        cert_manager_api: true,
        http_authority: true,
        preflight: true,
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
