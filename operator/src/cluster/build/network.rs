//! Builds the Service and the NetworkPolicy.

use serde_json::{Value, json};

use super::{ChildObject, object::ObjectBuilder};
use crate::{
    cluster::{children::ManagedKind, desired::DesiredCluster, labels},
    crd::ListenerType,
};

/// Builds the Service: the first contact of clients and the target of Prometheus' discovery.
/// Afterwards clients connect to each agent directly.
pub(super) fn service(desired: &DesiredCluster) -> ChildObject {
    let port = |name: &str, number: u16, protocol: &str| json!({ "name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": protocol });
    let grpc = if desired.grpc.has_tls() {
        "https"
    } else {
        "kubernetes.io/h2c"
    };
    let http = if desired.http.has_tls() { "https" } else { "http" };
    ObjectBuilder::new(desired, ManagedKind::Service, desired.service_name()).build(json!({ "spec": {
        "type": "ClusterIP",
        "selector": labels::agent_selector(&desired.name),
        "ports": [
            port("grpc", desired.grpc.number, grpc),
            port("grpc-forward", desired.forward_port, grpc),
            port("http", desired.http.number, http),
        ],
    } }))
}

/// Builds the NetworkPolicy, which admits agents, clients and metrics scrapers.
pub(super) fn network_policy(desired: &DesiredCluster) -> Option<ChildObject> {
    let peers = desired.network_policy.as_ref()?;
    let agents = json!({ "podSelector": { "matchLabels": labels::agent_selector(&desired.name) } });
    let given = |peers: &[Value], otherwise: Value| {
        if peers.is_empty() {
            vec![otherwise]
        } else {
            peers.to_vec()
        }
    };
    let tcp = |numbers: &[u16]| -> Vec<Value> {
        let port = |number| json!({ "port": number, "protocol": "TCP" });
        numbers.iter().map(port).collect()
    };
    let clients = given(&peers.clients, json!({ "podSelector": {} }));
    let mut client_ports = vec![desired.grpc.number, desired.forward_port];
    client_ports.extend(desired.kafka.iter().map(|port| port.number));
    let mut ingress = vec![
        json!({ "from": [agents] }),
        json!({ "from": clients, "ports": tcp(&client_ports) }),
        json!({ "from": given(&peers.monitoring, json!({ "namespaceSelector": {} })), "ports": tcp(&[desired.http.number]) }),
    ];
    for listener in &desired.listeners {
        let mut rule = json!({ "ports": tcp(&[listener.port.number]) });
        if !listener.peers.is_empty() {
            rule["from"] = json!(listener.peers);
        } else if listener.kind == ListenerType::Internal {
            rule["from"] = json!(clients);
        }
        // Others are reached from outside, with addresses that no policy can name: no restriction.
        ingress.push(rule);
    }
    let draft = ObjectBuilder::new(desired, ManagedKind::NetworkPolicy, desired.agent_name());
    Some(draft.build(json!({ "spec": {
        "podSelector": { "matchLabels": labels::agent_selector(&desired.name) },
        "policyTypes": ["Ingress"],
        "ingress": ingress,
    } })))
}
