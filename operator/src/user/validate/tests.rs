//! What Users become, and what is refused.

use serde_json::{Value, json};

use super::*;

fn user(spec: Value) -> User {
    let mut whole = json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "User",
        "metadata": { "name": "alice", "namespace": "shop", "uid": "uid-1", "generation": 1 },
        "spec": { "clusterRef": { "name": "main" }, "authentication": { "type": "scram" } }
    });
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn problem(spec: Value) -> String {
    validate(&user(spec)).unwrap_err().message
}

#[test]
fn a_user_without_options_has_a_generated_password_for_every_mechanism_and_no_rights() {
    let desired = validate(&user(json!({}))).unwrap();
    let scram = desired.scram.unwrap();
    assert_eq!(desired.name, "alice");
    assert_eq!(scram.mechanisms, [ScramMechanism::Sha256, ScramMechanism::Sha512]);
    assert_eq!((scram.password, scram.secret_name.as_str()), (None, "alice"));
    assert!(desired.acls.is_empty() && desired.quotas.is_empty());
    assert_eq!(desired.adopt, AdoptionPolicy::Never);
}

#[test]
fn an_external_subject_is_the_name_of_the_user() {
    let authentication = json!({ "type": "external", "subject": "CN=alice,O=shop" });
    let acls =
        json!({ "acls": [{ "resource": { "type": "topic", "name": "orders" }, "operations": ["Read"] }] });
    let desired = validate(&user(
        json!({ "authentication": authentication, "authorization": acls }),
    ))
    .unwrap();
    assert_eq!((desired.name.as_str(), desired.scram), ("CN=alice,O=shop", None));
    assert_eq!(desired.acls[0].principal, "User:CN=alice,O=shop");
}

#[test]
fn each_operation_of_an_entry_is_a_row_and_repeated_ones_are_one() {
    let acls = json!({ "acls": [
        { "resource": { "type": "topic", "name": "orders", "patternType": "prefix" }, "operations": ["Read", "Describe", "Read"] },
        { "resource": { "type": "group", "name": "*" }, "operations": ["Read"], "host": "10.0.0.1", "permission": "deny" },
        { "resource": { "type": "cluster" }, "operations": ["IdempotentWrite"] },
        { "resource": { "type": "transactionalId", "name": "tx" }, "operations": ["All"] },
    ] });
    let desired = validate(&user(json!({ "authorization": acls }))).unwrap();
    let rows: Vec<String> = desired
        .acls
        .iter()
        .map(|row| {
            let AclRow {
                resource_type,
                resource_name,
                pattern_type,
                host,
                operation,
                permission,
                ..
            } = row;
            format!("{permission} {operation} {resource_type} {resource_name} {pattern_type} {host}")
        })
        .collect();
    let expected = [
        "ALLOW IDEMPOTENT_WRITE CLUSTER kafka-cluster LITERAL *",
        "DENY READ GROUP * LITERAL 10.0.0.1",
        "ALLOW DESCRIBE TOPIC orders PREFIXED *",
        "ALLOW READ TOPIC orders PREFIXED *",
        "ALLOW ALL TRANSACTIONAL_ID tx LITERAL *",
    ];
    assert_eq!(rows, expected);
    assert!(desired.acls.iter().all(|row| row.principal == "User:alice"));
}

#[test]
fn quotas_are_those_of_the_user_for_all_its_clients() {
    let quotas =
        json!({ "producerByteRate": 1048576, "requestPercentage": 12.5, "controllerMutationRate": 1 });
    let desired = validate(&user(json!({ "quotas": quotas }))).unwrap();
    let found: Vec<(&str, f64)> = desired
        .quotas
        .iter()
        .map(|row| (row.id.key.as_str(), row.value))
        .collect();
    let expected = [
        ("controller_mutation_rate", 1.0),
        ("producer_byte_rate", 1_048_576.0),
        ("request_percentage", 12.5),
    ];
    assert_eq!(found, expected);
    let name = Some(QuotaName::Named("alice".to_owned()));
    assert!(
        desired
            .quotas
            .iter()
            .all(|row| row.id.user_name == name && row.id.client_id.is_none())
    );
}

#[test]
fn what_cannot_be_is_a_problem_that_names_the_field() {
    let acl = |acl: Value| json!({ "authorization": { "acls": [acl] } });
    for (spec, expected) in [
        (json!({ "name": "*" }), "not that of one user"),
        (json!({ "name": "ANONYMOUS" }), "not that of one user"),
        (json!({ "name": "a\nb" }), "control character"),
        (json!({ "name": "ä".repeat(128) }), "255 bytes"),
        (
            json!({ "authentication": { "type": "external" } }),
            "authentication.subject",
        ),
        (
            json!({ "authentication": { "type": "scram", "passwordSecret": { "name": "alice" } } }),
            "passwordSecret.name",
        ),
        (
            acl(
                json!({ "resource": { "type": "topic", "name": "orders" }, "operations": ["ClusterAction"] }),
            ),
            "acls[0]",
        ),
        (
            acl(json!({ "resource": { "type": "group" }, "operations": ["Read"] })),
            "resource.name",
        ),
        (
            acl(
                json!({ "resource": { "type": "topic", "name": "orders" }, "operations": ["Read"], "host": "example.com" }),
            ),
            "host",
        ),
        (
            json!({ "quotas": { "producerByteRate": 0 } }),
            "quotas.producerByteRate",
        ),
    ] {
        let problem = problem(spec.clone());
        assert!(problem.contains(expected), "{spec}: {problem}");
    }
}

#[test]
fn the_name_of_a_user_stays() {
    let mut renamed = user(json!({ "name": "bob" }));
    renamed.status = serde_json::from_value(json!({ "userName": "alice" })).unwrap();
    let problem = validate(&renamed).unwrap_err().message;
    assert!(problem.contains("cannot change from \"alice\""), "{problem}");
}
