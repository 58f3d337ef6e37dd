//! Tests of `streamhouse-operator diff` on a real API server with a real PostgreSQL: its output,
//! and that it changes nothing.

use streamhouse_testkit::{ChildProcess, KubeApi, ProcessBuilder, wait_until};

use super::{BINARY, EVENT_TIMEOUT, OperatorProcess, crds, fixtures};

/// Runs `diff` with these manifests on standard input.
fn diff(api: &KubeApi, manifests: &str, more: &[&str]) -> (Option<i32>, String, String) {
    let mut process: ChildProcess = ProcessBuilder::new(BINARY)
        .clean_env()
        .env("KUBECONFIG", api.kubeconfig())
        .args(["diff", "-f", "-"])
        .args(more)
        .input(manifests)
        .start()
        .unwrap();
    let status = process.wait(EVENT_TIMEOUT).unwrap();
    let (out, err) = (process.stdout(), process.stderr());
    assert!(
        !out.contains(fixtures::SECRET) && !err.contains(fixtures::SECRET),
        "{out}{err}"
    );
    (status.code(), out, err)
}

fn without_definitions_it_says_what_to_do(api: &KubeApi, cluster: &str) {
    let (code, _, err) = diff(api, cluster, &[]);
    assert_eq!(code, Some(2));
    assert!(err.contains("streamhouse-operator crds"), "{err}");
}

/// The Service that a listener adds, and the API that its route lacks.
fn a_new_listener(api: &KubeApi, namespace: &str) {
    let listener = "  listeners: {additional: [{name: external, type: gateway, unsafeWithoutAuthentication: true, port: 9094, bootstrap: {host: a.example.com},\n\
        \x20   gateway: {parentRefs: [{name: web}]}}]}\n";
    let (code, out, _) = diff(api, &fixtures::cluster(namespace, listener), &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("+  name: main-external-bootstrap"), "{out}");
    assert!(out.contains("! GatewayApiMissing: listener external"), "{out}");
}

#[test]
fn diff_tells_what_would_change_and_changes_nothing() {
    let api = KubeApi::start().unwrap();
    let namespace = fixtures::namespace(&api);
    let cluster = fixtures::cluster(&namespace, "");
    without_definitions_it_says_what_to_do(&api, &cluster);
    api.apply(&crds()).unwrap();
    let here = ["-n", namespace.as_str()];
    let kubectl = |args: &[&str]| api.kubectl(&[args, &here[..]].concat()).unwrap();

    // Nothing exists yet.
    let (code, out, err) = diff(&api, &cluster, &[]);
    assert_eq!(code, Some(1), "{err}");
    assert!(
        out.starts_with(&format!("StreamHouseCluster {namespace}/main\n")),
        "{out}"
    );
    assert!(
        out.contains("+kind: Deployment") && out.contains("+kind: Service\n"),
        "{out}"
    );
    assert_eq!(
        kubectl(&["get", "streamhouseclusters,deployments", "-o", "name"]),
        "",
        "nothing was created"
    );

    // The operator creates it.
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-0", &[]);
    operator.until_leads();
    let topic = |more: &str| fixtures::topic(&namespace, more);
    let user = fixtures::user(&namespace);
    api.apply(&format!(
        "{cluster}\n---\n{}\n---\n{user}",
        topic("  partitions: 3\n")
    ))
    .unwrap();
    kubectl(&["wait", "topic/orders", "--for=condition=Ready", "--timeout=50s"]);
    kubectl(&["wait", "user/alice", "--for=condition=Ready", "--timeout=50s"]);
    wait_until("the Deployment", EVENT_TIMEOUT, || {
        Ok(kubectl(&["get", "deployments", "-o", "name"])
            .contains("main")
            .then_some(()))
    })
    .unwrap();
    assert_eq!(operator.stop().code(), Some(0));
    let both = format!("{cluster}\n---\n{}", topic("  partitions: 3\n"));
    let (code, out, err) = diff(&api, &both, &[]);
    assert_eq!(
        (code, out.as_str()),
        (Some(0), ""),
        "an up-to-date object has no difference: {err}"
    );

    a_changed_cluster_and_topic(&api, &namespace);
    a_changed_user(&api, &namespace);
    refusals(&api, &namespace);
}

/// What would change of a cluster and a topic.
fn a_changed_cluster_and_topic(api: &KubeApi, namespace: &str) {
    let kubectl = |args: &[&str]| api.kubectl(&[args, &["-n", namespace][..]].concat()).unwrap();
    let changed = fixtures::cluster(namespace, "  agents: {replicas: 5}\n");
    let (code, out, _) = diff(api, &changed, &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("-  replicas: 3\n+  replicas: 5\n"), "{out}");
    a_new_listener(api, namespace);
    let grown = fixtures::topic(namespace, "  partitions: 6\n  retention: {time: 7d}\n");
    let (code, out, _) = diff(api, &grown, &[]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("~ increase partitions from 3 to 6\n")
            && out.contains("~ set retention.ms to 604800000"),
        "{out}"
    );
    let show = "jsonpath={.spec.partitions} {.status.partitions}";
    assert_eq!(
        kubectl(&["get", "topic", "orders", "-o", show]),
        "3 3",
        "nothing was changed"
    );
    let replicas = kubectl(&[
        "get",
        "deployment",
        "main-agent",
        "-o",
        "jsonpath={.spec.replicas}",
    ]);
    assert_eq!(replicas, "3");
}

/// What would change of a user, without its password.
fn a_changed_user(api: &KubeApi, namespace: &str) {
    let kubectl = |args: &[&str]| api.kubectl(&[args, &["-n", namespace][..]].concat()).unwrap();
    let secret = |key: &str| {
        let show = format!("go-template={{{{index .data {key:?} | base64decode}}}}");
        kubectl(&["get", "secret", "alice", "-o", &show])
    };
    let diff_user = |manifest: &str| {
        let (code, out, err) = diff(api, manifest, &[]);
        let password = secret("password");
        assert!(!out.contains(&password) && !err.contains(&password), "{out}{err}");
        (code, out, err)
    };
    let user = fixtures::user(namespace);
    let (code, out, err) = diff_user(&user);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");
    let given = format!(
        "{user}  authorization: {{acls: [{{resource: {{type: topic, name: orders}}, operations: [Read]}}]}}\n\
        \x20 quotas: {{producerByteRate: 1000}}\n"
    );
    let (code, out, _) = diff_user(&given);
    let expected = format!(
        "User {namespace}/alice\n\
        ~ add ACL: ALLOW READ on LITERAL TOPIC \"orders\" from *\n\
        ~ set quota producer_byte_rate to 1000 (was none)\n"
    );
    assert_eq!((code, out), (Some(1), expected));
    let (code, out, _) = diff_user(&user.replace("type: scram", "type: scram, passwordSecret: {name: none}"));
    assert_eq!(code, Some(1));
    assert!(
        out.contains("! SecretMissing: Secret none does not exist"),
        "{out}"
    );
    kubectl(&[
        "create",
        "secret",
        "generic",
        "given",
        "--from-literal=password=hush",
    ]);
    let rotated = user.replace("type: scram", "type: scram, passwordSecret: {name: given}");
    let (code, out, _) = diff_user(&rotated);
    assert_eq!(code, Some(1));
    let credentials = "~ credentials would be replaced: SCRAM-SHA-256, SCRAM-SHA-512 (was SCRAM-SHA-256, SCRAM-SHA-512)\n\
        ~ replace client.properties, librdkafka.conf, password, streamhouse.env of Secret alice\n";
    assert!(out.contains(credentials) && !out.contains("hush"), "{out}");
    let (code, out, _) = diff_user(&user.replace("name: alice", "name: bob"));
    assert_eq!(code, Some(1));
    assert!(
        out.contains("~ create user \"bob\"\n")
            && out.contains("(was none)\n~ create Secret bob with a generated password\n"),
        "{out}"
    );
    let (_, out, _) = diff_user(
        &user
            .replace("  name: alice", "  name: other")
            .replace("spec:\n", "spec:\n  name: alice\n"),
    );
    assert!(
        out.contains("! OwnershipConflict: user \"alice\" is managed by"),
        "{out}"
    );
    let names = kubectl(&["get", "users,secrets", "-o", "name"]);
    assert!(!names.contains("bob") && !names.contains("other"), "{names}");
    assert!(!secret("password").contains("hush"), "nothing was changed");
}

/// Invalid changes, and failed comparisons.
fn refusals(api: &KubeApi, namespace: &str) {
    for (manifests, says) in [
        (
            fixtures::topic(namespace, "  partitions: 2\n"),
            "partitions can only grow",
        ),
        (
            fixtures::topic(namespace, "  partitons: 9\n"),
            "unknown field \"spec.partitons\"",
        ),
        (
            fixtures::topic(namespace, "").replace("name: main", "name: other"),
            "clusterRef cannot change",
        ),
        (
            "kind: ConfigMap\nmetadata: {name: a}\n".to_owned(),
            "only StreamHouseClusters, Topics and Users",
        ),
    ] {
        let (code, out, err) = diff(api, &manifests, &[]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{manifests}");
        assert!(err.contains(says), "{err}");
    }
    let topic = fixtures::topic(namespace, "  partitions: 3\n");
    let (code, _, err) = diff(
        api,
        &topic,
        &["--metadata-url", "postgres://u:never-to-be-shown@127.0.0.1:1/d"],
    );
    assert_eq!(code, Some(2));
    assert!(err.contains("--metadata-url"), "{err}");
    api.kubectl(&["delete", "secret", "bucket", "-n", namespace])
        .unwrap();
    let (code, out, _) = diff(api, &fixtures::cluster(namespace, ""), &[]);
    assert_eq!(code, Some(1));
    assert!(
        out.contains("! SecretMissing: Secret bucket does not exist"),
        "{out}"
    );
}
