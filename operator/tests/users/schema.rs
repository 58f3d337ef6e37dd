//! What the API server refuses.

use serde_json::{Value, json};

use crate::environment::UserTestEnvironment;

async fn refusal(world: &UserTestEnvironment, name: &str, spec: Value) -> String {
    match world.try_apply(name, spec.clone()).await {
        Ok(_) => panic!("{spec} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_cannot_be_are_refused() {
    let world = UserTestEnvironment::without_cluster("refused").await;
    let scram = |more: Value| {
        let mut authentication = json!({ "type": "scram" });
        for (name, value) in more.as_object().unwrap() {
            authentication[name] = value.clone();
        }
        json!({ "authentication": authentication })
    };
    let acl = |resource: Value| json!({ "authorization": { "acls": [{ "resource": resource, "operations": ["Read"] }] } });
    for (spec, expected) in [
        (
            json!({ "authentication": { "type": "password" } }),
            "authentication.type",
        ),
        (
            json!({ "authentication": { "type": "external" } }),
            "subject is required",
        ),
        (scram(json!({ "subject": "alice" })), "subject is required"),
        (scram(json!({ "mechanisms": ["SCRAM-SHA-1"] })), "mechanisms"),
        (
            json!({ "authentication": { "type": "external", "subject": "alice" }, "name": "bob" }),
            "name and secretName apply",
        ),
        (json!({ "name": "*" }), "reserved"),
        (json!({ "name": "" }), "spec.name"),
        (json!({ "secretName": "UPPER" }), "spec.secretName"),
        (acl(json!({ "type": "topic" })), "name is required"),
        (
            acl(json!({ "type": "cluster", "name": "a" })),
            "do not apply to type cluster",
        ),
        (acl(json!({ "type": "host", "name": "a" })), "resource.type"),
        (
            json!({ "authorization": { "acls": [{ "resource": { "type": "cluster" }, "operations": [] }] } }),
            "operations",
        ),
        (json!({ "quotas": { "producerByteRate": 0 } }), "producerByteRate"),
    ] {
        let problem = refusal(&world, "alice", spec.clone()).await;
        assert!(problem.contains(expected), "{spec}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_identifies_a_user_does_not_change() {
    let world = UserTestEnvironment::without_cluster("immutable").await;
    world.apply("alice", json!({})).await;
    for (spec, expected) in [
        (json!({ "name": "bob" }), "name cannot change"),
        (json!({ "secretName": "bob" }), "secretName cannot change"),
        (
            json!({ "clusterRef": { "name": "other" } }),
            "clusterRef cannot change",
        ),
        (
            json!({ "authentication": { "type": "external", "subject": "alice" } }),
            "authentication.type and authentication.subject cannot change",
        ),
    ] {
        let problem = refusal(&world, "alice", spec.clone()).await;
        assert!(problem.contains(expected), "{spec}: {problem}");
    }
}
