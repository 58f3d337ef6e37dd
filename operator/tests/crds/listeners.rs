//! Additional listeners that contradict themselves.

use streamhouse_operator::{cluster::validate::validate, crd::StreamHouseCluster};

use super::{Result, cluster, defaults, dry_run, server};

/// Additional listeners and what their rejection must contain.
const REFUSED_LISTENERS: &[(&str, &str)] = &[
    (
        "{name: a, type: nodeport, port: 9094}",
        "require authentication: set authentication, or unsafeWithoutAuthentication",
    ),
    (
        "{name: a, type: loadbalancer, unsafeWithoutAuthentication: false, port: 9094}",
        "require authentication",
    ),
    (
        "{name: http, type: internal, port: 9094}",
        "names of other listeners",
    ),
    ("{name: Upper, type: internal, port: 9094}", "additional[0].name"),
    (
        "{name: a, type: route, port: 9094}",
        "Unsupported value: \"route\"",
    ),
    (
        "{name: a, type: internal, port: 80}",
        "should be greater than or equal to 1024",
    ),
    (
        "{name: a, type: internal, port: 50051}",
        "ports other than those of grpc and http",
    ),
    (
        "{name: a, type: internal, port: 8080}",
        "ports other than those of grpc and http",
    ),
    (
        "{name: a, type: internal, port: 9094}, {name: b, type: internal, port: 9094}",
        "must have different ports",
    ),
    (
        "{name: a, type: internal, port: 9094}, {name: a, type: internal, port: 9095}",
        "duplicate entries for key",
    ),
    (
        "{name: a, type: gateway, unsafeWithoutAuthentication: true, port: 9094, bootstrap: {host: a.example.com}}",
        "gateway is required",
    ),
    (
        "{name: a, type: gateway, unsafeWithoutAuthentication: true, port: 9094, gateway: {parentRefs: [{name: web}]}}",
        "need bootstrap.host",
    ),
    (
        "{name: a, type: ingress, unsafeWithoutAuthentication: true, port: 9094}",
        "need bootstrap.host",
    ),
    (
        "{name: a, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, ingress: {className: nginx}}",
        "ingress applies to type ingress only",
    ),
    (
        "{name: a, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, bootstrap: {host: a.example.com}}",
        "set advertisedHost",
    ),
    (
        "{name: a, type: ingress, unsafeWithoutAuthentication: true, port: 9094, mode: perAgent, bootstrap: {host: a.example.com}}",
        "needs agents.host",
    ),
    (
        "{name: a, type: ingress, unsafeWithoutAuthentication: true, port: 9094, mode: perAgent, bootstrap: {host: a.example.com}, agents: {host: b.example.com}}",
        "agents.host",
    ),
    (
        "{name: a, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, mode: shared, agents: {nodePort: 31000}}",
        "agents applies to mode perAgent only",
    ),
    (
        "{name: a, type: nodeport, unsafeWithoutAuthentication: true, port: 9094, loadBalancerClass: nlb}",
        "apply to type loadbalancer only",
    ),
    (
        "{name: a, type: internal, port: 9094, bootstrap: {nodePort: 31000}}",
        "apply to types nodeport and loadbalancer only",
    ),
    (
        "{name: a, type: internal, port: 9094, nodeAddressType: ExternalIP}",
        "nodeAddressType applies to type nodeport only",
    ),
    (
        "{name: a, type: gateway, unsafeWithoutAuthentication: true, port: 9094, gateway: {parentRefs: [{name: web}], routeKind: TLSRoute}, bootstrap: {host: a.example.com}}",
        "set tls",
    ),
    (
        "{name: a, type: internal, port: 9094, agents: {advertisedHost: a.example.com}}",
        "agents.advertisedHost does not apply to type internal",
    ),
    (
        "{name: a, type: nodeport, unsafeWithoutAuthentication: true, protocol: mqtt, port: 9094}",
        "Unsupported value: \"mqtt\"",
    ),
    (
        "{name: a, type: nodeport, unsafeWithoutAuthentication: true, protocol: kafka, mode: shared, port: 9094}",
        "has mode perAgent only",
    ),
    (
        "{name: a, type: ingress, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, tls: {secretName: a}, bootstrap: {host: a.example.com}}",
        "needs agents.host",
    ),
    (
        "{name: a, type: ingress, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, bootstrap: {host: a.example.com}, agents: {host: 'a-{slot}.example.com'}}",
        "TLS that is passed through: set tls",
    ),
    (
        "{name: a, type: ingress, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, tls: {secretName: a}, ingress: {tlsSecretName: a}, bootstrap: {host: a.example.com}, agents: {host: 'a-{slot}.example.com'}}",
        "remove ingress.tlsSecretName",
    ),
    (
        "{name: a, type: gateway, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, tls: {secretName: a}, gateway: {parentRefs: [{name: web}], routeKind: GRPCRoute}, bootstrap: {host: a.example.com}, agents: {host: 'a-{slot}.example.com'}}",
        "set routeKind TLSRoute",
    ),
];

/// Listeners for Kafka clients of each type.
const TAKEN_KAFKA_LISTENERS: &[&str] = &[
    "kafka: {enabled: true}",
    "kafka: {enabled: false}, additional: [{name: a, type: internal, protocol: kafka, port: 9092}]",
    "additional: [{name: a, type: nodeport, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, agents: {nodePort: 31001}}]",
    "additional: [{name: a, type: loadbalancer, unsafeWithoutAuthentication: true, protocol: kafka, mode: perAgent, port: 9094}]",
    "additional: [{name: a, type: gateway, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, tls: {secretName: a}, gateway: {parentRefs: [{name: web}]}, \
     bootstrap: {host: a.example.com}, agents: {host: 'a-{slot}.example.com'}}]",
    "additional: [{name: a, type: ingress, unsafeWithoutAuthentication: true, protocol: kafka, port: 9094, tls: {issuerRef: {name: a}}, ingress: {className: nginx}, \
     bootstrap: {host: a.example.com}, agents: {host: 'a-{slot}.example.com'}}]",
];

#[test]
fn listeners_for_kafka_clients_of_each_type_are_taken() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("kafka-listeners")?;
    for listeners in TAKEN_KAFKA_LISTENERS {
        let manifest = cluster(&namespace, "events", &format!("listeners: {{{listeners}}}"))?;
        dry_run(server, &manifest).unwrap_or_else(|refusal| panic!("{listeners}: {refusal}"));
        let stored: StreamHouseCluster = serde_json::from_str(&manifest)?;
        validate(&stored, &defaults()).unwrap_or_else(|refusal| panic!("{listeners}: {refusal}"));
    }
    Ok(())
}

#[test]
fn listeners_that_contradict_themselves_are_refused_by_the_schema_and_by_the_operator() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("listeners")?;
    for (listeners, part) in REFUSED_LISTENERS {
        let manifest = cluster(
            &namespace,
            "events",
            &format!("listeners: {{additional: [{listeners}]}}"),
        )?;
        let refusal = dry_run(server, &manifest).expect_err(listeners).to_string();
        assert!(refusal.contains(part), "{listeners}: {refusal}");
        if let Ok(stored) = serde_json::from_str::<StreamHouseCluster>(&manifest) {
            validate(&stored, &defaults()).expect_err(listeners);
        }
    }
    Ok(())
}
