//! Observes the pods, Services, nodes and routes of the additional listeners, and writes the slots
//! of the agents on their pods.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Service},
};
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::json;

use super::slots::{SlotPod, SlotPool, assign_slots, parse_slot};
use crate::{
    cluster::{
        apply,
        children::{ANNOTATION_LISTENERS_HASH, LABEL_AGENT_SLOT, LABEL_LISTENER, ManagedKind},
        desired::{AgentScale, DesiredCluster, DesiredListener, DesiredRoute, slots_for},
        inputs::{AgentFacts, ListenerFacts, ServiceFacts, ServiceKey},
        labels,
    },
    context::OperatorContext,
    crd::RouteKind,
    metadata_stores::ClusterKey,
};

/// Surplus Services are kept for this many drift intervals.
const SURPLUS_INTERVALS: u32 = 10;

/// Since when clusters have more slots than they need, in milliseconds.
#[derive(Debug, Default)]
pub(in crate::cluster) struct SlotPools(Mutex<HashMap<ClusterKey, i64>>);

impl SlotPools {
    /// Drops the state of a cluster that no longer exists.
    pub(in crate::cluster) fn remove(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }

    /// Returns the number of slots, of which `needed` are needed and `existing` exist.
    fn resize(&self, key: &ClusterKey, needed: u16, existing: u16, now_ms: i64, grace: Duration) -> u16 {
        let mut pools = self.0.lock();
        let grace_ms = i64::try_from(grace.as_millis()).unwrap_or(i64::MAX);
        let pool = SlotPool::resize(needed, existing, pools.get(key).copied(), now_ms, grace_ms);
        match pool.surplus_since_ms {
            Some(since) => pools.insert(key.clone(), since),
            None => pools.remove(key),
        };
        pool.size
    }
}

/// Observes the listeners of a cluster. With `pools`, also writes the slots of the agents on their
/// pods; without, only determines them.
///
/// # Errors
///
/// Returns errors of the API server, except those that a condition reports.
pub(in crate::cluster) async fn observe(
    context: &OperatorContext,
    desired: &DesiredCluster,
    pools: Option<&SlotPools>,
) -> kube::Result<ListenerFacts> {
    let mut facts = ListenerFacts::default();
    if desired.listeners.is_empty() {
        return Ok(facts);
    }
    let key = ClusterKey::new(&desired.namespace, &desired.name);
    facts.services = read_services(context, &key, Some(&desired.uid)).await?;
    let pods = running_pods(context, &key).await?;
    let mut slots = BTreeMap::new();
    if desired.listeners.iter().any(DesiredListener::has_slots) {
        let existing = count_slots(&facts.services);
        let needed = match needed_slots(context, desired).await? {
            Some(needed) => needed,
            None => existing,
        };
        slots = assign_slots(&pods.iter().map(slot_pod).collect::<Vec<_>>(), needed);
        let used = slots.values().max().map_or(0, |slot| slot + 1);
        facts.slots = match pools {
            Some(pools) => {
                facts.label_refusal = write_slots(context, &key, &pods, &slots).await?;
                let grace = context.drift_interval * SURPLUS_INTERVALS;
                pools.resize(&key, needed.max(used), existing, context.clock.now_ms(), grace)
            }
            None => needed.max(used).max(existing),
        };
    }
    facts.agents = pods
        .iter()
        .map(|pod| (pod.name_any(), agent_facts(pod, &slots)))
        .collect();
    if desired.listeners.iter().any(DesiredListener::uses_nodes) {
        read_nodes(context, &mut facts).await?;
    }
    facts.rejected_routes = read_rejections(context, desired, &key).await?;
    Ok(facts)
}

/// Writes the slots of a cluster whose spec cannot be used, so that the Services that exist go on
/// selecting agents.
///
/// # Errors
///
/// Returns errors of the API server.
pub(in crate::cluster) async fn renew_slots(context: &OperatorContext, key: &ClusterKey) -> kube::Result<()> {
    let existing = count_slots(&read_services(context, key, None).await?);
    if existing == 0 {
        return Ok(());
    }
    let pods = running_pods(context, key).await?;
    let slots = assign_slots(&pods.iter().map(slot_pod).collect::<Vec<_>>(), existing);
    write_slots(context, key, &pods, &slots).await.map(|_| ())
}

/// Returns the Services of the listeners.
async fn read_services(
    context: &OperatorContext,
    key: &ClusterKey,
    owner: Option<&str>,
) -> kube::Result<BTreeMap<ServiceKey, ServiceFacts>> {
    let api: Api<Service> = Api::namespaced(context.client.clone(), &key.namespace);
    let services = api.list(&listener_objects(key)).await?.items;
    let ours = |service: &&Service| {
        let mut owners = service.owner_references().iter();
        owner.is_none_or(|uid| owners.any(|owner| owner.uid == uid))
    };
    let facts = |service: &Service| {
        let labels = service.labels();
        let slot = labels.get(LABEL_AGENT_SLOT);
        let key = (
            labels.get(LABEL_LISTENER)?.clone(),
            slot.and_then(|slot| parse_slot(slot)),
        );
        Some((key, service_facts(service)))
    };
    Ok(services.iter().filter(ours).filter_map(facts).collect())
}

fn listener_objects(key: &ClusterKey) -> ListParams {
    let children = labels::children_selector(&key.namespace, &key.name);
    ListParams::default().labels(&format!("{children},{LABEL_LISTENER}"))
}

fn service_facts(service: &Service) -> ServiceFacts {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let node_port = ports.into_iter().flatten().find_map(|port| port.node_port);
    let balancer = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    ServiceFacts {
        node_port: node_port
            .and_then(|port| u16::try_from(port).ok())
            .filter(|port| *port > 0),
        balancer_hosts: ingress
            .into_iter()
            .flatten()
            .filter_map(|ingress| ingress.hostname.clone().or_else(|| ingress.ip.clone()))
            .collect(),
    }
}

/// Returns the number of slots for which Services exist.
fn count_slots(services: &BTreeMap<ServiceKey, ServiceFacts>) -> u16 {
    let slots = services.keys().filter_map(|(_, slot)| *slot);
    slots.max().map_or(0, |slot| slot.saturating_add(1))
}

/// Returns the number of slots that the agents need; `None` while the cluster is stopped.
async fn needed_slots(context: &OperatorContext, desired: &DesiredCluster) -> kube::Result<Option<u16>> {
    let replicas = match &desired.scale {
        AgentScale::Stopped => return Ok(None),
        AgentScale::Fixed(replicas) => *replicas,
        AgentScale::Automatic(autoscaler) => {
            let api: Api<Deployment> = Api::namespaced(context.client.clone(), &desired.namespace);
            let deployment = api.get_opt(&desired.agent_name()).await?;
            let current = deployment.and_then(|deployment| deployment.spec?.replicas);
            current.unwrap_or(0).clamp(autoscaler.min, autoscaler.max)
        }
    };
    Ok(Some(slots_for(replicas)))
}

/// Returns the agents' pods that have not ended. One that has ended serves no client.
async fn running_pods(context: &OperatorContext, key: &ClusterKey) -> kube::Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let selector = labels::agent_selector_text(&key.name);
    let mut pods = api.list(&ListParams::default().labels(&selector)).await?.items;
    pods.retain(|pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    });
    Ok(pods)
}

fn slot_pod(pod: &Pod) -> SlotPod {
    SlotPod {
        name: pod.name_any(),
        created_ms: pod
            .creation_timestamp()
            .map_or(0, |created| created.0.as_millisecond()),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        label: pod.labels().get(LABEL_AGENT_SLOT).cloned(),
    }
}

fn agent_facts(pod: &Pod, slots: &BTreeMap<String, u16>) -> AgentFacts {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_ref());
    let mut ips: Vec<String> = all.into_iter().flatten().map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.and_then(|status| status.pod_ip.clone()));
    }
    AgentFacts {
        slot: slots.get(&pod.name_any()).copied(),
        ips,
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        listeners_hash: pod.annotations().get(ANNOTATION_LISTENERS_HASH).cloned(),
    }
}

/// Writes the slots on the pods that have another label. Returns the answer of an API server that
/// refuses it.
async fn write_slots(
    context: &OperatorContext,
    key: &ClusterKey,
    pods: &[Pod],
    slots: &BTreeMap<String, u16>,
) -> kube::Result<Option<String>> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    for pod in pods {
        let name = pod.name_any();
        let slot = slots.get(&name).map(ToString::to_string);
        if pod.labels().get(LABEL_AGENT_SLOT) == slot.as_ref() {
            continue;
        }
        // The uid makes the API server refuse a successor with the same name.
        let patch = json!({ "metadata": { "uid": pod.metadata.uid, "labels": { LABEL_AGENT_SLOT: slot } } });
        match api
            .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => context.metrics.api_writes.with_label_values(&["Pod"]).inc(),
            // The pod is gone or has been replaced.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
                return Ok(Some(format!(
                    "cannot write the slot of pod {name}: {}",
                    status.message
                )));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Annotates the pods whose kubelets have not heard of the newest file of the listeners, so that
/// they update it now: Kafka clients cannot reach an agent of which the others do not know the
/// address. Called after the file was applied. A refusal only delays the update.
///
/// # Errors
///
/// Returns errors of the API server, except refusals.
pub(in crate::cluster) async fn announce_addresses(
    context: &OperatorContext,
    key: &ClusterKey,
    facts: &ListenerFacts,
    hash: &str,
) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = json!({ "metadata": { "annotations": { ANNOTATION_LISTENERS_HASH: hash } } });
    let agents = facts.agents.iter();
    for (pod, _) in agents.filter(|(_, agent)| agent.listeners_hash.as_deref() != Some(hash)) {
        match api
            .patch(pod, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => context.metrics.api_writes.with_label_values(&["Pod"]).inc(),
            Err(kube::Error::Api(status)) if status.code != 429 && status.code < 500 => {
                tracing::debug!(cluster = %key, pod, message = status.message, "cannot annotate a pod");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the addresses of the nodes on which agents run.
async fn read_nodes(context: &OperatorContext, facts: &mut ListenerFacts) -> kube::Result<()> {
    let api: Api<Node> = Api::all(context.client.clone());
    let names: BTreeSet<String> = facts
        .agents
        .values()
        .filter_map(|agent| agent.node.clone())
        .collect();
    for name in names {
        match api.get_opt(&name).await {
            Ok(Some(node)) => {
                let addresses = node.status.and_then(|status| status.addresses);
                let addresses = addresses.into_iter().flatten();
                let addresses = addresses
                    .map(|address| (address.type_, address.address))
                    .collect();
                facts.nodes.insert(name, addresses);
            }
            Ok(None) => {}
            Err(kube::Error::Api(status)) if status.code == 403 => {
                facts.nodes_forbidden = true;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Returns the answers of Gateways that do not accept a route, by listener.
async fn read_rejections(
    context: &OperatorContext,
    desired: &DesiredCluster,
    key: &ClusterKey,
) -> kube::Result<BTreeMap<String, String>> {
    let mut rejections = BTreeMap::new();
    for kind in [ManagedKind::GRPCRoute, ManagedKind::TLSRoute] {
        let uses = desired.listeners.iter().any(|listener| {
            matches!(
                (&listener.route, kind),
                (
                    Some(DesiredRoute::Gateway {
                        kind: RouteKind::Grpc,
                        ..
                    }),
                    ManagedKind::GRPCRoute
                ) | (
                    Some(DesiredRoute::Gateway {
                        kind: RouteKind::Tls,
                        ..
                    }),
                    ManagedKind::TLSRoute
                )
            )
        });
        if !uses || kind.optional_api().is_some_and(|api| !context.apis.has(api)) {
            continue;
        }
        let api = apply::api_for(context, kind, &key.namespace);
        let listed = match api.list(&listener_objects(key)).await {
            Ok(listed) => listed.items,
            Err(error) => {
                tracing::warn!(cluster = %key, ?kind, %error, "cannot list the listeners' routes: whether a Gateway accepts them is unknown");
                continue;
            }
        };
        for route in listed {
            if let (Some(listener), Some(answer)) = (route.labels().get(LABEL_LISTENER), rejection(&route)) {
                rejections.insert(listener.clone(), answer);
            }
        }
    }
    Ok(rejections)
}

/// Returns why a Gateway does not accept a route.
fn rejection(route: &DynamicObject) -> Option<String> {
    let parents = route.data.pointer("/status/parents")?.as_array()?;
    let conditions = parents
        .iter()
        .filter_map(|parent| parent.get("conditions")?.as_array());
    let mut conditions = conditions.flatten();
    let refused = conditions.find(|condition| {
        matches!(condition["type"].as_str(), Some("Accepted" | "ResolvedRefs"))
            && condition["status"] == "False"
    })?;
    let text = |field: &str| refused[field].as_str().unwrap_or_default().to_owned();
    Some(format!(
        "route {} is not accepted: {}: {}",
        route.name_any(),
        text("reason"),
        text("message")
    ))
}
