//! What is reported of listeners that lack something.

use jiff::Timestamp;

use super::*;
use crate::cluster::{
    fixtures::{desired_with, inputs, listener_facts},
    inputs::AgentFacts,
};

fn report_with(listener: &str, change: impl FnOnce(&mut BuildInputs)) -> ListenersReport {
    let desired = desired_with(&format!("listeners: {{additional: [{listener}]}}"));
    let mut inputs = BuildInputs {
        listeners: listener_facts("external"),
        ..inputs()
    };
    change(&mut inputs);
    report(&desired, &inputs, Vec::new())
}

fn problem(listener: &str, change: impl FnOnce(&mut BuildInputs)) -> (ConditionReason, String) {
    let problem = report_with(listener, change).problem.unwrap();
    (problem.reason, problem.message)
}

const NODE_PORT: &str = "{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094}";
const BALANCER: &str = "{name: external, type: loadbalancer, unsafeWithoutAuthentication: true, port: 9094}";
const GATEWAY: &str = "{name: external, type: gateway, unsafeWithoutAuthentication: true, port: 9094, gateway: {parentRefs: [{name: web}]}, bootstrap: {host: a.example.com}}";

#[test]
fn a_listener_with_all_addresses_has_no_problem() {
    let found = report_with(NODE_PORT, |_| {});
    assert_eq!((&found.problem, found.waits_for_slot), (&None, false));
    let status = &found.listeners[0];
    assert_eq!(
        status.bootstrap.as_deref(),
        Some("192.0.2.1:30000,node-b.example.com:30000")
    );
    assert_eq!(status.addresses, ["192.0.2.1:30001", "node-b.example.com:30002"]);
}

#[test]
fn the_listener_for_kafka_clients_is_reported_first() {
    let listeners = |spec: &str| {
        let desired = desired_with(&format!("listeners: {{{spec}}}"));
        report(&desired, &inputs(), Vec::new()).listeners
    };
    assert_eq!(listeners("kafka: {enabled: false}"), []);
    let found = listeners("kafka: {enabled: true}, additional: [{name: inside, type: internal, port: 9094}]");
    let [kafka, inside] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(
        (kafka.name.as_str(), kafka.protocol, kafka.bootstrap.as_deref()),
        (
            "kafka",
            ListenerProtocol::Kafka,
            Some("events-kafka-bootstrap.team-a.svc:9092")
        )
    );
    assert_eq!(
        (inside.name.as_str(), inside.protocol),
        ("inside", ListenerProtocol::Grpc)
    );
}

#[test]
fn what_is_missing_is_named() {
    let (reason, message) = problem(BALANCER, |_| {});
    assert_eq!(reason, ConditionReason::AddressPending);
    assert_eq!(
        message,
        "listener external: the Service of agent pod-b has no address yet"
    );
    let (_, message) = problem(BALANCER, |inputs| inputs.listeners.services.clear());
    assert_eq!(
        message,
        "listener external: its load balancer has no address yet (bootstrap)"
    );
    let (_, message) = problem(NODE_PORT, |inputs| {
        inputs.listeners.agents.clear();
        inputs.listeners.nodes.clear();
    });
    assert!(message.ends_with("no agent runs yet (bootstrap)"), "{message}");
    let (_, message) = problem(NODE_PORT, |inputs| {
        inputs.listeners.nodes.insert("node-b".to_owned(), Vec::new());
    });
    assert!(
        message.ends_with("the node of agent pod-b has no address"),
        "{message}"
    );
}

#[test]
fn an_agent_without_a_slot_is_waited_for() {
    let waits = |inputs: &mut BuildInputs| {
        inputs
            .listeners
            .agents
            .insert("pod-c".to_owned(), AgentFacts::default());
    };
    assert!(report_with(NODE_PORT, waits).waits_for_slot);
    let (_, message) = problem(NODE_PORT, waits);
    assert!(message.contains("pod-c waits for the slot"), "{message}");
}

#[test]
fn what_only_the_user_can_mend_says_what_to_do() {
    let (reason, message) = problem(GATEWAY, |inputs| inputs.route_versions.clear());
    assert_eq!(reason, ConditionReason::GatewayApiMissing);
    assert!(
        message.contains("GRPCRoute of gateway.networking.k8s.io is not served"),
        "{message}"
    );
    let (reason, message) = problem(NODE_PORT, |inputs| {
        inputs.listeners.nodes.clear();
        inputs.listeners.nodes_forbidden = true;
    });
    assert_eq!(reason, ConditionReason::NodeAccessForbidden);
    assert!(message.contains("rbac.readNodes"), "{message}");
    let (reason, _) = problem(GATEWAY, |inputs| {
        let answer = "route a is not accepted: NotAllowedByListeners: no".to_owned();
        inputs
            .listeners
            .rejected_routes
            .insert("external".to_owned(), answer);
    });
    assert_eq!(reason, ConditionReason::RouteRejected);
    let (reason, _) = problem(NODE_PORT, |inputs| {
        inputs.listeners.label_refusal = Some("cannot write the slot of pod pod-a: forbidden".to_owned());
    });
    assert_eq!(reason, ConditionReason::ApplyFailed);
}

#[test]
fn a_cluster_without_additional_listeners_has_no_such_condition() {
    let mut conditions = ConditionSet::from_stored(&[], None, Timestamp::UNIX_EPOCH);
    set_listeners_available(&mut conditions, &report_with(NODE_PORT, |_| {}));
    set_listeners_available(
        &mut conditions,
        &report(&desired_with("{}"), &inputs(), Vec::new()),
    );
    assert_eq!(conditions.into_sorted_vec(), []);
}

#[test]
fn listeners_that_are_open_to_the_outside_are_named() {
    let listeners = "listeners: {additional: [{name: outside, type: nodeport, unsafeWithoutAuthentication: true, port: 9094}, {name: inside, type: internal, port: 9095}]}";
    let open = report(&desired_with(listeners), &inputs(), Vec::new()).open;
    assert_eq!(open, ["outside"]);
    let closed = format!("{listeners}\nauthentication: {{mechanisms: [SCRAM-SHA-512]}}");
    assert!(
        report(&desired_with(&closed), &inputs(), Vec::new())
            .open
            .is_empty()
    );
    let warning = describe_open(&open);
    assert!(
        warning.contains("listener outside is reachable from outside"),
        "{warning}"
    );
    let both = describe_open(&["a".to_owned(), "b".to_owned()]);
    assert!(both.contains("listeners a, b are"), "{both}");
}
