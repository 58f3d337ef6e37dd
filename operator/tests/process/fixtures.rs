//! A namespace with the Secrets of a cluster and its own metadata database, and matching manifests.

use std::sync::atomic::{AtomicU32, Ordering};

use streamhouse_testkit::{KubeApi, Postgres};

/// Contents of the Secrets, which must not appear anywhere else.
pub(crate) const SECRET: &str = "never-to-be-shown";

/// Creates a namespace for [`cluster`].
pub(crate) fn namespace(api: &KubeApi) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let database = format!("process_{}_{number}", std::process::id());
    let url = Postgres::shared().unwrap().create_database(&database).unwrap();
    let namespace = api.create_namespace("process").unwrap();
    let secret = |name: &str, data: &[String]| {
        let args = ["create", "secret", "generic", name, "-n", namespace.as_str()];
        let args: Vec<&str> = args.into_iter().chain(data.iter().map(String::as_str)).collect();
        api.kubectl(&args).unwrap();
    };
    secret("metadata", &[format!("--from-literal=uri={url}")]);
    let keys = ["accessKeyId", "secretAccessKey"];
    secret(
        "bucket",
        &keys.map(|key| format!("--from-literal={key}={SECRET}")),
    );
    namespace
}

/// Returns a cluster `main`; `more` are additional lines of its spec.
pub(crate) fn cluster(namespace: &str, more: &str) -> String {
    format!(
        "apiVersion: streamhouse.io/v1alpha1\nkind: StreamHouseCluster\nmetadata:\n  name: main\n  namespace: {namespace}\nspec:\n\
        \x20 postgresql: {{connectionSecret: {{name: metadata}}}}\n\
        \x20 objectStorage: {{bucket: records, endpoint: \"http://127.0.0.1:1\", credentialsSecret: {{name: bucket}}}}\n{more}"
    )
}

/// Returns a topic `orders` of that cluster; `more` are additional lines of its spec.
pub(crate) fn topic(namespace: &str, more: &str) -> String {
    format!(
        "apiVersion: streamhouse.io/v1alpha1\nkind: Topic\nmetadata:\n  name: orders\n  namespace: {namespace}\nspec:\n\
        \x20 clusterRef: {{name: main}}\n{more}"
    )
}

/// Returns a user `alice` of that cluster with a generated password.
pub(crate) fn user(namespace: &str) -> String {
    format!(
        "apiVersion: streamhouse.io/v1alpha1\nkind: User\nmetadata:\n  name: alice\n  namespace: {namespace}\nspec:\n\
        \x20 clusterRef: {{name: main}}\n  authentication: {{type: scram}}\n"
    )
}
