//! Additional listeners: slots of agents that come and go, the addresses that clients are given,
//! and what is missing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::environment::ClusterTestEnvironment;

const SLOT: &str = "streamhouse.io/agent-slot";

fn listener(fields: Value) -> Value {
    let mut listener = json!({ "name": "external", "port": 9094 });
    listener
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    json!({ "listeners": { "additional": [listener] } })
}

pub(crate) async fn agents(world: &ClusterTestEnvironment) -> Vec<Pod> {
    let labels = "app.kubernetes.io/component=agent,app.kubernetes.io/instance=main";
    let pods = world.api_of::<Pod>();
    pods.list(&ListParams::default().labels(labels))
        .await
        .unwrap()
        .items
}

/// Waits until this many agents have slots, and returns them by pod.
pub(crate) async fn slots(world: &ClusterTestEnvironment, count: usize) -> BTreeMap<String, String> {
    world
        .until("slots of all agents", || async {
            let pods = agents(world).await;
            let slots: BTreeMap<String, String> = pods
                .iter()
                .filter_map(|pod| Some((pod.name_any(), pod.labels().get(SLOT)?.clone())))
                .collect();
            (pods.len() == count && slots.len() == count).then_some(slots)
        })
        .await
}

/// Ends an agent as a kubelet does, and waits until it is gone.
pub(crate) async fn end_agent(world: &ClusterTestEnvironment, pod: &str) {
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    world.api_of::<Pod>().delete(pod, &now).await.unwrap();
    world.until_gone::<Pod>(pod).await;
}

/// Returns the listener in the file of the agents.
async fn listener_file(world: &ClusterTestEnvironment) -> Value {
    let config = world.object::<ConfigMap>("main-listeners").await;
    let file: Value = serde_json::from_str(&config.data.unwrap()["listeners.yaml"]).unwrap();
    file["listeners"][0].clone()
}

async fn service_names(world: &ClusterTestEnvironment) -> BTreeSet<String> {
    let labels = ListParams::default().labels("streamhouse.io/listener");
    let services = world.api_of::<Service>().list(&labels).await.unwrap().items;
    services.iter().map(ResourceExt::name_any).collect()
}

fn names(expected: &[&str]) -> BTreeSet<String> {
    expected
        .iter()
        .map(|name| format!("main-external-{name}"))
        .collect()
}

pub(crate) async fn create_node(world: &ClusterTestEnvironment, name: &str, address: &str) -> String {
    let name = format!("{name}-{}", world.namespace);
    let nodes: Api<Node> = Api::all(world.client.clone());
    let node = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    nodes.create(&PostParams::default(), &node).await.unwrap();
    let status = json!({ "status": { "addresses": [
        { "type": "InternalIP", "address": "10.0.0.1" }, { "type": "ExternalIP", "address": address }] } });
    let parameters = PatchParams::default();
    nodes
        .patch_status(&name, &parameters, &Patch::Merge(&status))
        .await
        .unwrap();
    name
}

/// Places a pod on a node as the scheduler does.
pub(crate) async fn bind(world: &ClusterTestEnvironment, pod: &str, node: &str) {
    let target = json!({ "apiVersion": "v1", "kind": "Binding", "metadata": { "name": pod }, "target": { "kind": "Node", "name": node } });
    let pods = world.api_of::<Pod>();
    let bound = pods
        .create_subresource::<Value, Value>("binding", pod, &PostParams::default(), &target)
        .await;
    bound.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_is_reached_at_the_node_port_of_its_own_service() {
    let world = ClusterTestEnvironment::new().await;
    world
        .create(listener(
            json!({ "type": "nodeport", "unsafeWithoutAuthentication": true }),
        ))
        .await;
    let slots = slots(&world, 2).await;
    assert_eq!(
        BTreeSet::from_iter(slots.values()),
        BTreeSet::from([&"0".to_owned(), &"1".to_owned()])
    );
    // One more than agents, for a rolling update.
    assert_eq!(service_names(&world).await, names(&["0", "1", "2", "bootstrap"]));
    world
        .condition("ListenersAvailable", "False", "AddressPending")
        .await;

    let node = create_node(&world, "a", "192.0.2.7").await;
    let mut expected = serde_json::Map::new();
    for (pod, slot) in &slots {
        bind(&world, pod, &node).await;
        let service = world.object::<Service>(&format!("main-external-{slot}")).await;
        let spec = service.spec.unwrap();
        assert_eq!(&spec.selector.unwrap()[SLOT], slot);
        let port = spec.ports.unwrap()[0].node_port.unwrap();
        expected.insert(pod.clone(), json!(format!("192.0.2.7:{port}")));
    }
    world
        .condition("ListenersAvailable", "True", "ListenersReady")
        .await;
    let file = listener_file(&world).await;
    assert_eq!(file["agents"], Value::Object(expected));
    assert_eq!(
        (&file["listen"], &file["tls"]),
        (&json!("[::]:9094"), &json!(false))
    );
    let status = world.cluster().await.status.unwrap().listeners;
    assert_eq!(
        (status[0].name.as_str(), status[0].addresses.len()),
        ("external", 2)
    );
    assert!(status[0].bootstrap.as_ref().unwrap().starts_with("192.0.2.7:"));
    // Only the agents' addresses have changed.
    assert_eq!(world.deployment().await.metadata.generation, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_gets_the_slot_of_the_one_that_is_gone() {
    let world = ClusterTestEnvironment::new().await;
    world
        .create(listener(
            json!({ "type": "nodeport", "unsafeWithoutAuthentication": true }),
        ))
        .await;
    let before = slots(&world, 2).await;
    let (gone, slot) = before.first_key_value().unwrap();
    end_agent(&world, gone).await;
    let after = world
        .until("a slot for the successor", || async {
            let after = slots(&world, 2).await;
            (!after.contains_key(gone)).then_some(after)
        })
        .await;
    let successor = after.keys().find(|pod| !before.contains_key(*pod)).unwrap();
    assert_eq!(&after[successor], slot);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_get_slots_while_the_database_is_down_and_while_the_spec_is_invalid() {
    let world = ClusterTestEnvironment::new().await;
    world
        .create(listener(
            json!({ "type": "nodeport", "unsafeWithoutAuthentication": true }),
        ))
        .await;
    let before = slots(&world, 2).await;
    world
        .write_secret("metadata", &[("uri", "postgres://streamhouse@127.0.0.1:1/none")])
        .await;
    world
        .condition("MetadataReachable", "False", "MetadataUnreachable")
        .await;
    // The other connection string also rolls the agents.
    let pod = before.keys().next().unwrap();
    end_agent(&world, pod).await;
    let between = slots_after(&world, pod).await;

    world
        .patch_spec(json!({ "agents": { "settings": { "flushInterval": "never" } } }))
        .await;
    world.condition("Ready", "False", "InvalidSpec").await;
    let pod = between.keys().next().unwrap();
    end_agent(&world, pod).await;
    slots_after(&world, pod).await;
}

/// Waits until each of at least two agents has a slot of its own, after the end of one.
async fn slots_after(world: &ClusterTestEnvironment, gone: &str) -> BTreeMap<String, String> {
    world
        .until("slots of the other agents", || async {
            let pods = agents(world).await;
            let label = |pod: &Pod| Some((pod.name_any(), pod.labels().get(SLOT)?.clone()));
            let slots: BTreeMap<String, String> = pods.iter().filter_map(label).collect();
            let distinct = BTreeSet::from_iter(slots.values()).len() == pods.len();
            (pods.len() >= 2 && distinct && !slots.contains_key(gone)).then_some(slots)
        })
        .await
}

async fn set_balancer(world: &ClusterTestEnvironment, service: &str, host: &str) {
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "hostname": host }] } } });
    let services = world.api_of::<Service>();
    let parameters = PatchParams::default();
    services
        .patch_status(service, &parameters, &Patch::Merge(&status))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_are_advertised_once_they_have_addresses_and_outlive_agents() {
    let world = ClusterTestEnvironment::new().await;
    let balancers = json!({ "type": "loadbalancer", "unsafeWithoutAuthentication": true, "agents": { "annotations": { "example.com/name": "b{slot}" } } });
    world.create(listener(balancers)).await;
    let slots = slots(&world, 2).await;
    let message = world
        .condition("ListenersAvailable", "False", "AddressPending")
        .await;
    assert!(
        message.contains("its load balancer has no address yet"),
        "{message}"
    );
    for name in ["bootstrap", "0", "1", "2"] {
        let service = world.object::<Service>(&format!("main-external-{name}")).await;
        assert_eq!(
            service.spec.as_ref().unwrap().type_.as_deref(),
            Some("LoadBalancer")
        );
        if name != "bootstrap" {
            assert_eq!(service.annotations()["example.com/name"], format!("b{name}"));
        }
        set_balancer(
            &world,
            &format!("main-external-{name}"),
            &format!("{name}.elb.example.com"),
        )
        .await;
    }
    world
        .condition("ListenersAvailable", "True", "ListenersReady")
        .await;
    let file = listener_file(&world).await;
    for (pod, slot) in &slots {
        assert_eq!(file["agents"][pod], format!("{slot}.elb.example.com:9094"));
    }

    // Scaled down: the surplus goes late, and the Service of the agent that is left stays.
    world.patch_spec(json!({ "agents": { "replicas": 1 } })).await;
    world
        .until("the end of an agent", || async {
            (agents(&world).await.len() == 1).then_some(())
        })
        .await;
    world.until_gone::<Service>("main-external-2").await;
    let left = slots_of(&world).await;
    assert!(
        service_names(&world)
            .await
            .is_superset(&names(&["bootstrap", &left[0]]))
    );

    world
        .patch_spec(json!({ "listeners": { "additional": null } }))
        .await;
    world.until_gone::<Service>("main-external-bootstrap").await;
    world.until_gone::<ConfigMap>("main-listeners").await;
    world
        .until("the end of the condition", || async {
            let status = world.cluster().await.status?;
            let mut conditions = status.conditions.iter();
            let gone = conditions.all(|condition| condition.type_ != "ListenersAvailable");
            (gone && status.listeners.is_empty() && service_names(&world).await.is_empty()).then_some(())
        })
        .await;
}

async fn slots_of(world: &ClusterTestEnvironment) -> Vec<String> {
    let pods = agents(world).await;
    pods.iter()
        .filter_map(|pod| pod.labels().get(SLOT).cloned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_somebody_else_is_left_alone_and_the_cluster_is_not_degraded() {
    let world = ClusterTestEnvironment::new().await;
    let theirs = json!({ "metadata": { "name": "main-external-bootstrap" },
        "spec": { "ports": [{ "port": 1 }], "selector": { "app": "other" } } });
    let services = world.api_of::<Service>();
    let theirs: Service = serde_json::from_value(theirs).unwrap();
    services.create(&PostParams::default(), &theirs).await.unwrap();
    world.create(listener(json!({ "type": "internal" }))).await;
    let message = world
        .condition("ListenersAvailable", "False", "ObjectConflict")
        .await;
    assert!(
        message.contains("Service main-external-bootstrap exists"),
        "{message}"
    );
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    world.condition("Degraded", "False", "Healthy").await;
    world.condition("Stalled", "True", "ObjectConflict").await;

    services
        .delete("main-external-bootstrap", &DeleteParams::default())
        .await
        .unwrap();
    world
        .object_where::<Service>("main-external-bootstrap", |service| {
            service.labels().contains_key("streamhouse.io/listener")
        })
        .await;
    world.condition("Stalled", "False", "NotStalled").await;
}

/// Returns the definition of a kind of the Gateway API, as far as the operator uses it.
fn route_definition(kind: &str, plural: &str, version: &str) -> Value {
    let free = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.gateway.networking.k8s.io"),
            // The API server asks for it in groups of Kubernetes.
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2997" },
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced",
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List") },
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": { "spec": free, "status": free } } },
            }],
        },
    })
}

fn routes(world: &ClusterTestEnvironment, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", version, kind));
    Api::namespaced_with(world.client.clone(), &world.namespace, &resource)
}

/// A single test, since an installed API affects all clusters: missing, then installed.
#[tokio::test(flavor = "multi_thread")]
async fn routes_wait_for_the_gateway_api_and_nothing_else_does() {
    let world = ClusterTestEnvironment::new().await;
    let parents = json!({ "parentRefs": [{ "name": "web" }] });
    let gateway = json!({ "type": "gateway", "unsafeWithoutAuthentication": true, "gateway": parents, "bootstrap": { "host": "events.example.com" } });
    world.create(listener(gateway)).await;
    let message = world
        .condition("ListenersAvailable", "False", "GatewayApiMissing")
        .await;
    assert!(message.contains("GRPCRoute"), "{message}");
    world.end_job("main-preflight", true, "").await;
    world.make_agents_ready().await;
    world.condition("Ready", "True", "AgentsReady").await;
    world.condition("Degraded", "False", "Healthy").await;
    assert_eq!(listener_file(&world).await["address"], "events.example.com:443");

    let api = world.api;
    tokio::task::spawn_blocking(move || {
        for (kind, plural, version) in [
            ("GRPCRoute", "grpcroutes", "v1"),
            ("TLSRoute", "tlsroutes", "v1alpha3"),
        ] {
            api.apply(&route_definition(kind, plural, version).to_string())
                .unwrap();
            let name = format!("crd/{plural}.gateway.networking.k8s.io");
            api.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", &name])
                .unwrap();
        }
    })
    .await
    .unwrap();
    world.context.apis.discover(&world.client).await.unwrap();
    world
        .condition("ListenersAvailable", "True", "ListenersReady")
        .await;
    let grpc = routes(&world, "v1", "GRPCRoute");
    let route = grpc.get("main-external-bootstrap").await.unwrap();
    assert_eq!(route.data["spec"]["hostnames"], json!(["events.example.com"]));

    let refusal = json!({ "status": { "parents": [{ "conditions": [{ "type": "Accepted", "status": "False",
        "reason": "NotAllowedByListeners", "message": "no listener admits this namespace" }] }] } });
    let parameters = PatchParams::default();
    grpc.patch_status("main-external-bootstrap", &parameters, &Patch::Merge(&refusal))
        .await
        .unwrap();
    let message = world
        .condition("ListenersAvailable", "False", "RouteRejected")
        .await;
    assert!(message.contains("no listener admits this namespace"), "{message}");

    // Passed through with TLS: another kind, in the version that is served here.
    world
        .write_secret("certificate", &[("tls.crt", "a"), ("tls.key", "b")])
        .await;
    let tls = json!({ "type": "gateway", "unsafeWithoutAuthentication": true, "gateway": parents, "bootstrap": { "host": "events.example.com" },
        "tls": { "secretName": "certificate" } });
    world.patch_spec(listener(tls)).await;
    world
        .until("the other route", || async {
            let tls = routes(&world, "v1alpha3", "TLSRoute");
            let route = tls.get_opt("main-external-bootstrap").await.unwrap();
            let old = grpc.get_opt("main-external-bootstrap").await.unwrap();
            (route.is_some() && old.is_none()).then_some(())
        })
        .await;
}

/// Returns a client with all rights in the namespace and none outside.
async fn namespaced_client(world: &ClusterTestEnvironment) -> Client {
    let (api, namespace) = (world.api, world.namespace.clone());
    let kubeconfig = tokio::task::spawn_blocking(move || {
        let here = ["-n", namespace.as_str()];
        api.kubectl(&[&["create", "serviceaccount", "operator"], &here[..]].concat())
            .unwrap();
        let account = format!("--serviceaccount={namespace}:operator");
        let bind = [
            "create",
            "rolebinding",
            "operator",
            "--clusterrole=cluster-admin",
            &account,
        ];
        api.kubectl(&[&bind[..], &here[..]].concat()).unwrap();
        api.kubeconfig_for_service_account(&namespace, "operator")
            .unwrap()
    })
    .await
    .unwrap();
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_may_not_read_nodes_says_so_and_works_with_given_hosts() {
    let mut world = ClusterTestEnvironment::without_operator().await;
    world.context.client = namespaced_client(&world).await;
    world.start();
    world
        .create(listener(
            json!({ "type": "nodeport", "unsafeWithoutAuthentication": true }),
        ))
        .await;
    let slots = slots(&world, 2).await;
    let node = create_node(&world, "b", "192.0.2.8").await;
    for pod in slots.keys() {
        bind(&world, pod, &node).await;
    }
    let message = world
        .condition("ListenersAvailable", "False", "NodeAccessForbidden")
        .await;
    assert!(message.contains("rbac.readNodes"), "{message}");
    let host = json!({ "advertisedHost": "events.example.com" });
    world
        .patch_spec(listener(
            json!({ "type": "nodeport", "unsafeWithoutAuthentication": true, "bootstrap": host, "agents": host }),
        ))
        .await;
    world
        .condition("ListenersAvailable", "True", "ListenersReady")
        .await;
}
