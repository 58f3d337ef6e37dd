//! Tests of the testkit's Kubernetes API: it is the real one, enforces RBAC, and restarts with its
//! objects.

use std::time::Duration;

use streamhouse_testkit::{KubeApi, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

/// Creates a role that may read ConfigMaps in a namespace. (The cluster role `view` is empty until
/// the controllers fill it.)
fn create_reader(api: &KubeApi, namespace: &str) -> anyhow::Result<String> {
    let role = ["create", "role", "reader", "-n", namespace];
    api.kubectl(&[&role[..], &["--verb=get,list", "--resource=configmaps"]].concat())
}

fn config_map(namespace: &str, name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{key: value}}\n"
    )
}

#[test]
fn it_keeps_its_objects_and_port_over_a_crash() {
    let api = KubeApi::start().unwrap();
    let port = api.port();
    api.apply(&config_map("default", "kept")).unwrap();

    api.stop().unwrap();
    api.kubectl(&["get", "configmap", "kept"]).unwrap_err();
    api.start_again().unwrap();
    assert_eq!(api.port(), port);
    let value = ["get", "configmap", "kept", "-o", "jsonpath={.data.key}"];
    assert_eq!(api.kubectl(&value).unwrap(), "value");

    api.pause().unwrap();
    api.kubectl(&["get", "configmap", "kept", "--request-timeout=1s"])
        .unwrap_err();
    api.resume().unwrap();
    assert_eq!(api.kubectl(&value).unwrap(), "value");
}

#[test]
fn it_is_the_pinned_version_and_refuses_what_the_real_one_refuses() {
    let api = KubeApi::shared().unwrap();
    let versions = include_str!("../../../hack/versions.sh");
    let version = api.kubectl(&["get", "--raw", "/version"]).unwrap();
    let pinned = versions
        .lines()
        .find_map(|line| line.strip_prefix("KUBERNETES_VERSION="))
        .unwrap();
    assert!(version.contains(&format!("\"{pinned}\"")), "{version}");

    let error = api
        .apply(&config_map("default", "Not_A_Name"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("metadata.name: Invalid value"), "{error}");
    let error = api
        .apply(&config_map("no-such-namespace", "name"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("not found"), "{error}");
}

#[test]
fn a_user_may_do_what_its_groups_are_granted_and_no_more() {
    let api = KubeApi::shared().unwrap();
    let namespace = api.create_namespace("rbac").unwrap();
    let n = namespace.as_str();
    api.apply(&config_map(n, "seen")).unwrap();
    create_reader(api, n).unwrap();
    api.kubectl(&[
        "create",
        "rolebinding",
        "viewers",
        "-n",
        n,
        "--role=reader",
        "--group=readers",
    ])
    .unwrap();
    let reader = api.kubeconfig_for("ann", &["readers", "others"]).unwrap();
    let stranger = api.kubeconfig_for("bob", &["others"]).unwrap();

    let get = ["get", "configmap", "seen", "-n", n];
    // The authorizer learns of the new binding through a watch.
    wait_until("the right to get", LIMIT, || {
        Ok(api.kubectl_as(&reader, &get, "").ok())
    })
    .unwrap();
    let error = api
        .kubectl_as(&reader, &["delete", "configmap", "seen", "-n", n], "")
        .unwrap_err()
        .to_string();
    assert!(error.contains(r#"User "ann" cannot delete"#), "{error}");
    let error = api.kubectl_as(&stranger, &get, "").unwrap_err().to_string();
    assert!(error.contains(r#"User "bob" cannot get"#), "{error}");
}

#[test]
fn a_service_account_speaks_with_its_own_token() {
    let api = KubeApi::shared().unwrap();
    let namespace = api.create_namespace("accounts").unwrap();
    let n = namespace.as_str();
    api.kubectl(&["create", "serviceaccount", "worker", "-n", n])
        .unwrap();
    let worker = api.kubeconfig_for_service_account(n, "worker").unwrap();
    let list = ["get", "configmaps", "-n", n];
    let error = api.kubectl_as(&worker, &list, "").unwrap_err().to_string();
    assert!(
        error.contains(&format!("system:serviceaccount:{n}:worker")),
        "{error}"
    );
    create_reader(api, n).unwrap();
    let account = format!("--serviceaccount={n}:worker");
    api.kubectl(&[
        "create",
        "rolebinding",
        "worker",
        "-n",
        n,
        "--role=reader",
        &account,
    ])
    .unwrap();
    wait_until("the right to list", LIMIT, || {
        Ok(api.kubectl_as(&worker, &list, "").ok())
    })
    .unwrap();
}

#[test]
fn the_controllers_end_namespaces_and_collect_what_has_no_owner() {
    let api = KubeApi::start().unwrap();
    api.start_controller_manager().unwrap();
    let namespace = api.create_namespace("ending").unwrap();
    let n = namespace.as_str();
    let deployment = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example.invalid/web:1"}]}
"#;
    api.kubectl_as(api.kubeconfig(), &["create", "-n", n, "-f", "-"], deployment)
        .unwrap();
    let pods = ["get", "pods", "-n", n, "-l", "app=web", "-o", "name"];
    let names = |text: String| Some(text).filter(|text| !text.is_empty());
    wait_until("the deployment's pod", LIMIT, || Ok(names(api.kubectl(&pods)?))).unwrap();

    api.kubectl(&["delete", "deployment", "web", "-n", n]).unwrap();
    wait_until("the end of the pod", LIMIT, || {
        Ok(api.kubectl(&pods)?.is_empty().then_some(()))
    })
    .unwrap();
    api.kubectl(&["delete", "namespace", n, "--timeout=50s"]).unwrap();
    api.kubectl(&["get", "namespace", n]).unwrap_err();
}
