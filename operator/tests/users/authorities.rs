//! The CA certificates in the Secret for clients.

use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::environment::{SHORT_DRIFT_INTERVAL, UserTestEnvironment, eventually};

/// A certificate by its form; nothing verifies with it here.
fn certificate(content: &str) -> String {
    format!("-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n")
}

async fn until_authorities(world: &UserTestEnvironment, kafka: &str, streamhouse: &str) {
    eventually("the CA certificates", async || {
        let secret = world.secret("alice").await.unwrap();
        (secret["ca.crt"].as_str(), secret["streamhouse-ca.crt"].as_str()) == (kafka, streamhouse)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_given_the_authorities_of_the_listeners_and_new_ones() {
    let world = UserTestEnvironment::new("authorities").await;
    let operator = world.start_operator_with(Some(world.open_access()), SHORT_DRIFT_INTERVAL);
    world.apply("alice", json!({})).await;
    world.until_ready("alice").await;
    until_authorities(&world, "", "").await;
    let before = world.secret("alice").await.unwrap();
    assert!(!before["client.properties"].contains("truststore"));

    let (first, second) = (certificate("AAAA"), certificate("BBBB"));
    // What is beside certificates is not for clients.
    let key = "-----BEGIN PRIVATE KEY-----\nCCCC\n-----END PRIVATE KEY-----\n";
    world
        .put_secret("kafka-tls", json!({ "ca.crt": format!("{first}{key}") }))
        .await;
    let listeners = json!({
        "kafka": { "tls": { "secretName": "kafka-tls" } },
        "grpc": { "tls": { "issuerRef": { "name": "internal-ca" } } },
    });
    let patch = Patch::Merge(json!({ "spec": { "listeners": listeners } }));
    let clusters = world.clusters();
    clusters
        .patch("main", &PatchParams::default(), &patch)
        .await
        .unwrap();
    // The issuer has not signed the other certificate yet.
    until_authorities(&world, &first, "").await;
    world
        .put_secret("main-grpc-tls", json!({ "ca.crt": second }))
        .await;
    until_authorities(&world, &first, &second).await;
    let secret = world.secret("alice").await.unwrap();
    let escaped = first.replace('\n', "\\u000a");
    let java = &secret["client.properties"];
    assert!(java.contains("security.protocol=SASL_SSL\n"), "{java}");
    let store = format!("ssl.truststore.type=PEM\nssl.truststore.certificates={escaped}\n");
    assert!(java.contains(&store), "{java}");
    assert!(secret["librdkafka.conf"].contains("ssl.ca.location=ca.crt\n"));
    assert!(secret["streamhouse.env"].contains("STREAMHOUSE_CLIENT_TLS_CA=streamhouse-ca.crt\n"));
    assert_eq!(secret["password"], before["password"]);

    // While an authority is replaced, clients trust both.
    let both = format!("{first}{second}");
    world.put_secret("kafka-tls", json!({ "ca.crt": both })).await;
    until_authorities(&world, &both, &second).await;
    // A certificate that is gone for a moment takes nothing from clients.
    let how = DeleteParams::default();
    world.secrets.delete("main-grpc-tls", &how).await.unwrap();
    world.until_rest(&[&operator]).await;
    until_authorities(&world, &both, &second).await;
    world
        .put_secret("main-grpc-tls", json!({ "tls.crt": first }))
        .await;
    until_authorities(&world, &both, "").await;
    world.until_rest(&[&operator]).await;
    world.until_ready("alice").await;
}
