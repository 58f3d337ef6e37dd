//! The rights that the chart grants are exactly those that the operator needs: no more, by
//! comparison with the kinds that it creates; no less, by running with them alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use streamhouse_operator::cluster::children::ManagedKind;
use streamhouse_testkit::{KubeApi, wait_until};

use super::{EVENT_TIMEOUT, OperatorProcess, crds, fixtures};

const RULES: &str = include_str!("../../../charts/streamhouse-operator/templates/_rules.tpl");

/// An RBAC rule.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RbacRule {
    api_groups: Vec<String>,
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// Returns the body of a template of the chart, with the name of the Lease inserted.
pub(crate) fn chart_template(name: &str) -> String {
    let start = format!("{{{{- define \"streamhouse-operator.{name}\" -}}}}");
    let (_, rest) = RULES.split_once(&start).expect("the chart defines the rules");
    let (body, _) = rest.split_once("{{- end }}").expect("the definition ends");
    body.replace(
        "{{ include \"streamhouse-operator.fullname\" . }}",
        "streamhouse-operator",
    )
}

fn rules(name: &str) -> Vec<RbacRule> {
    serde_yaml_ng::from_str(&chart_template(name)).unwrap()
}

/// Returns the verbs by group and resource.
fn by_resource(rules: &[RbacRule]) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut all: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for rule in rules {
        assert!(rule.resource_names.is_empty(), "names are chosen by users");
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let verbs = all.entry((group.clone(), resource.clone())).or_default();
                verbs.extend(rule.verbs.iter().cloned());
            }
        }
    }
    all
}

#[test]
fn the_chart_gives_the_rights_that_the_code_needs_and_no_other() {
    let mut expected = BTreeMap::new();
    let mut need = |group: &str, resource: &str, verbs: &[&str]| {
        let verbs: BTreeSet<String> = verbs.iter().map(ToString::to_string).collect();
        expected.insert((group.to_owned(), resource.to_owned()), verbs);
    };
    for kind in ManagedKind::ALL {
        need(kind.group(), kind.plural(), ManagedKind::VERBS);
    }
    for plural in ["streamhouseclusters", "topics", "users"] {
        need(
            "streamhouse.io",
            plural,
            &["get", "list", "watch", "patch", "update"],
        );
        need(
            "streamhouse.io",
            &format!("{plural}/status"),
            &["get", "patch", "update"],
        );
        need("streamhouse.io", &format!("{plural}/finalizers"), &["update"]);
    }
    need("", "secrets", &["get", "create", "patch"]);
    need("", "pods", &["get", "list", "watch", "patch"]);
    need("", "namespaces", &["get"]);
    need("events.k8s.io", "events", &["create", "patch"]);
    assert_eq!(by_resource(&rules("rules")), expected);
    let nodes = BTreeMap::from([(
        ("".to_owned(), "nodes".to_owned()),
        BTreeSet::from(["get".to_owned()]),
    )]);
    assert_eq!(by_resource(&rules("nodeRules")), nodes);

    let lease = rules("leaseRules");
    assert_eq!(lease.len(), 2);
    assert_eq!(
        (lease[0].verbs.as_slice(), lease[0].resource_names.len()),
        (&["create".to_owned()][..], 0)
    );
    assert_eq!(lease[1].verbs, ["get", "update"]);
    assert_eq!(lease[1].resource_names, ["streamhouse-operator"]);
}

/// Grants these rules to the account, in a namespace or in all namespaces.
pub(crate) fn grant(api: &KubeApi, name: &str, rules: &str, namespace: Option<&str>, account: &str) {
    let (prefix, place) = match namespace {
        Some(namespace) => ("", format!("  namespace: {namespace}\n")),
        None => ("Cluster", String::new()),
    };
    let manifests = format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: {prefix}Role\nmetadata:\n  name: {name}\n{place}rules:\n{rules}\n---\n\
        apiVersion: rbac.authorization.k8s.io/v1\nkind: {prefix}RoleBinding\nmetadata:\n  name: {name}\n{place}\
        roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {prefix}Role, name: {name}}}\n\
        subjects: [{{kind: ServiceAccount, name: {account}, namespace: default}}]\n"
    );
    api.apply(&manifests).unwrap();
}

/// Runs an operator as this account with a cluster that uses every feature, and checks that no
/// request was forbidden.
fn exercise_operator(api: &KubeApi, account: &str, namespace: &str, more: &[&str]) {
    let kubeconfig = api.kubeconfig_for_service_account("default", account).unwrap();
    let mut operator = OperatorProcess::start(&kubeconfig, account, more);
    operator.until_leads();
    let everything = "  agents: {autoscaling: {minReplicas: 1, maxReplicas: 3, targetCPUUtilizationPercentage: 80}}\n\
        \x20 networkPolicy: {enabled: true}\n  monitoring: {dashboards: {enabled: true}}\n\
        \x20 listeners: {additional: [{name: external, type: nodeport, unsafeWithoutAuthentication: true, port: 9094},\n\
        \x20   {name: web, type: ingress, unsafeWithoutAuthentication: true, port: 9095, bootstrap: {host: events.example.com}}]}\n";
    api.apply(&fixtures::cluster(namespace, everything)).unwrap();
    api.apply(&fixtures::topic(
        namespace,
        "  partitions: 3\n  deletionPolicy: Delete\n",
    ))
    .unwrap();
    let here = ["-n", namespace];
    let kubectl = |args: &[&str]| api.kubectl(&[args, &here[..]].concat()).unwrap();
    kubectl(&["wait", "topic/orders", "--for=condition=Ready", "--timeout=50s"]);
    api.apply(&fixtures::user(namespace)).unwrap();
    kubectl(&["wait", "user/alice", "--for=condition=Ready", "--timeout=50s"]);
    kubectl(&["get", "secret", "alice"]);
    for made in [
        "deployment/main-agent",
        "service/main-agents",
        "service/main-external-bootstrap",
        "ingress/main-web-bootstrap",
        "configmap/main-listeners",
        "configmap/main-agent",
        "configmap/main-dashboard",
        "poddisruptionbudget/main-agent",
        "networkpolicy/main-agent",
        "horizontalpodautoscaler/main-agent",
    ] {
        kubectl(&["wait", made, "--for=create", "--timeout=50s"]);
    }
    // A Secret that exists is patched.
    let broken = "{\"data\":{\"username\":\"eA==\"}}";
    kubectl(&["patch", "secret", "alice", "--type=merge", "--patch", broken]);
    kubectl(&["annotate", "user", "alice", "example.com/look=now"]);
    wait_until("the repair of the Secret", EVENT_TIMEOUT, || {
        let args = [
            "get",
            "secret",
            "alice",
            "-n",
            namespace,
            "-o",
            "jsonpath={.data.username}",
        ];
        Ok((api.kubectl(&args)? == "YWxpY2U=").then_some(()))
    })
    .unwrap();
    kubectl(&["delete", "user", "alice", "--timeout=50s"]);
    kubectl(&["delete", "topic", "orders", "--timeout=50s"]);
    kubectl(&["delete", "streamhousecluster", "main", "--timeout=50s"]);
    wait_until("the events of the topic", EVENT_TIMEOUT, || {
        let events = api.kubectl(&[
            "get",
            "events.events.k8s.io",
            "-n",
            namespace,
            "-o",
            "jsonpath={.items[*].reason}",
        ])?;
        Ok(events.contains("Created").then_some(()))
    })
    .unwrap();
    assert_eq!(operator.stop().code(), Some(0));
    let log = operator.process.stderr();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}

#[test]
fn the_operator_works_with_the_charts_rights_in_one_namespace_and_in_all() {
    let api = KubeApi::start().unwrap();
    api.apply(&crds()).unwrap();
    for account in ["one", "all"] {
        api.kubectl(&["create", "serviceaccount", account, "-n", "default"])
            .unwrap();
        grant(
            &api,
            &format!("{account}-lease"),
            &chart_template("leaseRules"),
            Some("default"),
            account,
        );
    }
    let one = fixtures::namespace(&api);
    grant(&api, "one", &chart_template("rules"), Some(&one), "one");
    exercise_operator(&api, "one", &one, &["--watch-namespaces", &one]);
    let other = fixtures::namespace(&api);
    grant(&api, "all", &chart_template("rules"), None, "all");
    exercise_operator(&api, "all", &other, &[]);
}
