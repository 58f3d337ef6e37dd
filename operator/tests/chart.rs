//! Tests of the operator's Helm chart on a real API server: install, upgrade and uninstall; the
//! rights of its service account; its pods and those of config/dev under the restricted pod
//! security standard. The RBAC rules and the samples are tested beside the kinds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use streamhouse_operator::{
    apis::{OpenShiftMode, OptionalApis},
    cli::Cli,
};
use streamhouse_testkit::KubeApi;

const RELEASE: &str = "streamhouse-operator";
const SYSTEM_NAMESPACE: &str = "streamhouse-system";

fn repository(path: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    root.display().to_string()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

/// Starts an API server on which the chart is installed with these options.
fn install_chart(options: &[&str]) -> KubeApi {
    let api = KubeApi::start().unwrap();
    helm(&api, "install", options);
    api
}

fn helm(api: &KubeApi, verb: &str, options: &[&str]) {
    let chart = repository("charts/streamhouse-operator");
    let mut arguments = vec![verb, RELEASE, chart.as_str(), "--namespace", SYSTEM_NAMESPACE];
    if verb == "install" {
        arguments.push("--create-namespace");
    }
    arguments.extend(options);
    api.helm(&arguments).unwrap();
}

fn get(api: &KubeApi, arguments: &[&str]) -> Value {
    let mut all = vec!["get", "-o", "json"];
    all.extend(arguments);
    serde_json::from_str(&api.kubectl(&all).unwrap()).unwrap()
}

fn create_namespace(api: &KubeApi, name: &str) {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let manifest =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
    api.apply(&manifest.to_string()).unwrap();
}

/// Returns whether the operator's account may do this, according to the API server.
fn is_allowed(api: &KubeApi, namespace: &str, verb: &str, what: &str) -> bool {
    let account = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RELEASE}");
    let answer = api.kubectl(&[
        "auth",
        "can-i",
        verb,
        what,
        "--as",
        &account,
        "--namespace",
        namespace,
    ]);
    answer.is_ok_and(|answer| answer.trim() == "yes")
}

#[test]
fn an_upgrade_without_a_change_restarts_nothing_and_what_is_uninstalled_leaves_the_definitions_only() {
    let api = install_chart(&[
        "--values",
        &repository("charts/streamhouse-operator/values-ha.yaml"),
    ]);
    let deployment = ["deployment", RELEASE, "--namespace", SYSTEM_NAMESPACE];
    let before = get(&api, &deployment)["metadata"]["generation"].clone();
    helm(
        &api,
        "upgrade",
        &[
            "--values",
            &repository("charts/streamhouse-operator/values-ha.yaml"),
        ],
    );
    assert_eq!(get(&api, &deployment)["metadata"]["generation"], before);

    // A user's topic, which must survive.
    api.apply(&read("config/samples/topics.yaml")).unwrap();
    api.helm(&["uninstall", RELEASE, "--namespace", SYSTEM_NAMESPACE])
        .unwrap();
    let kinds = "deployments,services,serviceaccounts,poddisruptionbudgets,roles,rolebindings,clusterroles,clusterrolebindings,configmaps,secrets,pods";
    let left = get(
        &api,
        &[
            kinds,
            "--all-namespaces",
            "--selector",
            "app.kubernetes.io/part-of=streamhouse",
        ],
    );
    assert_eq!(left["items"].as_array().unwrap().len(), 0, "{left}");
    let definitions = get(
        &api,
        &["crd", "--selector", "app.kubernetes.io/part-of=streamhouse"],
    );
    assert_eq!(definitions["items"].as_array().unwrap().len(), 3);
    assert_eq!(
        get(&api, &["topics", "--namespace", "default"])["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    helm(&api, "install", &[]);
    assert_eq!(
        get(&api, &["topics", "--namespace", "default"])["items"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
}

#[test]
fn the_operator_may_do_its_work_everywhere_and_nothing_more() {
    let api = install_chart(&[]);
    for (verb, what) in [
        ("patch", "streamhouseclusters.streamhouse.io/main"),
        ("patch", "topics.streamhouse.io/orders"),
        ("patch", "topics.streamhouse.io/orders --subresource=status"),
        ("patch", "users.streamhouse.io/alice --subresource=status"),
        ("create", "secrets"),
        ("patch", "secrets/alice"),
        ("create", "deployments.apps"),
        ("patch", "services/main-agents"),
        ("delete", "networkpolicies.networking.k8s.io/main-agent"),
        ("watch", "pods"),
        ("patch", "pods/main-agent-0"),
        ("create", "ingresses.networking.k8s.io"),
        ("get", "nodes/worker"),
        ("get", "secrets/postgresql"),
        ("create", "events.events.k8s.io"),
        ("get", "namespaces/default"),
    ] {
        let (what, subresource) = what.split_once(" --subresource=").unwrap_or((what, ""));
        let allowed = match subresource {
            "" => is_allowed(&api, "default", verb, what),
            subresource => {
                let account = format!("system:serviceaccount:{SYSTEM_NAMESPACE}:{RELEASE}");
                let subresource = format!("--subresource={subresource}");
                api.kubectl(&["auth", "can-i", verb, what, &subresource, "--as", &account])
                    .is_ok()
            }
        };
        assert!(allowed, "must be allowed: {verb} {what} {subresource}");
    }
    for (verb, what) in [
        ("list", "nodes"),
        ("list", "secrets"),
        ("watch", "secrets"),
        ("delete", "secrets/alice"),
        ("update", "secrets/alice"),
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("delete", "namespaces"),
        ("delete", "topics.streamhouse.io"),
        ("delete", "users.streamhouse.io"),
        ("get", "leases.coordination.k8s.io/somebody-elses"),
    ] {
        assert!(
            !is_allowed(&api, "default", verb, what),
            "must be forbidden: {verb} {what}"
        );
    }
    for verb in ["get", "update"] {
        assert!(is_allowed(
            &api,
            SYSTEM_NAMESPACE,
            verb,
            &format!("leases.coordination.k8s.io/{RELEASE}")
        ));
    }
    assert!(is_allowed(
        &api,
        SYSTEM_NAMESPACE,
        "create",
        "leases.coordination.k8s.io"
    ));
}

#[test]
fn the_chart_sets_every_setting_of_the_operator_and_no_other() {
    let api = install_chart(&[]);
    let deployment = get(&api, &["deployment", RELEASE, "--namespace", SYSTEM_NAMESPACE]);
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"], json!(["run"]));
    let set: BTreeSet<String> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variable| variable["name"].as_str().unwrap().to_owned())
        .collect();
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let known: BTreeSet<String> = run
        .get_arguments()
        .filter_map(|argument| Some(argument.get_env()?.to_str()?.to_owned()))
        .collect();
    assert_eq!(set, known);
}

#[test]
fn an_operator_for_one_namespace_may_nothing_in_another() {
    let api = KubeApi::start().unwrap();
    create_namespace(&api, "orders");
    helm(&api, "install", &["--set", "watchNamespaces={orders}"]);
    for (verb, what) in [
        ("list", "topics.streamhouse.io"),
        ("create", "deployments.apps"),
        ("get", "secrets/postgresql"),
    ] {
        assert!(is_allowed(&api, "orders", verb, what), "{verb} {what}");
        assert!(!is_allowed(&api, "default", verb, what), "{verb} {what}");
    }
    assert!(is_allowed(&api, "orders", "get", "namespaces/orders"));
    // Nodes belong to no namespace.
    assert!(!is_allowed(&api, "orders", "get", "nodes/worker"));
    let with_nodes = [
        "--set",
        "watchNamespaces={orders}",
        "--set",
        "rbac.readNodes=true",
    ];
    helm(&api, "upgrade", &with_nodes);
    assert!(is_allowed(&api, "orders", "get", "nodes/worker"));
}

/// An older chart had the Lease among its objects, so Helm deletes it with the upgrade. The
/// operator, with the rights of its account, makes another.
#[test]
fn the_lease_of_an_older_chart_goes_with_the_upgrade_and_the_operator_makes_its_own() {
    let older = tempfile::tempdir().unwrap();
    let chart = older.path().join("streamhouse-operator");
    copy_folder(Path::new(&repository("charts/streamhouse-operator")), &chart);
    std::fs::write(chart.join("templates/lease.yaml"), OLDER_LEASE).unwrap();
    let api = KubeApi::start().unwrap();
    let (namespace, chart) = (SYSTEM_NAMESPACE, chart.display().to_string());
    api.helm(&[
        "install",
        RELEASE,
        &chart,
        "--namespace",
        namespace,
        "--create-namespace",
    ])
    .unwrap();
    let lease = |kubeconfig: &Path, verb: &[&str], input: &str| {
        let arguments = [verb, &["--namespace", namespace][..]].concat();
        api.kubectl_as(kubeconfig, &arguments, input)
    };
    let read = ["get", "lease", RELEASE];
    lease(api.kubeconfig(), &read, "").unwrap();
    helm(&api, "upgrade", &[]);
    let gone = lease(api.kubeconfig(), &read, "").unwrap_err().to_string();
    assert!(gone.contains("not found"), "{gone}");

    let account = api.kubeconfig_for_service_account(namespace, RELEASE).unwrap();
    let record = |holder: &str| {
        let metadata = json!({ "name": RELEASE });
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": 15 });
        json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec })
            .to_string()
    };
    lease(&account, &["create", "-f", "-"], &record("one")).unwrap();
    lease(&account, &["replace", "-f", "-"], &record("two")).unwrap();
    let other = record("one").replace(RELEASE, "another");
    lease(&account, &["create", "-f", "-"], &other).unwrap();
    let refused = lease(&account, &["replace", "-f", "-"], &other)
        .unwrap_err()
        .to_string();
    assert!(refused.contains("forbidden"), "{refused}");
    // A further upgrade leaves the Lease alone.
    helm(&api, "upgrade", &[]);
    assert!(lease(api.kubeconfig(), &read, "").is_ok());
}

const OLDER_LEASE: &str = "apiVersion: coordination.k8s.io/v1
kind: Lease
metadata:
  name: {{ include \"streamhouse-operator.fullname\" . }}
  namespace: {{ .Release.Namespace }}
";

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn the_commands_of_the_notes_work_as_they_are_pasted() {
    let api = install_chart(&[]);
    let notes = api
        .helm(&["get", "notes", RELEASE, "--namespace", SYSTEM_NAMESPACE])
        .unwrap();
    let (_, manifests) = notes.split_once("2. Create a cluster").unwrap();
    // From a line that is a command to the line after which the shell has read all of it.
    let mut pasted = String::new();
    let mut inside = false;
    for line in manifests.lines() {
        inside |= line.trim_start().starts_with("kubectl ");
        if inside {
            pasted.push_str(line);
            pasted.push('\n');
        }
        inside &= line.contains("<<") || (line != "TEXT" && !line.trim_start().starts_with("kubectl "));
    }
    assert_eq!(pasted.matches("<<'TEXT'").count(), 2, "{pasted}");
    let mut shell = api
        .shell(&format!("{pasted}\necho the shell has returned\n"))
        .unwrap()
        .start()
        .unwrap();
    let status = shell.wait(std::time::Duration::from_secs(120)).unwrap();
    let (out, errors) = (shell.stdout(), shell.stderr());
    assert!(status.success() && !errors.contains("here-document"), "{errors}");
    for line in [
        "streamhousecluster.streamhouse.io/streamhouse created",
        "topic.streamhouse.io/orders created",
        "the shell has returned",
    ] {
        assert!(out.contains(line), "{out}");
    }
    assert!(notes.contains("docs/install/helm.md#images"), "{notes}");
}

#[test]
fn on_openshift_no_pod_has_an_id_and_elsewhere_each_has() {
    let api = KubeApi::start().unwrap();
    api.apply(SECURITY_CONTEXT_CONSTRAINTS).unwrap();
    api.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd/securitycontextconstraints.security.openshift.io",
    ])
    .unwrap();
    helm(&api, "install", &[]);
    let context = || {
        let deployment = get(&api, &["deployment", RELEASE, "--namespace", SYSTEM_NAMESPACE]);
        deployment["spec"]["template"]["spec"]["securityContext"].clone()
    };
    let expected = json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    assert_eq!(context(), expected);
    let hooks = api
        .helm(&["get", "hooks", RELEASE, "--namespace", SYSTEM_NAMESPACE])
        .unwrap();
    assert!(!hooks.contains("runAsUser"), "{hooks}");
    helm(&api, "upgrade", &["--set", "openshift=false"]);
    assert_eq!(context()["runAsUser"], 65532);
    helm(&api, "upgrade", &["--set", "openshift=true"]);
    assert_eq!(context(), expected);

    // The operator finds the API too, for agents and Jobs.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(api.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        let client = streamhouse_operator::connect::new_client(config).unwrap();
        let apis = OptionalApis::default();
        assert!(!apis.is_openshift());
        apis.discover(&client).await.unwrap();
        assert!(apis.is_openshift());
        let never = OptionalApis::default().with_openshift(OpenShiftMode::False);
        never.discover(&client).await.unwrap();
        assert!(!never.is_openshift());
    });
}

const SECURITY_CONTEXT_CONSTRAINTS: &str = "apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: securitycontextconstraints.security.openshift.io}
spec:
  group: security.openshift.io
  scope: Cluster
  names: {kind: SecurityContextConstraints, plural: securitycontextconstraints}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

#[test]
fn users_with_the_roles_view_and_edit_get_their_rights_on_our_kinds() {
    let api = install_chart(&[]);
    api.start_controller_manager().unwrap();
    for role in ["view", "edit"] {
        api.kubectl(&[
            "create",
            "rolebinding",
            role,
            "--clusterrole",
            role,
            "--user",
            role,
        ])
        .unwrap();
    }
    let may = |user: &str, verb: &str| {
        ["topics.streamhouse.io", "users.streamhouse.io"]
            .iter()
            .all(|kind| {
                let args = ["auth", "can-i", verb, kind, "--as", user];
                api.kubectl(&args).is_ok()
            })
    };
    // A controller aggregates the roles.
    streamhouse_testkit::wait_until("the aggregation", std::time::Duration::from_secs(60), || {
        Ok((may("view", "list") && may("edit", "create")).then_some(()))
    })
    .unwrap();
    assert!(!may("view", "create"));
}

#[test]
fn every_pod_keeps_the_restricted_standard() {
    let api = install_chart(&[]);
    create_namespace(&api, "streamhouse");
    api.kubectl(&[
        "create",
        "serviceaccount",
        "default",
        "--namespace",
        "streamhouse",
    ])
    .unwrap();
    api.apply(&read("config/dev/postgresql.yaml")).unwrap();
    api.apply(&read("config/dev/minio.yaml")).unwrap();
    let template = |arguments: &[&str]| get(&api, arguments)["spec"]["template"].clone();
    let mut pods = vec![
        template(&["deployment", RELEASE, "--namespace", SYSTEM_NAMESPACE]),
        template(&["statefulset", "postgresql", "--namespace", "streamhouse"]),
        template(&["statefulset", "minio", "--namespace", "streamhouse"]),
    ];
    let hooks = api
        .helm(&["get", "hooks", RELEASE, "--namespace", SYSTEM_NAMESPACE])
        .unwrap();
    let test = hooks
        .split("\n---")
        .find(|document| document.contains("\nkind: Pod\n"))
        .unwrap();
    pods.push(serde_yaml_ng::from_str(test).unwrap());
    for mut pod in pods {
        let container = pod["spec"]["containers"][0].clone();
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
        pod["apiVersion"] = json!("v1");
        pod["kind"] = json!("Pod");
        pod["metadata"] = json!({ "name": container["name"], "namespace": "streamhouse" });
        pod["spec"]["serviceAccountName"] = json!("default");
        pod["spec"]["serviceAccount"] = json!("default");
        let created = api.kubectl_as(
            api.kubeconfig(),
            &["create", "--dry-run=server", "-f", "-"],
            &pod.to_string(),
        );
        assert!(created.unwrap().contains("created"), "{pod}");
    }
}
