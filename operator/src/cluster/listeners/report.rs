//! Reports the listener for Kafka clients and the additional ones: their addresses for the status,
//! and what is missing. Free of side effects.

use super::addresses::{agent_addresses, bootstrap_addresses, node_host};
use crate::{
    apis::OptionalApi,
    cluster::{
        desired::{DesiredCluster, DesiredListener, DesiredRoute, KAFKA_LISTENER},
        inputs::{BuildInputs, ListenerFacts},
        names,
        problem::ClusterProblem,
    },
    conditions::{ConditionSet, ConditionStatus},
    crd::{ConditionReason, ConditionType, ListenerProtocol, ListenerStatus, ListenerType, RouteKind},
};

/// Maximum number of addresses of one listener in the status.
const MAX_ADDRESSES: usize = 64;

/// The listeners of a cluster for Kafka clients and the additional ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cluster) struct ListenersReport {
    /// The listeners, that for Kafka clients first, then in the order of the spec.
    pub(in crate::cluster) listeners: Vec<ListenerStatus>,
    /// The first problem.
    pub(in crate::cluster) problem: Option<ClusterProblem>,
    /// The listeners that clients outside of the Kubernetes cluster reach without authentication.
    pub(in crate::cluster) open: Vec<String>,
    /// Whether an agent waits for a slot, which no watch reports.
    pub(in crate::cluster) waits_for_slot: bool,
}

/// Separates the problems of the listeners from others: they have a condition of their own and do
/// not make the cluster degraded.
pub(in crate::cluster) fn separate(
    problems: Vec<ClusterProblem>,
) -> (Vec<ClusterProblem>, Vec<ClusterProblem>) {
    problems
        .into_iter()
        .partition(|problem| problem.condition == ConditionType::ListenersAvailable)
}

/// Sets the condition of the listeners. A cluster without such listeners has none.
pub(in crate::cluster) fn set_listeners_available(c: &mut ConditionSet, report: &ListenersReport) {
    let kind = ConditionType::ListenersAvailable;
    match &report.problem {
        _ if report.listeners.is_empty() => c.remove(kind),
        Some(problem) => {
            let message = problem.message.clone();
            c.set(kind, ConditionStatus::False, problem.reason, message);
        }
        None => {
            let message = describe_open(&report.open);
            c.set(
                kind,
                ConditionStatus::True,
                ConditionReason::ListenersReady,
                message,
            );
        }
    }
}

/// Warns of listeners without authentication.
fn describe_open(open: &[String]) -> String {
    match open {
        [] => String::new(),
        [name] => format!(
            "listener {name} is reachable from outside of the Kubernetes cluster without authentication: set spec.authentication"
        ),
        names => format!(
            "listeners {} are reachable from outside of the Kubernetes cluster without authentication: set spec.authentication",
            names.join(", ")
        ),
    }
}

/// Reports the listeners. `refused` are the problems of applying their objects.
pub(in crate::cluster) fn report(
    desired: &DesiredCluster,
    inputs: &BuildInputs,
    refused: Vec<ClusterProblem>,
) -> ListenersReport {
    let facts = &inputs.listeners;
    let has_slots = desired.listeners.iter().any(DesiredListener::has_slots);
    let status = |listener: &DesiredListener| {
        let bootstrap = bootstrap_addresses(desired, listener, facts).join(",");
        let agents = agent_addresses(desired, listener, facts);
        let mut addresses: Vec<String> = agents.into_values().collect();
        addresses.sort();
        addresses.truncate(MAX_ADDRESSES);
        ListenerStatus {
            name: listener.name.clone(),
            type_: listener.kind,
            protocol: listener.protocol,
            bootstrap: Some(bootstrap).filter(|text| !text.is_empty()),
            addresses,
        }
    };
    let kafka = desired.kafka.iter().map(|port| ListenerStatus {
        name: KAFKA_LISTENER.to_owned(),
        type_: ListenerType::Internal,
        protocol: ListenerProtocol::Kafka,
        bootstrap: Some(format!(
            "{}.{}.svc:{}",
            names::listener_service(&desired.name, KAFKA_LISTENER, None),
            desired.namespace,
            port.number
        )),
        addresses: Vec::new(),
    });
    let unlabelled = || {
        facts.label_refusal.clone().map(|message| ClusterProblem {
            condition: ConditionType::ListenersAvailable,
            reason: ConditionReason::ApplyFailed,
            message,
        })
    };
    let found = || {
        desired
            .listeners
            .iter()
            .find_map(|l| find_problem(desired, l, inputs))
    };
    ListenersReport {
        listeners: kafka.chain(desired.listeners.iter().map(status)).collect(),
        open: open_listeners(desired),
        problem: refused.into_iter().next().or_else(unlabelled).or_else(found),
        waits_for_slot: has_slots && facts.agents.values().any(|agent| agent.slot.is_none()),
    }
}

/// Returns the listeners that clients outside of the Kubernetes cluster reach without
/// authentication.
fn open_listeners(desired: &DesiredCluster) -> Vec<String> {
    if desired.authenticates() {
        return Vec::new();
    }
    let outside = desired
        .listeners
        .iter()
        .filter(|listener| listener.kind != ListenerType::Internal);
    outside.map(|listener| listener.name.clone()).collect()
}

/// Returns the optional API that a listener requires.
pub(super) fn required_api(listener: &DesiredListener) -> Option<OptionalApi> {
    match &listener.route {
        Some(DesiredRoute::Gateway { kind, .. }) => Some(match kind {
            RouteKind::Grpc => OptionalApi::GrpcRoute,
            RouteKind::Tls => OptionalApi::TlsRoute,
        }),
        _ => None,
    }
}

/// Returns what a listener lacks.
fn find_problem(
    desired: &DesiredCluster,
    listener: &DesiredListener,
    inputs: &BuildInputs,
) -> Option<ClusterProblem> {
    let facts = &inputs.listeners;
    let problem = |reason, message: String| {
        Some(ClusterProblem {
            condition: ConditionType::ListenersAvailable,
            reason,
            message: format!("listener {}: {message}", listener.name),
        })
    };
    if let Some(api) = required_api(listener).filter(|api| !inputs.has(*api)) {
        let message = format!(
            "{} of {} is not served: install the Gateway API with this kind, or choose another type",
            api.kinds().join(", "),
            api.group()
        );
        return problem(ConditionReason::GatewayApiMissing, message);
    }
    if listener.uses_nodes() && facts.nodes_forbidden {
        let message = "the operator may not read nodes: set rbac.readNodes in its chart, or advertisedHost of the \
            listener's bootstrap and agents";
        return problem(ConditionReason::NodeAccessForbidden, message.to_owned());
    }
    if let Some(answer) = facts.rejected_routes.get(&listener.name) {
        return problem(ConditionReason::RouteRejected, answer.clone());
    }
    let missing = missing_address(desired, listener, facts)?;
    problem(ConditionReason::AddressPending, missing)
}

/// Describes the address that a listener waits for.
fn missing_address(
    desired: &DesiredCluster,
    listener: &DesiredListener,
    facts: &ListenerFacts,
) -> Option<String> {
    if bootstrap_addresses(desired, listener, facts).is_empty() {
        let waits = match listener.kind {
            ListenerType::Nodeport if facts.agents.is_empty() => "no agent runs yet",
            ListenerType::Nodeport => {
                "its Service has no node port yet, or no node of an agent has an address"
            }
            _ => "its load balancer has no address yet",
        };
        return Some(format!("{waits} (bootstrap)"));
    }
    if !listener.per_agent {
        return None;
    }
    let known = agent_addresses(desired, listener, facts);
    let (pod, agent) = facts.agents.iter().find(|(pod, _)| !known.contains_key(*pod))?;
    let node = agent.node.as_ref().and_then(|node| facts.nodes.get(node));
    Some(match listener.kind {
        ListenerType::Internal => format!("agent {pod} has no IP address yet"),
        _ if agent.slot.is_none() => format!("agent {pod} waits for the slot of an agent that is ending"),
        ListenerType::Nodeport if agent.node.is_none() => format!("agent {pod} is not scheduled yet"),
        ListenerType::Nodeport if node.is_none_or(|node| node_host(listener, node).is_none()) => {
            format!("the node of agent {pod} has no address")
        }
        _ => format!("the Service of agent {pod} has no address yet"),
    })
}

#[cfg(test)]
mod tests;
