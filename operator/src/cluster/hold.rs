//! A rollout that is held: agents of the spec could not work, so those that run are kept, with
//! their pod template. Called by the reconciliation before it applies the children. Guarantees: an
//! agent that restarts or is replaced meanwhile meets the objects that its pod template was made
//! for. Only the number of agents follows the spec, so that a held cluster can be stopped.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{Api, ResourceExt, api::DynamicObject};

use super::{
    apply,
    build::{self, ChildObject},
    children::ManagedKind,
    desired::{AgentScale, DesiredCluster},
    labels, replicas,
};
use crate::{context::OperatorContext, metadata_stores::ClusterKey};

/// Variable of the built-in listener for Kafka clients, which its Services follow.
const KAFKA_LISTEN_VARIABLE: &str = "STREAMHOUSE_KAFKA_LISTEN";

/// A held rollout: what is left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldRollout {
    /// No agent exists yet: none is created, and there is none to protect.
    NoAgents,
    /// Agents exist, and their listeners are those of the spec: addresses are still updated.
    SameListeners,
    /// Agents exist, and have other listeners than those of the spec.
    OtherListeners,
}

/// How a child is handled while agents exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HeldChild {
    /// Applied: agents do not notice it.
    Applied,
    /// Created if it does not exist, since agents cannot start without it, and else left as it is.
    Created,
    /// Applied if the listeners are those of the running agents.
    OfListeners,
    /// Left as it is, also if it does not exist.
    Withheld,
}

impl HeldChild {
    fn classify(kind: ManagedKind, object: &DynamicObject) -> Self {
        let component = object.labels().get(labels::COMPONENT_LABEL);
        let is = |name: &str| component.is_some_and(|component| component == name);
        match kind {
            _ if is(labels::MONITORING_COMPONENT) => Self::Applied,
            _ if is(labels::LISTENER_COMPONENT) => Self::OfListeners,
            ManagedKind::PodDisruptionBudget
            | ManagedKind::HorizontalPodAutoscaler
            | ManagedKind::ServiceMonitor
            | ManagedKind::PrometheusRule => Self::Applied,
            ManagedKind::ServiceAccount | ManagedKind::ConfigMap | ManagedKind::Service => Self::Created,
            // Its names follow the addresses of the listeners.
            ManagedKind::Certificate
            | ManagedKind::Ingress
            | ManagedKind::GRPCRoute
            | ManagedKind::TLSRoute => Self::OfListeners,
            ManagedKind::NetworkPolicy | ManagedKind::Job | ManagedKind::Deployment => Self::Withheld,
        }
    }
}

impl HeldRollout {
    /// Returns whether the addresses of the listeners in the spec are those of the agents.
    pub(super) fn has_spec_listeners(self) -> bool {
        self != Self::OtherListeners
    }

    /// Returns whether running agents keep their addresses.
    pub(super) fn protects_agents(self) -> bool {
        self != Self::NoAgents
    }

    /// Returns whether an existing object is kept although it is not desired.
    pub(super) fn keeps(self, kind: ManagedKind, object: &DynamicObject) -> bool {
        match self {
            Self::NoAgents => is_rollout(kind),
            _ => HeldChild::classify(kind, object) != HeldChild::Applied,
        }
    }
}

/// The objects that start new agents.
fn is_rollout(kind: ManagedKind) -> bool {
    matches!(kind, ManagedKind::Deployment | ManagedKind::Job)
}

/// Removes from `children` what must not be applied while the rollout is held, and sets the number
/// of agents.
///
/// # Errors
///
/// Returns errors of the API server.
pub(super) async fn hold_rollout(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
    children: &mut Vec<ChildObject>,
) -> kube::Result<HeldRollout> {
    let held = withhold_children(context, key, desired, children).await?;
    if let Some(deployment) = read_deployment(context, key, desired).await? {
        scale_agents(context, key, desired, deployment).await?;
    }
    Ok(held)
}

/// Removes from `children` what must not be applied while the rollout is held. Changes nothing.
///
/// # Errors
///
/// Returns errors of the API server.
pub(super) async fn withhold_children(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
    children: &mut Vec<ChildObject>,
) -> kube::Result<HeldRollout> {
    children.retain(|child| !is_rollout(child.kind));
    if read_deployment(context, key, desired).await?.is_none() {
        return Ok(HeldRollout::NoAgents);
    }
    let held = if has_other_listeners(context, desired).await? {
        HeldRollout::OtherListeners
    } else {
        HeldRollout::SameListeners
    };
    let mut applied = Vec::new();
    for child in std::mem::take(children) {
        let applies = match HeldChild::classify(child.kind, &child.object) {
            HeldChild::Applied => true,
            HeldChild::OfListeners => held.has_spec_listeners(),
            HeldChild::Created => {
                let api = apply::api_for(context, child.kind, child.namespace());
                api.get_opt(child.name()).await?.is_none()
            }
            HeldChild::Withheld => false,
        };
        if applies {
            applied.push(child);
        }
    }
    *children = applied;
    Ok(held)
}

/// Returns the agents' Deployment, if it exists and is managed for this cluster.
async fn read_deployment(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
) -> kube::Result<Option<DynamicObject>> {
    let api = apply::api_for(context, ManagedKind::Deployment, &key.namespace);
    let stored = api.get_opt(&desired.agent_name()).await?;
    Ok(stored.filter(|deployment| apply::is_managed_for(deployment, key)))
}

/// Returns whether agents would have to restart for the listeners of the spec.
async fn has_other_listeners(context: &OperatorContext, desired: &DesiredCluster) -> kube::Result<bool> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &desired.namespace);
    let stored = api.get_opt(&build::listeners_config_name(desired)).await?;
    let stored = stored.and_then(|config| config.data);
    if build::stored_listeners(stored.as_ref()) != build::desired_listeners(desired) {
        return Ok(true);
    }
    let settings = api.get_opt(&desired.agent_name()).await?;
    let settings = settings.and_then(|config| config.data).unwrap_or_default();
    Ok(settings.get(KAFKA_LISTEN_VARIABLE) != desired.variables.get(KAFKA_LISTEN_VARIABLE))
}

/// Sets the number of agents of the spec, and nothing else of their Deployment.
async fn scale_agents(
    context: &OperatorContext,
    key: &ClusterKey,
    desired: &DesiredCluster,
    deployment: DynamicObject,
) -> kube::Result<()> {
    let Ok(stored) = deployment.try_parse::<Deployment>() else {
        return Ok(());
    };
    let stored_replicas = stored.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let Some(wanted) = replicas_while_held(&desired.scale, stored_replicas) else {
        return Ok(());
    };
    let api = apply::api_for(context, ManagedKind::Deployment, &key.namespace);
    replicas::set_replicas(&api, &desired.agent_name(), i64::from(wanted)).await?;
    let kind = ManagedKind::Deployment.as_str();
    context.metrics.api_writes.with_label_values(&[kind]).inc();
    Ok(())
}

/// Returns the number of agents to set; `None` leaves it as it is. An autoscaler does nothing for a
/// Deployment with no replicas.
fn replicas_while_held(scale: &AgentScale, stored: i32) -> Option<i32> {
    let wanted = match scale {
        AgentScale::Stopped => 0,
        AgentScale::Fixed(replicas) => *replicas,
        AgentScale::Automatic(autoscaler) if stored == 0 => autoscaler.min.max(1),
        AgentScale::Automatic(_) => stored,
    };
    (wanted != stored).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{
        fixtures::{EVERYTHING, desired_with},
        inputs::BuildInputs,
    };

    #[test]
    fn a_held_cluster_stops_and_starts_and_an_autoscaler_is_left_alone() {
        let autoscaling = "{minReplicas: 2, maxReplicas: 9, targetCPUUtilizationPercentage: 70}";
        let automatic = desired_with(&format!("agents: {{autoscaling: {autoscaling}}}")).scale;
        for (scale, stored, wanted) in [
            (&AgentScale::Stopped, 3, Some(0)),
            (&AgentScale::Stopped, 0, None),
            (&AgentScale::Fixed(3), 0, Some(3)),
            (&AgentScale::Fixed(3), 3, None),
            (&automatic, 0, Some(2)),
            (&automatic, 7, None),
        ] {
            assert_eq!(replicas_while_held(scale, stored), wanted, "{scale:?} {stored}");
        }
    }

    #[test]
    fn what_a_restarted_agent_meets_is_not_applied() {
        let inputs = BuildInputs {
            preflight: true,
            cert_manager_api: true,
            monitoring_api: true,
            ..BuildInputs::default()
        };
        let children = build::build(&desired_with(EVERYTHING), &inputs);
        let of = |class: HeldChild| -> Vec<String> {
            let children = children
                .iter()
                .filter(|child| HeldChild::classify(child.kind, &child.object) == class);
            children
                .map(|child| format!("{} {}", child.kind, child.name()))
                .collect()
        };
        assert_eq!(
            of(HeldChild::Created),
            [
                "ServiceAccount events-agent",
                "ConfigMap events-agent",
                "Service events-agents"
            ]
        );
        let withheld = of(HeldChild::Withheld);
        assert!(
            withheld.contains(&"NetworkPolicy events-agent".to_owned())
                && withheld.contains(&"Deployment events-agent".to_owned()),
            "{withheld:?}"
        );
        assert!(of(HeldChild::OfListeners).contains(&"ConfigMap events-listeners".to_owned()));
        let applied = of(HeldChild::Applied);
        assert!(
            applied.contains(&"ConfigMap events-dashboard".to_owned()),
            "{applied:?}"
        );
        for child in &children {
            let applies = HeldChild::classify(child.kind, &child.object) == HeldChild::Applied;
            assert_eq!(
                HeldRollout::OtherListeners.keeps(child.kind, &child.object),
                !applies
            );
        }
    }
}
