//! Builds the Certificates for cert-manager.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use super::{ChildObject, object::ObjectBuilder};
use crate::cluster::{
    children::ManagedKind,
    desired::{DesiredCluster, DesiredListener, KAFKA_LISTENER, ListenerPort, with_slot},
    inputs::BuildInputs,
    listeners, names,
};

/// Builds the Certificates of all listeners that have an issuer.
pub(super) fn certificates(desired: &DesiredCluster, inputs: &BuildInputs) -> Vec<ChildObject> {
    let services = service_names(desired, &desired.service_name());
    let own = [("grpc", &desired.grpc), ("http", &desired.http)];
    let own = own
        .into_iter()
        .map(|(name, port)| certificate(desired, name, port, services.clone()));
    let kafka = desired
        .kafka
        .iter()
        .map(|port| certificate(desired, KAFKA_LISTENER, port, kafka_names(desired)));
    let further = desired.listeners.iter().map(|listener| {
        let names = listener_names(desired, listener, inputs);
        certificate(desired, &listener.name, &listener.port, names)
    });
    own.chain(kafka).chain(further).flatten().collect()
}

/// Builds the Certificate of a listener if it has an issuer. That of a listener for StreamHouse
/// clients names the Service; connections to agents are verified against that name too, since the
/// addresses of pods are not known in advance.
fn certificate(
    desired: &DesiredCluster,
    listener: &str,
    port: &ListenerPort,
    hosts: Vec<String>,
) -> Option<ChildObject> {
    let certificate = port.certificate.as_ref()?;
    let issuer = certificate.issuer.as_ref()?;
    let further = certificate.dns_names.iter().chain(&certificate.ip_addresses);
    let names = SubjectNames::collect(hosts.iter().chain(further));
    let draft = ObjectBuilder::new(
        desired,
        ManagedKind::Certificate,
        names::truncate_name(&format!("{}-{listener}", desired.name)),
    );
    let mut spec = json!({
        "secretName": certificate.secret,
        "dnsNames": names.dns,
        "usages": ["digital signature", "server auth"],
        "privateKey": { "algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always" },
        "issuerRef": { "name": issuer.name, "kind": issuer.kind.as_str(), "group": "cert-manager.io" },
    });
    if !names.ips.is_empty() {
        spec["ipAddresses"] = json!(names.ips);
    }
    Some(draft.build(json!({ "spec": spec })))
}

/// Returns the DNS names of a Service in the Kubernetes cluster.
fn service_names(desired: &DesiredCluster, service: &str) -> Vec<String> {
    let namespace = &desired.namespace;
    vec![
        service.to_owned(),
        format!("{service}.{namespace}"),
        format!("{service}.{namespace}.svc"),
        format!("{service}.{namespace}.svc.{}", desired.cluster_domain),
    ]
}

/// Returns the names by which clients reach the listener for Kafka clients. They verify the name of
/// each agent.
fn kafka_names(desired: &DesiredCluster) -> Vec<String> {
    let bootstrap = names::listener_service(&desired.name, KAFKA_LISTENER, None);
    let mut hosts = service_names(desired, &bootstrap);
    hosts.extend(service_names(desired, &desired.kafka_pods_service()));
    hosts.push(format!("*.{}", desired.kafka_pods_domain()));
    hosts
}

/// Returns the names by which clients reach an additional listener. With host names of its own, it
/// is not reached by the names of the Service, which a public authority would not sign.
fn listener_names(desired: &DesiredCluster, listener: &DesiredListener, inputs: &BuildInputs) -> Vec<String> {
    let mut hosts: Vec<String> = listener
        .advertised_bootstrap()
        .map(str::to_owned)
        .into_iter()
        .collect();
    if hosts.is_empty() {
        let service = names::listener_service(&desired.name, &listener.name, None);
        hosts = service_names(desired, &service);
    }
    if let Some(host) = listener.advertised_agents().filter(|_| listener.per_agent) {
        let slots = inputs.listeners.slots.max(desired.expected_slots());
        hosts.extend((0..slots).map(|slot| with_slot(host, slot)));
    }
    if listener.uses_pod_names() {
        hosts.push(format!("*.{}", desired.kafka_pods_domain()));
    }
    hosts.extend(listeners::balancer_hosts(listener, &inputs.listeners).map(str::to_owned));
    hosts.extend(listeners::verified_node_hosts(listener, &inputs.listeners).map(str::to_owned));
    hosts
}

/// The names in a certificate, each once.
struct SubjectNames {
    dns: Vec<Value>,
    ips: Vec<Value>,
}

impl SubjectNames {
    /// Separates IP addresses from DNS names, and leaves out what a wildcard covers.
    fn collect<'a>(hosts: impl Iterator<Item = &'a String> + Clone) -> Self {
        let wildcards: BTreeSet<&str> = hosts.clone().filter_map(|host| host.strip_prefix("*.")).collect();
        let is_covered = |host: &str| {
            let parent = host.split_once('.').map(|(_, parent)| parent);
            !host.starts_with("*.") && parent.is_some_and(|parent| wildcards.contains(parent))
        };
        let mut seen = BTreeSet::new();
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        for host in hosts {
            let is_ip = host.parse::<IpAddr>().is_ok();
            if (is_ip || !is_covered(host)) && seen.insert(host.as_str()) {
                if is_ip { &mut ips } else { &mut dns }.push(json!(host));
            }
        }
        Self { dns, ips }
    }
}
