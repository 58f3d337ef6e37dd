//! Listeners for Kafka clients: their Services, what agents read, and the addresses that are
//! reported.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    environment::ClusterTestEnvironment,
    listeners::{agents, bind, create_node, slots},
};

const LISTENERS_HASH: &str = "streamhouse.io/listeners-hash";

fn kafka(enabled: bool) -> Value {
    json!({ "listeners": { "kafka": { "enabled": enabled, "autoCreatePartitions": 4 } } })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listener_for_kafka_clients_comes_and_goes_with_the_spec() {
    let world = ClusterTestEnvironment::new().await;
    world.create(kafka(true)).await;
    world
        .condition("ListenersAvailable", "True", "ListenersReady")
        .await;
    let first = world.object::<Service>("main-kafka-bootstrap").await;
    assert_eq!(first.spec.unwrap().ports.unwrap()[0].port, 9092);
    let pods = world.object::<Service>("main-kafka").await.spec.unwrap();
    assert_eq!(pods.cluster_ip.as_deref(), Some("None"));
    assert_eq!(pods.publish_not_ready_addresses, Some(true));
    let settings = world.object::<ConfigMap>("main-agent").await.data.unwrap();
    assert_eq!(settings["STREAMHOUSE_KAFKA_LISTEN"], "[::]:9092");
    assert_eq!(settings["STREAMHOUSE_KAFKA_AUTO_CREATE_PARTITIONS"], "4");
    let status = world.cluster().await.status.unwrap().listeners;
    let bootstrap = format!("main-kafka-bootstrap.{}.svc:9092", world.namespace);
    assert_eq!(
        (status[0].name.as_str(), status[0].bootstrap.as_ref()),
        ("kafka", Some(&bootstrap))
    );

    let generation = world.deployment().await.metadata.generation;
    world.patch_spec(kafka(false)).await;
    world.until_gone::<Service>("main-kafka-bootstrap").await;
    world.until_gone::<Service>("main-kafka").await;
    world
        .until("the end of the condition", || async {
            let status = world.cluster().await.status?;
            let mut conditions = status.conditions.iter();
            let gone = conditions.all(|condition| condition.type_ != "ListenersAvailable");
            (gone && status.listeners.is_empty()).then_some(())
        })
        .await;
    // The agents have other settings.
    assert_ne!(world.deployment().await.metadata.generation, generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelets_hear_of_each_address_on_which_kafka_clients_depend() {
    let world = ClusterTestEnvironment::new().await;
    let listener = json!({ "name": "external", "type": "nodeport", "unsafeWithoutAuthentication": true, "protocol": "kafka", "port": 9094 });
    world
        .create(json!({ "listeners": { "additional": [listener] } }))
        .await;
    let slots = slots(&world, 2).await;
    let node = create_node(&world, "kafka", "192.0.2.9").await;
    for pod in slots.keys() {
        bind(&world, pod, &node).await;
    }
    world
        .condition("ListenersAvailable", "True", "ListenersReady")
        .await;
    let file = world.object::<ConfigMap>("main-listeners").await.data.unwrap();
    let file: Value = serde_json::from_str(&file["listeners.yaml"]).unwrap();
    assert_eq!(file["listeners"][0]["protocol"], "kafka");
    let addresses = file["listeners"][0]["agents"].as_object().unwrap();
    assert_eq!(addresses.len(), 2);
    let first = announced(&world).await;

    world
        .patch_spec(json!({ "listeners": { "additional": [
            { "name": "external", "type": "nodeport", "unsafeWithoutAuthentication": true, "protocol": "kafka", "port": 9094,
              "agents": { "advertisedHost": "events.example.com" } }] } }))
        .await;
    world
        .until("other addresses for the kubelets", || async {
            (announced(&world).await != first).then_some(())
        })
        .await;
    // The pods have changed, and their template has not.
    assert_eq!(world.deployment().await.metadata.generation, Some(1));
}

/// Waits until all agents' pods have the same hash, and returns it.
async fn announced(world: &ClusterTestEnvironment) -> String {
    world
        .until("a hash on all agents' pods", || async {
            let pods = agents(world).await;
            let hashes: BTreeSet<Option<String>> = pods
                .iter()
                .map(|pod| pod.annotations().get(LISTENERS_HASH).cloned())
                .collect();
            let mut hashes = hashes.into_iter();
            match (hashes.next(), hashes.next()) {
                (Some(Some(hash)), None) => Some(hash),
                _ => None,
            }
        })
        .await
}
