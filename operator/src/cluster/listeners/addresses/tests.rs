//! Addresses of each type of listener.

use std::collections::BTreeMap;

use super::*;
use crate::cluster::fixtures::{desired_with, listener_facts};

fn desired(listener: &str) -> DesiredCluster {
    desired_with(&format!("listeners: {{additional: [{listener}]}}"))
}

/// Returns the addresses for the first contact, that of mode `shared`, and those of the agents.
fn addresses(listener: &str) -> (Vec<String>, Option<String>, BTreeMap<String, String>) {
    let desired = desired(listener);
    let facts = listener_facts("external");
    let listener = &desired.listeners[0];
    (
        bootstrap_addresses(&desired, listener, &facts),
        shared_address(&desired, listener, &facts),
        agent_addresses(&desired, listener, &facts),
    )
}

fn agents(expected: [(&str, &str); 2]) -> BTreeMap<String, String> {
    expected
        .map(|(pod, address)| (pod.to_owned(), address.to_owned()))
        .into()
}

#[test]
fn an_internal_listener_is_reached_by_the_addresses_of_pods() {
    let (bootstrap, shared, each) = addresses("{name: external, type: internal, port: 9094}");
    assert_eq!(bootstrap, ["events-external-bootstrap.team-a.svc:9094"]);
    assert_eq!(shared, None);
    assert_eq!(
        each,
        agents([("pod-a", "10.0.0.1:9094"), ("pod-b", "10.0.0.2:9094")])
    );
    let (_, _, each) = addresses("{name: external, type: internal, port: 9094, ipFamilies: [IPv6, IPv4]}");
    assert_eq!(
        each,
        agents([("pod-a", "[fd00::1]:9094"), ("pod-b", "10.0.0.2:9094")])
    );
}

#[test]
fn kafka_clients_verify_the_names_of_pods_and_of_nodes() {
    const INTERNAL: &str = "{name: external, type: internal, protocol: kafka, port: 9094";
    let (_, _, plain) = addresses(&format!("{INTERNAL}}}"));
    assert_eq!(
        plain,
        agents([("pod-a", "10.0.0.1:9094"), ("pod-b", "10.0.0.2:9094")])
    );
    let tls = format!("{INTERNAL}, tls: {{secretName: a}}, ipFamilies: [IPv6, IPv4]}}");
    let (bootstrap, _, each) = addresses(&tls);
    assert_eq!(bootstrap, ["events-external-bootstrap.team-a.svc:9094"]);
    assert_eq!(
        each,
        agents([
            ("pod-a", "fd00--1.events-kafka.team-a.svc.cluster.local:9094"),
            ("pod-b", "10-0-0-2.events-kafka.team-a.svc.cluster.local:9094")
        ])
    );
    let of_nodes = |protocol: &str| {
        let listener = format!(
            "{{name: external, type: nodeport, unsafeWithoutAuthentication: true, protocol: {protocol}, port: 9094}}"
        );
        let desired = desired(&listener);
        let facts = listener_facts("external");
        let hosts = verified_node_hosts(&desired.listeners[0], &facts);
        hosts.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_nodes("kafka"), ["192.0.2.1", "node-b.example.com"]);
    assert_eq!(of_nodes("grpc"), Vec::<String>::new());
}

#[test]
fn a_node_port_is_reached_at_the_node_of_the_agent() {
    let (bootstrap, _, each) =
        addresses("{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094}");
    assert_eq!(bootstrap, ["192.0.2.1:30000", "node-b.example.com:30000"]);
    assert_eq!(
        each,
        agents([
            ("pod-a", "192.0.2.1:30001"),
            ("pod-b", "node-b.example.com:30002")
        ])
    );
    let (_, _, each) = addresses(
        "{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, nodeAddressType: InternalIP, ipFamilies: [IPv6]}",
    );
    assert_eq!(
        each,
        agents([("pod-a", "[fd00::a]:30001"), ("pod-b", "10.1.0.2:30002")])
    );
}

#[test]
fn one_host_for_all_agents_has_a_port_for_each() {
    let kind = "{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, bootstrap: {nodePort: 31000, advertisedHost: localhost},
        agents: {nodePort: 31001, advertisedHost: localhost}}";
    let (bootstrap, _, each) = addresses(kind);
    assert_eq!(bootstrap, ["localhost:30000"]);
    assert_eq!(
        each,
        agents([("pod-a", "localhost:30001"), ("pod-b", "localhost:30002")])
    );
    let forwarded = "{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094,
        agents: {advertisedHost: router.example.com, advertisedPort: 9200}}";
    assert_eq!(
        addresses(forwarded).2,
        agents([
            ("pod-a", "router.example.com:9200"),
            ("pod-b", "router.example.com:9201")
        ])
    );
}

#[test]
fn a_load_balancer_is_reached_by_its_own_address_or_by_the_name_that_is_given() {
    let (bootstrap, shared, each) =
        addresses("{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094}");
    assert_eq!(bootstrap, ["bootstrap.elb.example.com:9094"]);
    assert_eq!(shared, None);
    // The second load balancer has no address yet.
    assert_eq!(
        each,
        [("pod-a".to_owned(), "a.elb.example.com:9094".to_owned())].into()
    );
    let named = "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, agents: {advertisedHost: 'b{slot}.example.com', advertisedPort: 443}}";
    assert_eq!(
        addresses(named).2,
        agents([("pod-a", "b0.example.com:443"), ("pod-b", "b1.example.com:443")])
    );
}

#[test]
fn one_load_balancer_for_all_is_advertised_by_the_address_that_clients_use() {
    let (bootstrap, shared, each) = addresses(
        "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, mode: shared}",
    );
    assert_eq!(bootstrap, ["bootstrap.elb.example.com:9094"]);
    assert_eq!((shared, each.len()), (None, 0));
    let named = "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, mode: shared, bootstrap: {advertisedHost: events.example.com}}";
    let (bootstrap, shared, _) = addresses(named);
    assert_eq!(bootstrap, ["events.example.com:9094"]);
    assert_eq!(shared.as_deref(), Some("events.example.com:9094"));
    let port = "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, mode: shared, bootstrap: {advertisedPort: 443}}";
    assert_eq!(
        addresses(port).1.as_deref(),
        Some("bootstrap.elb.example.com:443")
    );
}

#[test]
fn a_proxy_is_reached_by_host_names() {
    let gateway = "{name: external, type: gateway, unsafeWithoutAuthentication: true, port: 9094, gateway: {parentRefs: [{name: web}]}, bootstrap: {host: events.example.com}}";
    let (bootstrap, shared, each) = addresses(gateway);
    assert_eq!(bootstrap, ["events.example.com:443"]);
    assert_eq!(shared.as_deref(), Some("events.example.com:443"));
    assert_eq!(each.len(), 0);
    let ingress =
        "{name: external, type: ingress, unsafeWithoutAuthentication: true, port: 9094, mode: perAgent, bootstrap: {host: events.example.com},
        agents: {host: 'events-{slot}.example.com'}}";
    let (bootstrap, shared, each) = addresses(ingress);
    assert_eq!(bootstrap, ["events.example.com:80"]);
    assert_eq!(shared, None);
    assert_eq!(
        each,
        agents([
            ("pod-a", "events-0.example.com:80"),
            ("pod-b", "events-1.example.com:80")
        ])
    );
    let encrypted = "{name: external, type: ingress, unsafeWithoutAuthentication: true, port: 9094, ingress: {tlsSecretName: web}, bootstrap: {host: events.example.com}}";
    assert_eq!(addresses(encrypted).0, ["events.example.com:443"]);
}
