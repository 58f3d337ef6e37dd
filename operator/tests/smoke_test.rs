//! Tests of `streamhouse-operator smoke-test` on a real API server; the test acts as the operator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::json;
use streamhouse_operator::{
    crd::{FINALIZER, Topic, definitions},
    smoke_test::{SmokeTestArgs, run},
};
use streamhouse_testkit::KubeApi;

const NAME: &str = "streamhouse-smoke-test";

/// Returns a client and a new namespace on an API server with the definitions installed.
async fn test_namespace() -> (Client, String) {
    // Another test of this process may have installed it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = KubeApi::shared().unwrap();
    let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap();
    let client = Client::try_from(config).unwrap();
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in definitions() {
        let name = crd.metadata.name.clone().unwrap();
        crds.patch(&name, &PatchParams::apply("test").force(), &Patch::Apply(&crd))
            .await
            .unwrap();
        await_condition(crds.clone(), &name, is_crd_established())
            .await
            .unwrap();
    }
    (client, api.create_namespace("smoke").unwrap())
}

fn test(namespace: &str, cluster: Option<&str>, timeout: Duration) -> SmokeTestArgs {
    SmokeTestArgs {
        namespace: namespace.to_owned(),
        cluster: cluster.map(str::to_owned),
        timeout,
    }
}

/// Writes this condition to the topic once it exists, as the operator would.
async fn answer_as_operator(client: Client, namespace: String, status: &str, reason: &str) {
    let topics: Api<Topic> = Api::namespaced(client, &namespace);
    let there = await_condition(topics.clone(), NAME, |topic: Option<&Topic>| topic.is_some());
    let topic = there.await.unwrap().unwrap();
    let ready = json!({
        "type": "Ready", "status": status, "reason": reason, "message": "as played",
        "observedGeneration": topic.metadata.generation, "lastTransitionTime": "2024-01-01T00:00:00Z",
    });
    let patch = json!({ "status": { "conditions": [ready] } });
    topics
        .patch_status(NAME, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn passes_when_the_operator_makes_the_topic_ready_and_leaves_nothing() {
    let (client, namespace) = test_namespace().await;
    let test = test(&namespace, Some("main"), Duration::from_secs(60));
    let mut said = Vec::new();
    let (passed, ()) = tokio::join!(
        run(client.clone(), &test, |line| said.push(line.to_owned())),
        answer_as_operator(client.clone(), namespace.clone(), "True", "Reconciled"),
    );
    passed.unwrap();
    assert!(
        said[1].starts_with("the operator reports Ready=True Reconciled: as played after"),
        "{said:?}"
    );
    assert_eq!(said.len(), 3, "{said:?}");
    let topics: Api<Topic> = Api::namespaced(client, &namespace);
    assert!(topics.get_opt(NAME).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_passes_when_the_operator_says_that_there_is_none() {
    let (client, namespace) = test_namespace().await;
    let test = test(&namespace, None, Duration::from_secs(60));
    let (passed, ()) = tokio::join!(
        run(client.clone(), &test, |_| ()),
        answer_as_operator(client.clone(), namespace.clone(), "Unknown", "ClusterNotFound"),
    );
    passed.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fails_with_the_last_condition_and_takes_the_topic_away() {
    let (client, namespace) = test_namespace().await;
    let test = test(&namespace, Some("main"), Duration::from_secs(3));
    let (failed, ()) = tokio::join!(
        run(client.clone(), &test, |_| ()),
        answer_as_operator(client.clone(), namespace.clone(), "Unknown", "ClusterNotReady"),
    );
    let error = format!("{:#}", failed.unwrap_err());
    assert!(error.contains("makes the topic of cluster main ready"), "{error}");
    assert!(
        error.contains("Ready=Unknown ClusterNotReady: as played"),
        "{error}"
    );
    let topics: Api<Topic> = Api::namespaced(client, &namespace);
    assert!(topics.get_opt(NAME).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn fails_without_an_operator_and_says_so() {
    let (client, namespace) = test_namespace().await;
    let error = run(client, &test(&namespace, None, Duration::from_secs(1)), |_| ())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is it running"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_run_left_is_removed_first_and_a_finalizer_that_holds_it_is_named() {
    let (client, namespace) = test_namespace().await;
    let topics: Api<Topic> = Api::namespaced(client.clone(), &namespace);
    let old = json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "Topic",
        "metadata": { "name": NAME, "finalizers": [FINALIZER] }, "spec": { "clusterRef": { "name": "old" } },
    });
    topics
        .patch(NAME, &PatchParams::apply("test"), &Patch::Apply(&old))
        .await
        .unwrap();
    let short = test(&namespace, Some("main"), Duration::from_secs(1));
    let error = run(client.clone(), &short, |_| ()).await.unwrap_err();
    assert!(format!("{error:#}").contains(FINALIZER), "{error:#}");

    let freed = json!({ "metadata": { "finalizers": null } });
    topics
        .patch(NAME, &PatchParams::default(), &Patch::Merge(&freed))
        .await
        .unwrap();
    let long = test(&namespace, Some("main"), Duration::from_secs(60));
    let (passed, ()) = tokio::join!(
        run(client.clone(), &long, |_| ()),
        answer_as_operator(client.clone(), namespace.clone(), "True", "Reconciled"),
    );
    passed.unwrap();
}
