//! The reconciliation of a `StreamHouseCluster`: a sequence of steps, one per file of this
//! directory.
//!
//! 1. [`validate`]: validates the spec and derives the [`desired`] state, without side effects;
//! 2. `dereference`: reads the referenced Secrets;
//! 3. `listeners`: gives the agents slots and finds the addresses of the additional listeners;
//! 4. `metadata`: connects to PostgreSQL and migrates its schema as far as the agents allow, which
//!    `schema_plan` decides;
//! 5. [`build`]: renders the children, without side effects;
//! 6. `apply_children`: applies the children and deletes those that are no longer desired;
//! 7. `status`: writes the status, also after a failed step.
//!
//! A valid spec is applied regardless of the health of the agents, so that a fix is never blocked.
//! The one exception are agents that cannot work with the schema: they must not replace those that
//! can.

pub mod alerts;
mod apply;
pub mod build;
pub mod children;
mod deletion;
mod dereference;
pub mod desired;
#[cfg(test)]
pub(crate) mod fixtures;
mod incarnations;
pub mod inputs;
pub mod labels;
mod listeners;
mod merge;
mod metadata;
mod names;
mod paths;
mod pods;
mod preflight;
pub(crate) mod preview;
pub mod problem;
mod replicas;
mod run;
mod schema_plan;
mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{ResourceExt, api::DynamicObject, runtime::controller::Action};

pub use self::run::run;
use self::{
    children::ManagedKind,
    deletion::DeletionProgress,
    dereference::ResolvedReferences,
    desired::DesiredCluster,
    listeners::SlotPools,
    metadata::{OpenStores, StoreRequest},
    problem::ClusterProblem,
    status::{ReconcileFindings, RolloutState},
};
use crate::{
    apis::OptionalApi,
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, MAX_SCHEMA_VERSION_ANNOTATION, StreamHouseCluster},
    events::EventPublisher,
    metadata_stores::ClusterKey,
};

/// Interval of the checks while a change is pending that no watch reports.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Reconciles clusters; one per process.
#[derive(Debug)]
pub(crate) struct ClusterReconciler {
    context: OperatorContext,
    events: EventPublisher,
    opened: OpenStores,
    slot_pools: SlotPools,
}

impl ClusterReconciler {
    pub(crate) fn new(context: OperatorContext) -> Self {
        let events = EventPublisher::new(context.client.clone(), context.instance.clone());
        Self {
            context,
            events,
            opened: OpenStores::default(),
            slot_pools: SlotPools::default(),
        }
    }

    /// Drops the state of a cluster that no longer exists.
    pub(crate) fn remove(&self, key: &ClusterKey) {
        self.opened.remove(key);
        self.slot_pools.remove(key);
        self.context.stores.remove(key);
    }

    /// Reconciles the cluster once and returns when to do so again.
    pub(crate) async fn reconcile(&self, cluster: Arc<StreamHouseCluster>) -> kube::Result<Action> {
        let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
        let mut findings = ReconcileFindings {
            paused: cluster.spec.paused,
            stopped: cluster.spec.stopped,
            ..ReconcileFindings::default()
        };
        let worked = self.run_steps(&cluster, &key, &mut findings).await;
        if let Err(error) = &worked {
            findings.problems.push(ClusterProblem {
                condition: ConditionType::Progressing,
                reason: ConditionReason::InternalError,
                message: format!("the API server rejected a request or did not answer: {error}; retrying"),
            });
        }
        let gone = matches!(&worked, Ok(NextReconcile::Gone));
        if !gone {
            let now = Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap_or_default();
            status::write_status(
                &self.context,
                &cluster,
                status::compute_status(&cluster, &findings, now),
            )
            .await?;
        }
        match worked? {
            NextReconcile::Gone => {
                self.remove(&key);
                Ok(Action::await_change())
            }
            NextReconcile::Requeue(after) => Ok(Action::requeue(after)),
        }
    }

    async fn run_steps(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        findings: &mut ReconcileFindings,
    ) -> kube::Result<NextReconcile> {
        let context = &self.context;
        findings.selector = labels::agent_selector_text(&key.name);
        let valid = validate::validate(cluster, &context.defaults);
        if cluster.metadata.deletion_timestamp.is_some() {
            return match deletion::advance_deletion(context, &self.events, cluster, key, valid.as_ref().ok())
                .await?
            {
                DeletionProgress::Done => Ok(NextReconcile::Gone),
                DeletionProgress::Pending(what, after) => {
                    findings.problems.push(deletion::pending_problem(&what));
                    Ok(NextReconcile::Requeue(after))
                }
            };
        }
        let desired = match valid {
            Ok(desired) if !findings.paused => desired,
            valid => {
                findings.problems.extend(valid.err());
                if !findings.paused {
                    listeners::renew_slots(context, key).await?;
                }
                self.observe_agents(key, findings).await?;
                return Ok(NextReconcile::Requeue(context.drift_interval));
            }
        };
        if deletion::needs_finalizer(cluster, uses_other_namespaces(cluster, key)) {
            deletion::set_finalizer(context, cluster, true).await?;
        }
        let mut read = dereference::dereference(context, &desired).await?;
        read.inputs.listeners = listeners::observe(context, &desired, Some(&self.slot_pools)).await?;
        findings.problems.extend(read.problems.iter().cloned());
        let release = desired.release.as_deref();
        self.reach_metadata(cluster, key, read.connection.as_ref(), release, findings)
            .await;
        self.apply_children(cluster, key, &desired, &read, findings).await
    }

    /// Opens the metadata store, before any agent is replaced.
    async fn reach_metadata(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        connection: Result<&dereference::MetadataConnection, &ClusterProblem>,
        release: Option<&str>,
        findings: &mut ReconcileFindings,
    ) {
        let status = cluster.status.as_ref();
        let limit = cluster.annotations().get(MAX_SCHEMA_VERSION_ANNOTATION);
        let request = StoreRequest {
            expected: status.and_then(|status| status.cluster_id.as_deref()),
            release,
            limit: schema_plan::parse_limit(limit.map(String::as_str)),
        };
        let reached = self
            .opened
            .open_store(&self.context, key, connection, request)
            .await;
        if let Some(state) = &reached.state
            && let Some(from) = state.migrated_from
        {
            let message = format!("metadata schema {from} -> {}", state.schema_version);
            self.events
                .publish_normal(cluster, ConditionReason::SchemaMigrated, message)
                .await;
        }
        findings.hold_agents = reached.hold_agents;
        findings.problems.extend(reached.problem);
        findings.metadata = reached.state;
    }

    async fn apply_children(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        desired: &DesiredCluster,
        read: &ResolvedReferences,
        findings: &mut ReconcileFindings,
    ) -> kube::Result<NextReconcile> {
        let context = &self.context;
        let mut children = build::build(desired, &read.inputs);
        findings.monitoring = Some(
            desired.service_monitor.is_some() || desired.alerts.is_some() || desired.dashboard.is_some(),
        );
        findings.version = Some(desired.version.clone());
        findings.bootstrap = Some(desired.bootstrap_address());
        findings.problems.extend(missing_apis(context, desired));
        let mut kept = Vec::new();
        if findings.hold_agents || read.hold_rollout {
            // Running agents are kept: none is replaced by one that cannot work.
            kept.extend([ManagedKind::Deployment, ManagedKind::Job]);
            children.retain(|child| !kept.contains(&child.kind));
        }
        let same_spec = cluster
            .status
            .as_ref()
            .and_then(|status| status.observed_generation)
            == cluster.metadata.generation;
        let applied = apply::apply_children(context, key, &children, same_spec).await?;
        for drift in &applied.drift {
            let message = format!("{drift} was changed or deleted outside of the operator and was restored");
            self.events
                .publish_warning(cluster, ConditionReason::DriftCorrected, message)
                .await;
        }
        let (of_listeners, problems) = listeners::separate(applied.problems);
        findings.problems.extend(problems);
        findings.listeners = Some(listeners::report(desired, &read.inputs, of_listeners));
        let uid = cluster.uid().unwrap_or_default();
        apply::delete_unwanted_children(context, key, &uid, &children, &kept).await?;
        if !deletion::needs_finalizer(cluster, uses_other_namespaces(cluster, key)) {
            deletion::set_finalizer(context, cluster, false).await?;
        }
        findings.bucket = Some(preflight::read_bucket_check(context, key, applied.preflight.as_ref()).await?);
        match &applied.deployment {
            Some(deployment) => self.inspect_rollout(key, deployment, findings).await?,
            None => self.observe_agents(key, findings).await?,
        }
        let settled = findings
            .deployment
            .as_ref()
            .map(RolloutState::from_deployment)
            .is_some_and(RolloutState::is_complete);
        let checked = matches!(findings.bucket, Some(preflight::BucketCheck::Verified));
        let bound = findings
            .listeners
            .as_ref()
            .is_none_or(|report| !report.waits_for_slot);
        let retried = findings
            .problems
            .iter()
            .any(|problem| !problem.waits_for_change());
        let waiting = findings
            .metadata
            .as_ref()
            .is_some_and(|state| state.waiting.is_some());
        let calm = settled && checked && bound && !retried && !waiting;
        Ok(NextReconcile::Requeue(if calm {
            context.drift_interval
        } else {
            POLL_INTERVAL.min(context.drift_interval)
        }))
    }

    /// Reads the state of the agents without changing anything.
    async fn observe_agents(&self, key: &ClusterKey, findings: &mut ReconcileFindings) -> kube::Result<()> {
        let deployments = apply::api_for(&self.context, ManagedKind::Deployment, &key.namespace);
        let name = format!("{}-agent", key.name);
        match deployments.get_opt(&name).await? {
            Some(deployment) => self.inspect_rollout(key, &deployment, findings).await,
            None => Ok(()),
        }
    }

    async fn inspect_rollout(
        &self,
        key: &ClusterKey,
        object: &DynamicObject,
        findings: &mut ReconcileFindings,
    ) -> kube::Result<()> {
        let Ok(deployment) = object.clone().try_parse::<Deployment>() else {
            return Ok(());
        };
        let rollout = RolloutState::from_deployment(&deployment);
        if !rollout.is_complete() {
            incarnations::seal_ended_incarnations(
                &self.context,
                key,
                &deployment.name_any(),
                &findings.selector,
            )
            .await?;
        }
        if !rollout.is_complete() && rollout.wanted > 0 {
            findings.pod_problem =
                pods::find_problem(&self.context, &key.namespace, &findings.selector).await?;
        }
        findings.deployment = Some(deployment);
        Ok(())
    }
}

/// When to reconcile again.
enum NextReconcile {
    /// Never: the resource no longer exists.
    Gone,
    /// After this time, or on a change.
    Requeue(Duration),
}

/// Returns whether the spec places objects in another namespace, where owner references do not
/// reach.
fn uses_other_namespaces(cluster: &StreamHouseCluster, key: &ClusterKey) -> bool {
    let monitoring = &cluster.spec.monitoring;
    [
        &monitoring.service_monitor.namespace,
        &monitoring.prometheus_rule.namespace,
        &monitoring.dashboards.namespace,
    ]
    .into_iter()
    .flatten()
    .any(|namespace| *namespace != key.namespace)
}

/// Returns the APIs that the spec requires and that are not installed.
fn missing_apis(context: &OperatorContext, desired: &DesiredCluster) -> Vec<ClusterProblem> {
    let absent = desired
        .optional_apis()
        .into_iter()
        .filter(|api| !context.apis.has(*api));
    absent
        .map(|api| match api {
            OptionalApi::Monitoring => ClusterProblem {
                condition: ConditionType::MonitoringAvailable,
                reason: ConditionReason::MonitoringApiMissing,
                message:
                    "monitoring.coreos.com/v1 is not served: install the Prometheus operator or disable \
                    spec.monitoring.serviceMonitor and spec.monitoring.prometheusRule"
                        .to_owned(),
            },
            // Routes are not among them: their listener reports them.
            OptionalApi::CertManager | OptionalApi::GrpcRoute | OptionalApi::TlsRoute => ClusterProblem {
                condition: ConditionType::Degraded,
                reason: ConditionReason::CertManagerMissing,
                message: "cert-manager.io/v1 is not served: install cert-manager or set a Secret in \
                    spec.listeners"
                    .to_owned(),
            },
        })
        .collect()
}
