//! Resources with a value that only a newer version of the operator knows: they are reported, all
//! others go on, and their deletion ends.

use serde_json::{Value, json};
use streamhouse_testkit::{KubeApi, wait_until};

use super::{EVENT_TIMEOUT, OperatorProcess, crds, fixtures};

/// Returns the definitions of a newer version: `deletionPolicy` may be `Archive`.
fn newer_crds() -> String {
    let known = crds();
    let documents = serde_yaml_ng::Deserializer::from_str(&known)
        .map(|document| <Value as serde::Deserialize>::deserialize(document).unwrap());
    let newer = documents.map(|mut crd| {
        let policy = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/deletionPolicy/enum";
        let values = crd.pointer_mut(policy).unwrap().as_array_mut().unwrap();
        values.push(json!("Archive"));
        crd.to_string()
    });
    newer.collect::<Vec<_>>().join("\n---\n")
}

struct UndecodableSetup<'a> {
    api: &'a KubeApi,
    namespace: String,
}

impl UndecodableSetup<'_> {
    fn kubectl(&self, args: &[&str]) -> String {
        self.api
            .kubectl(&[args, &["-n", &self.namespace]].concat())
            .unwrap()
    }

    fn until(&self, resource: &str, path: &str, holds: impl Fn(&str) -> bool) {
        let output = format!("jsonpath={path}");
        wait_until(&format!("{path} of {resource}"), EVENT_TIMEOUT, || {
            let found = self.kubectl(&["get", resource, "-o", &output, "--ignore-not-found"]);
            Ok(holds(&found).then_some(()))
        })
        .unwrap();
    }

    fn until_undecodable(&self, resource: &str) {
        let reason = "{.status.conditions[?(@.type=='Ready')].reason}";
        self.until(resource, reason, |reason| reason == "Undecodable");
        let message = "{.status.conditions[?(@.type=='Ready')].message}";
        self.until(resource, message, |message| {
            message.contains("Archive") && message.contains("upgrade the operator")
        });
    }

    fn apply_topic(&self, name: &str, policy: &str) {
        let more = format!("  topicName: {name}\n  deletionPolicy: {policy}\n");
        let topic = fixtures::topic(&self.namespace, &more);
        self.api
            .apply(&topic.replace("name: orders", &format!("name: {name}")))
            .unwrap();
    }

    fn until_ready(&self, resource: &str) {
        self.kubectl(&["wait", resource, "--for=condition=Ready", "--timeout=60s"]);
    }
}

#[test]
fn what_cannot_be_decoded_is_reported_and_let_go_and_all_else_goes_on() {
    let api = KubeApi::start().unwrap();
    api.start_controller_manager().unwrap();
    api.apply(&newer_crds()).unwrap();
    let world = UndecodableSetup {
        api: &api,
        namespace: fixtures::namespace(&api),
    };
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-0", &[]);
    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    api.apply(&fixtures::cluster(&world.namespace, "")).unwrap();
    for name in ["orders", "held"] {
        world.apply_topic(name, "Delete");
        world.until_ready(&format!("topic/{name}"));
    }

    // From the beginning, or from some day on: both are reported, and the rest goes on.
    world.apply_topic("strange", "Archive");
    world.apply_topic("held", "Archive");
    let strange = fixtures::cluster(&world.namespace, "  deletionPolicy: Archive\n");
    api.apply(&strange.replace("name: main", "name: strange"))
        .unwrap();
    for resource in ["topic/strange", "topic/held", "streamhousecluster/strange"] {
        world.until_undecodable(resource);
    }
    world.until("events.events.k8s.io", "{.items[*].reason}", |reasons| {
        reasons.contains("Undecodable")
    });
    operator.until("/metrics", 200, |page| {
        page.contains("streamhouse_operator_undecodable_resources{kind=\"Topic\"} 2")
            && page.contains("streamhouse_operator_undecodable_resources{kind=\"StreamHouseCluster\"} 1")
    });
    world.apply_topic("another", "Retain");
    world.until_ready("topic/another");
    api.apply(&fixtures::cluster(
        &world.namespace,
        "  networkPolicy: {enabled: true}\n",
    ))
    .unwrap();
    world.until("networkpolicy/main-agent", "{.metadata.name}", |name| {
        !name.is_empty()
    });

    // Another start finds them in its first list, and goes on as well.
    assert_eq!(operator.stop().code(), Some(0));
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-1", &[]);
    operator.until("/ready", 200, |body| body.contains(r#""leader":true"#));
    world.apply_topic("third", "Retain");
    world.until_ready("topic/third");

    // What became readable again is reconciled again.
    world.apply_topic("strange", "Retain");
    world.until_ready("topic/strange");

    // The operator's finalizer does not hold what it cannot read; the topic is kept.
    world.kubectl(&["delete", "topic", "held", "--timeout=50s"]);
    world.until("events.events.k8s.io", "{.items[*].reason}", |reasons| {
        reasons.contains("Retained")
    });

    // Deleted while no operator ran, and then the namespace with everything else.
    world.apply_topic("orders", "Archive");
    world.until_undecodable("topic/orders");
    assert_eq!(operator.stop().code(), Some(0));
    world.kubectl(&["delete", "topic", "orders", "--wait=false"]);
    api.kubectl(&["delete", "namespace", &world.namespace, "--wait=false"])
        .unwrap();
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-2", &[]);
    wait_until("the end of the namespace", EVENT_TIMEOUT, || {
        let found = api.kubectl(&[
            "get",
            "namespace",
            &world.namespace,
            "--ignore-not-found",
            "-o",
            "name",
        ])?;
        Ok(found.is_empty().then_some(()))
    })
    .unwrap();
    assert_eq!(operator.stop().code(), Some(0));
}

#[test]
fn in_watched_namespaces_each_is_reported_once_and_logged_once() {
    let api = KubeApi::start().unwrap();
    api.apply(&newer_crds()).unwrap();
    let (first, second) = (fixtures::namespace(&api), fixtures::namespace(&api));
    let watched = format!("{first},{second}");
    let more = ["--watch-namespaces", &watched, "--drift-interval", "5s"];
    let worlds = [&first, &second].map(|namespace| UndecodableSetup {
        api: &api,
        namespace: namespace.clone(),
    });
    for world in &worlds {
        world.apply_topic("strange", "Archive");
        let strange = fixtures::cluster(&world.namespace, "  deletionPolicy: Archive\n");
        api.apply(&strange).unwrap();
    }
    let mut operator = OperatorProcess::start(api.kubeconfig(), "op-0", &more);
    for world in &worlds {
        world.until_undecodable("topic/strange");
        world.until_undecodable("streamhousecluster/main");
    }
    operator.until("/metrics", 200, |page| {
        ["Topic", "StreamHouseCluster"].iter().all(|kind| {
            page.contains(&format!(
                "streamhouse_operator_undecodable_resources{{kind=\"{kind}\"}} 2"
            ))
        })
    });
    // One that is mended in one namespace goes on, while another in the next stays as it is.
    api.apply(&fixtures::cluster(&first, "")).unwrap();
    worlds[0].apply_topic("strange", "Retain");
    worlds[0].until_ready("topic/strange");
    operator.until("/metrics", 200, |page| {
        page.contains("streamhouse_operator_undecodable_resources{kind=\"Topic\"} 1")
    });
    worlds[1].until_undecodable("topic/strange");
    assert_eq!(operator.stop().code(), Some(0));
    let log = operator.process.stderr();
    let told = |part: &str| log.lines().filter(|line| line.contains(part)).count();
    assert_eq!(told("cannot decode a resource"), 4, "{log}");
    assert_eq!(told("kube_runtime"), 0, "{log}");
}
