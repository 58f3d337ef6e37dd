//! Builds the Services for Kafka clients inside of the Kubernetes cluster: one for the first
//! contact, and a headless one, below whose name each pod has a name of its own. A certificate can
//! have such names, and not the addresses of pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{ChildObject, object::ObjectBuilder};
use crate::cluster::{
    children::{LABEL_LISTENER, ManagedKind},
    desired::{DesiredCluster, DesiredListener, KAFKA_LISTENER},
    labels, names,
};

/// Builds the Services.
pub(super) fn services(desired: &DesiredCluster) -> Vec<ChildObject> {
    let services = [bootstrap_service(desired), pods_service(desired)];
    services.into_iter().flatten().collect()
}

fn bootstrap_service(desired: &DesiredCluster) -> Option<ChildObject> {
    let port = desired.kafka.as_ref()?;
    let name = names::listener_service(&desired.name, KAFKA_LISTENER, None);
    Some(draft(desired, name).build(json!({ "spec": {
        "type": "ClusterIP",
        "selector": labels::agent_selector(&desired.name),
        "ports": [service_port(KAFKA_LISTENER, port.number)],
    } })))
}

fn pods_service(desired: &DesiredCluster) -> Option<ChildObject> {
    if !desired.has_internal_kafka() {
        return None;
    }
    let own = desired.kafka.iter().map(|port| (KAFKA_LISTENER, port.number));
    let internal = desired.listeners.iter().filter(|l| l.is_internal_kafka());
    let further = internal.map(|listener: &DesiredListener| (listener.name.as_str(), listener.port.number));
    let ports: Vec<Value> = own
        .chain(further)
        .map(|(name, number)| service_port(name, number))
        .collect();
    Some(
        draft(desired, desired.kafka_pods_service()).build(json!({ "spec": {
        "type": "ClusterIP",
        "clusterIP": "None",
        // An agent leads partitions before it is ready and until it has ended.
        "publishNotReadyAddresses": true,
        "selector": labels::agent_selector(&desired.name),
        "ports": ports,
    } })),
    )
}

fn draft(desired: &DesiredCluster, name: String) -> ObjectBuilder<'_> {
    let listener = BTreeMap::from([(LABEL_LISTENER.to_owned(), KAFKA_LISTENER.to_owned())]);
    ObjectBuilder::new(desired, ManagedKind::Service, name)
        .component(labels::LISTENER_COMPONENT)
        .labels(&listener)
}

fn service_port(name: &str, number: u16) -> Value {
    json!({ "name": name, "port": number, "targetPort": number, "protocol": "TCP" })
}
