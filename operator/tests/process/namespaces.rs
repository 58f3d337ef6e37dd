//! In namespaced mode each namespace stands by itself: one that the operator may not read is named,
//! and nothing else stops.

use std::path::Path;

use streamhouse_testkit::{KubeApi, wait_until};

use super::{
    EVENT_TIMEOUT, OperatorProcess, crds, fixtures,
    rbac::{chart_template, grant},
};

const ACCOUNT: &str = "some";

/// Returns what the jsonpath finds in a resource, or nothing.
fn read(api: &KubeApi, namespace: &str, resource: &str, path: &str) -> String {
    api.kubectl(&[
        "get",
        resource,
        "-n",
        namespace,
        "-o",
        &format!("jsonpath={path}"),
        "--ignore-not-found",
    ])
    .unwrap()
}

fn until(api: &KubeApi, namespace: &str, resource: &str, path: &str, holds: impl Fn(&str) -> bool) -> String {
    wait_until(&format!("{path} of {resource}"), EVENT_TIMEOUT, || {
        let found = read(api, namespace, resource, path);
        Ok(holds(&found).then_some(found))
    })
    .unwrap()
}

/// Starts an operator for two namespaces, with dashboards allowed in the second.
fn start_operator(kubeconfig: &Path, here: &str, lost: &str) -> OperatorProcess {
    let watched = format!("{here},{lost}");
    let arguments = [
        "--watch-namespaces",
        &watched,
        "--monitoring-namespaces",
        lost,
        "--drift-interval",
        "5s",
    ];
    OperatorProcess::start(kubeconfig, "op-0", &arguments)
}

#[test]
fn a_namespace_that_is_lost_is_named_and_stops_nothing_elsewhere() {
    let api = KubeApi::start().unwrap();
    api.apply(&crds()).unwrap();
    api.kubectl(&["create", "serviceaccount", ACCOUNT, "-n", "default"])
        .unwrap();
    let lease = chart_template("leaseRules");
    grant(&api, "lease", &lease, Some("default"), ACCOUNT);
    let rules = chart_template("rules");
    let (here, lost) = (fixtures::namespace(&api), fixtures::namespace(&api));
    grant(&api, "here", &rules, Some(&here), ACCOUNT);
    let kubeconfig = api.kubeconfig_for_service_account("default", ACCOUNT).unwrap();
    let mut operator = start_operator(&kubeconfig, &here, &lost);
    let forbidden = format!("streamhouse_operator_namespace_forbidden{{watched_namespace=\"{lost}\"}}");

    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    operator.until("/metrics", 200, |page| page.contains(&format!("{forbidden} 1")));
    api.apply(&fixtures::cluster(&here, "")).unwrap();
    api.apply(&fixtures::topic(&here, "  partitions: 3\n")).unwrap();
    let kubectl = |args: &[&str]| api.kubectl(&[args, &["-n", &here]].concat()).unwrap();
    kubectl(&["wait", "topic/orders", "--for=condition=Ready", "--timeout=50s"]);
    until(&api, &here, "deployment/main-agent", "{.metadata.name}", |name| {
        !name.is_empty()
    });
    let conditions = "{.status.conditions}";
    until(&api, &here, "streamhousecluster/main", conditions, |text| {
        text.contains("MetadataMigrated")
    });
    let all = read(&api, &here, "streamhousecluster/main", conditions);
    assert!(
        !all.contains("NamespaceForbidden") && !all.contains(&lost),
        "{all}"
    );

    // A cluster that places objects there says so; its agents are not affected.
    let dashboards = format!("  monitoring: {{dashboards: {{enabled: true, namespace: {lost}}}}}\n");
    api.apply(&fixtures::cluster(&here, &dashboards)).unwrap();
    let monitoring = "{.status.conditions[?(@.type=='MonitoringAvailable')]}";
    let told = until(&api, &here, "streamhousecluster/main", monitoring, |text| {
        text.contains("NamespaceForbidden")
    });
    assert!(told.contains(&lost) && told.contains("RoleBinding"), "{told}");
    let others = read(
        &api,
        &here,
        "streamhousecluster/main",
        "{.status.conditions[?(@.type=='Stalled')].status}",
    );
    assert_eq!(others, "False");

    // With the right back everything comes by itself.
    grant(&api, "lost", &rules, Some(&lost), ACCOUNT);
    until(&api, &lost, "configmaps", "{.items[*].metadata.name}", |names| {
        names.contains("main-dashboard")
    });
    operator.until("/metrics", 200, |page| page.contains(&format!("{forbidden} 0")));

    // Lost for good: the deletion of the cluster goes on, and says what it leaves.
    api.kubectl(&["delete", "rolebinding", "lost", "-n", &lost])
        .unwrap();
    until(&api, &here, "streamhousecluster/main", monitoring, |text| {
        text.contains("NamespaceForbidden")
    });
    kubectl(&["delete", "streamhousecluster", "main", "--timeout=50s"]);
    until(
        &api,
        &here,
        "events.events.k8s.io",
        "{.items[*].reason}",
        |reasons| reasons.contains("NamespaceForbidden"),
    );
    operator.until("/ready", 200, |_| true);
    assert_eq!(operator.stop().code(), Some(0));
    // Not once per watch and attempt.
    let log = operator.process.stderr();
    let told = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert!((2..10).contains(&told("may not read this namespace")), "{log}");
    assert_eq!(told("kube_runtime"), 0, "{log}");
}
