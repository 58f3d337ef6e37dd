//! The objects of additional listeners.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::cluster::{fixtures::listener_facts, inputs::ListenerFacts};

/// Builds a cluster with one listener that is named external, with two agents and three slots.
fn build_listener(listener: &str) -> Vec<ChildObject> {
    let inputs = BuildInputs {
        listeners: listener_facts("external"),
        ..inputs()
    };
    let desired = desired_with(&format!("{{listeners: {{additional: [{listener}]}}}}"));
    build(&desired, &inputs)
}

/// Renders the objects that the listener adds or changes, except the pods.
fn listener_yaml(listener: &str) -> String {
    let minimal = build_children("{}");
    let changed: Vec<ChildObject> = build_listener(listener)
        .into_iter()
        .filter(|child| !minimal.contains(child) && child.kind != ManagedKind::Deployment)
        .filter(|child| child.name() != "events-agent")
        .collect();
    to_yaml(&changed)
}

const NODE_PORT: &str = "{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, externalTrafficPolicy: Local,
    bootstrap: {nodePort: 31000}, agents: {nodePort: 31001, annotations: {example.com/agent: 'agent {slot}'}}}";

#[test]
fn node_ports() {
    insta::assert_snapshot!(listener_yaml(NODE_PORT));
}

#[test]
fn load_balancers_with_a_certificate() {
    insta::assert_snapshot!(listener_yaml(
        "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, tls: {issuerRef: {name: ca}, ipAddresses: [192.0.2.9]},
        loadBalancerClass: service.k8s.aws/nlb, loadBalancerSourceRanges: [192.0.2.0/24],
        ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6], trafficDistribution: PreferClose}"
    ));
}

#[test]
fn one_address_through_a_gateway() {
    insta::assert_snapshot!(listener_yaml(
        "{name: external, type: gateway, unsafeWithoutAuthentication: true, port: 9094, gateway: {parentRefs: [{name: web, namespace: gateways}]},
        bootstrap: {host: events.example.com, labels: {team: a}}}"
    ));
}

#[test]
fn an_address_for_each_agent_through_a_gateway_that_passes_tls() {
    insta::assert_snapshot!(listener_yaml(
        "{name: external, type: gateway, unsafeWithoutAuthentication: true, mode: perAgent, port: 9094, gateway: {parentRefs: [{name: web}]},
        tls: {issuerRef: {name: ca}, dnsNames: ['*.example.com']},
        bootstrap: {host: events.example.com}, agents: {host: 'events-{slot}.example.com'}}"
    ));
}

#[test]
fn an_ingress() {
    insta::assert_snapshot!(listener_yaml(
        "{name: external, type: ingress, unsafeWithoutAuthentication: true, port: 9094, ingress: {className: nginx, tlsSecretName: events-web},
        bootstrap: {host: events.example.com, annotations: {nginx.ingress.kubernetes.io/backend-protocol: GRPC}}}"
    ));
}

#[test]
fn a_certificate_names_every_agent_that_may_run() {
    let names = |listener: &str| {
        let children = build_listener(listener);
        let certificate = find_kind(&children, ManagedKind::Certificate);
        serde_json::from_value::<Vec<String>>(certificate["spec"]["dnsNames"].clone()).unwrap()
    };
    // Three agents, and one more during a rolling update.
    let each = names(
        "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, tls: {issuerRef: {name: ca}},
        bootstrap: {advertisedHost: events.example.com}, agents: {advertisedHost: 'events-{slot}.example.com'}}",
    );
    assert_eq!(
        each,
        ["events", "events-0", "events-1", "events-2", "events-3"].map(|name| format!("{name}.example.com"))
    );
    let found = names(
        "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094, tls: {issuerRef: {name: ca}}}",
    );
    assert!(found.contains(&"events-external-bootstrap.team-a.svc.cluster.local".to_owned()));
    assert!(found.contains(&"a.elb.example.com".to_owned()));
    let domain = "{listeners: {clusterDomain: k8s.example, grpc: {tls: {issuerRef: {name: ca}, dnsNames: [events.example.com]}}}}";
    let certificate = find_kind(&build_children(domain), ManagedKind::Certificate);
    let own = certificate["spec"]["dnsNames"].as_array().unwrap();
    assert!(own.contains(&json!("events-agents.team-a.svc.k8s.example")));
    assert!(own.contains(&json!("events.example.com")));
}

#[test]
fn kafka_clients_inside() {
    insta::assert_snapshot!(yaml_difference(
        "listeners: {kafka: {enabled: true, autoCreatePartitions: 1}}"
    ));
}

#[test]
fn kafka_clients_inside_by_two_listeners_with_certificates() {
    let spec = "listeners: {kafka: {enabled: true, port: 9093, tls: {issuerRef: {name: ca}}},
        additional: [{name: plain, type: internal, protocol: kafka, port: 9092},
        {name: secure, type: internal, protocol: kafka, port: 9094, tls: {issuerRef: {name: ca}, dnsNames: [a.example.com]}}]}";
    let inputs = BuildInputs {
        listeners: listener_facts("plain"),
        ..inputs()
    };
    let children = build(&desired_with(spec), &inputs);
    let minimal = build_children("{}");
    let mut deployment = find_kind(&children, ManagedKind::Deployment);
    let environment = deployment["spec"]["template"]["spec"]["containers"][0]["env"].take();
    let variable = environment.as_array().unwrap().iter();
    let mut variable = variable.filter(|entry| entry["name"] == "STREAMHOUSE_ADVERTISED_KAFKA_ADDRESS");
    assert_eq!(
        variable.next().unwrap()["value"],
        "[$(POD_IP)].events-kafka.team-a.svc.cluster.local:9093"
    );
    let changed: Vec<ChildObject> = children
        .into_iter()
        .filter(|child| !minimal.contains(child) && child.kind != ManagedKind::Deployment)
        .collect();
    insta::assert_snapshot!(to_yaml(&changed));
}

#[test]
fn kafka_clients_by_node_ports() {
    insta::assert_snapshot!(listener_yaml(
        "{name: external, type: nodeport, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, tls: {issuerRef: {name: ca}}}"
    ));
}

#[test]
fn kafka_clients_through_a_gateway_that_passes_tls() {
    insta::assert_snapshot!(listener_yaml(
        "{name: external, type: gateway, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, gateway: {parentRefs: [{name: web}]},
        tls: {secretName: kafka}, bootstrap: {host: kafka.example.com}, agents: {host: 'kafka-{slot}.example.com'}}"
    ));
}

#[test]
fn kubelets_hear_of_addresses_on_which_kafka_clients_depend() {
    let hash = |protocol: &str, facts: ListenerFacts| {
        let listener = format!(
            "{{name: external, type: nodeport, unsafeWithoutAuthentication: true, protocol: {protocol}, port: 9094}}"
        );
        let desired = desired_with(&format!("{{listeners: {{additional: [{listener}]}}}}"));
        let inputs = BuildInputs {
            listeners: facts,
            ..inputs()
        };
        listeners_hash(&desired, &inputs)
    };
    assert_eq!(hash("grpc", listener_facts("external")), None);
    let known = hash("kafka", listener_facts("external"));
    assert_eq!(known, hash("kafka", listener_facts("external")));
    assert_ne!(known, hash("kafka", ListenerFacts::default()));
}

#[test]
fn monitoring_does_not_scrape_an_agent_twice() {
    for child in build_listener(NODE_PORT) {
        let labels = child.object.metadata.labels.as_ref().unwrap();
        let selected = labels::agent_selector("events")
            .iter()
            .all(|(name, value)| labels.get(name) == Some(value));
        assert_eq!(
            selected && child.kind == ManagedKind::Service,
            child.name() == "events-agents",
            "{}",
            child.name()
        );
    }
}

#[test]
fn the_policy_opens_the_ports_of_listeners() {
    let policy = |listener: &str| {
        let spec = format!(
            "{{listeners: {{additional: [{listener}]}}, networkPolicy: {{enabled: true, clients: [{{podSelector: {{}}}}]}}}}"
        );
        find_kind(&build_children(&spec), ManagedKind::NetworkPolicy)["spec"]["ingress"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .clone()
    };
    let kafka = "{listeners: {kafka: {enabled: true}}, networkPolicy: {enabled: true}}";
    let kafka = find_kind(&build_children(kafka), ManagedKind::NetworkPolicy);
    let clients = &kafka["spec"]["ingress"][1]["ports"];
    assert_eq!(clients[2], json!({ "port": 9092, "protocol": "TCP" }));
    let ports = json!([{ "port": 9094, "protocol": "TCP" }]);
    assert_eq!(
        policy("{name: a, type: nodeport, unsafeWithoutAuthentication: true, port: 9094}"),
        json!({ "ports": ports })
    );
    let inside = json!({ "ports": ports, "from": [{ "podSelector": {} }] });
    assert_eq!(policy("{name: a, type: internal, port: 9094}"), inside);
    let given = json!({ "ports": ports, "from": [{ "ipBlock": { "cidr": "192.0.2.0/24" } }] });
    assert_eq!(
        policy(
            "{name: a, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, networkPolicyPeers: [{ipBlock: {cidr: 192.0.2.0/24}}]}"
        ),
        given
    );
}

#[test]
fn a_kind_is_written_in_the_version_that_is_served() {
    let children = build_listener(
        "{name: external, type: gateway, unsafeWithoutAuthentication: true, port: 9094, tls: {secretName: a}, gateway: {parentRefs: [{name: web}]},
        bootstrap: {host: events.example.com}}",
    );
    let route = find_kind(&children, ManagedKind::TLSRoute);
    assert_eq!(route["apiVersion"], "gateway.networking.k8s.io/v1alpha2");
}

#[test]
fn other_addresses_do_not_roll_the_pods_and_another_listener_does() {
    let template = |listener: &str, facts: ListenerFacts| {
        let desired = desired_with(&format!("{{listeners: {{additional: [{listener}]}}}}"));
        let inputs = BuildInputs {
            listeners: facts,
            ..inputs()
        };
        find_kind(&build(&desired, &inputs), ManagedKind::Deployment)["spec"]["template"].clone()
    };
    let known = template(NODE_PORT, listener_facts("external"));
    assert_eq!(known, template(NODE_PORT, ListenerFacts::default()));
    let advertised = NODE_PORT.replace("nodePort: 31000", "advertisedHost: events.example.com");
    assert_eq!(known, template(&advertised, ListenerFacts::default()));
    let hash = |template: &Value| template["metadata"]["annotations"][ANNOTATION_CONFIG_HASH].clone();
    for other in [
        NODE_PORT.replace("9094", "9095"),
        NODE_PORT.replace("external", "outside"),
        NODE_PORT.replace("9094", "9094, protocol: kafka"),
        NODE_PORT.replace("9094", "9094, tls: {secretName: certificate}"),
    ] {
        let other = template(&other, ListenerFacts::default());
        assert_ne!(hash(&known), hash(&other));
    }
}

#[test]
fn agents_read_the_file_from_a_directory_that_is_updated() {
    let children =
        build_listener("{name: external, type: internal, port: 50052, tls: {secretName: certificate}}");
    let settings = find_kind(&children, ManagedKind::ConfigMap);
    let file = "/etc/streamhouse/listeners/listeners.yaml";
    // The usual port is taken.
    assert_eq!(settings["data"]["STREAMHOUSE_GRPC_FORWARD_LISTEN"], "[::]:50053");
    let deployment = find_kind(&children, ManagedKind::Deployment);
    let pod = &deployment["spec"]["template"]["spec"];
    // A pod of an earlier template has neither the mounts nor their names.
    let environment = pod["containers"][0]["env"].as_array().unwrap();
    for (name, value) in [
        ("STREAMHOUSE_LISTENERS_FILE", file),
        ("STREAMHOUSE_TLS_DIR", "/etc/streamhouse/tls"),
    ] {
        assert!(
            environment.contains(&json!({ "name": name, "value": value })),
            "{name}"
        );
        assert!(settings["data"].get(name).is_none(), "{name}");
    }
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let of_name = |name: &str| mounts.iter().find(|mount| mount["name"] == name).unwrap();
    assert_eq!(of_name("listeners")["mountPath"], "/etc/streamhouse/listeners");
    assert!(of_name("listeners").get("subPath").is_none());
    assert_eq!(
        of_name("external-tls")["mountPath"],
        "/etc/streamhouse/tls/external"
    );
    let ports = pod["containers"][0]["ports"].as_array().unwrap();
    assert!(ports.contains(&json!({ "containerPort": 50052, "protocol": "TCP" })));
    assert!(
        ports
            .iter()
            .any(|port| port["name"] == "grpc-forward" && port["containerPort"] == 50053)
    );
}

#[test]
fn the_listeners_of_running_agents_are_known_from_their_file() {
    let spec = |listener: &str| desired_with(&format!("{{listeners: {{additional: [{listener}]}}}}"));
    let desired = spec(NODE_PORT);
    let facts = BuildInputs {
        listeners: listener_facts("external"),
        ..inputs()
    };
    let children = build(&desired, &facts);
    let config = children
        .iter()
        .find(|child| child.name() == "events-listeners")
        .unwrap();
    let data = serde_json::from_value(config.object.data["data"].clone()).unwrap();
    let stored = stored_listeners(Some(&data));
    assert_eq!(stored, desired_listeners(&desired));
    let advertised = NODE_PORT.replace("nodePort: 31000", "advertisedHost: events.example.com");
    assert_eq!(stored, desired_listeners(&spec(&advertised)));
    assert_ne!(
        stored,
        desired_listeners(&spec(&NODE_PORT.replace("9094", "9095")))
    );
    assert_ne!(stored, desired_listeners(&desired_with("{}")));
    for nothing in ["", "[]", "{}", "{\"listeners\": 1}"] {
        let data = BTreeMap::from([("listeners.yaml".to_owned(), nothing.to_owned())]);
        assert_eq!(stored_listeners(Some(&data)), Vec::<Value>::new(), "{nothing}");
    }
    assert_eq!(stored_listeners(None), desired_listeners(&desired_with("{}")));
}
