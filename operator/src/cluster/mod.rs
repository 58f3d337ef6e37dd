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
//! The one exception are agents that could not work: they must not replace those that can. Then
//! `hold` decides what of the children is applied all the same.

pub mod alerts;
mod applied;
mod apply;
pub mod build;
pub mod children;
mod deletion;
mod dereference;
pub mod desired;
#[cfg(test)]
pub(crate) mod fixtures;
mod hold;
mod incarnations;
pub mod inputs;
pub mod labels;
mod listeners;
mod memory;
mod merge;
mod metadata;
mod names;
mod outcome;
mod ownership;
mod paths;
mod pods;
mod preflight;
pub(crate) mod preview;
pub mod problem;
mod purge;
mod replicas;
mod rollout;
mod run;
mod schema_plan;
mod status;
mod unreadable;
pub mod validate;

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{ResourceExt, api::DynamicObject};

pub use self::run::run;
use self::{
    applied::AppliedHashes,
    build::ChildObject,
    children::ManagedKind,
    deletion::DeletionProgress,
    dereference::ResolvedReferences,
    desired::DesiredCluster,
    hold::HeldRollout,
    listeners::SlotPools,
    memory::{ClusterMemory, ReconcileResult},
    metadata::{OpenStores, StoreRequest},
    outcome::{NextReconcile, summarize},
    preflight::BucketCheck,
    problem::ClusterProblem,
    rollout::{ObservedAgents, RolloutState},
    status::ReconcileFindings,
};
use crate::{
    apis::OptionalApi,
    context::OperatorContext,
    crd::{ConditionReason, ConditionType, MAX_SCHEMA_VERSION_ANNOTATION, StreamHouseCluster},
    events::EventPublisher,
    metadata_stores::ClusterKey,
    metrics::ReconcileOutcome,
};

/// Interval of the checks while a change is pending that no watch reports.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Number of drift intervals after which children that are no longer desired are searched for.
/// Besides, they are searched for whenever other children are desired.
const SEARCH_EVERY: u32 = 10;

/// Reconciles clusters; one per process.
#[derive(Debug)]
pub(crate) struct ClusterReconciler {
    context: OperatorContext,
    events: EventPublisher,
    opened: OpenStores,
    slot_pools: SlotPools,
    applied: AppliedHashes,
    memory: ClusterMemory,
}

/// What to do after a reconciliation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReconcileAction {
    /// The outcome, for the metrics.
    pub(crate) outcome: ReconcileOutcome,
    /// When to reconcile again without a change; `None` if the resource no longer exists.
    pub(crate) after: Option<Duration>,
}

impl ClusterReconciler {
    pub(crate) fn new(context: OperatorContext) -> Self {
        let events = EventPublisher::new(context.client.clone(), context.instance.clone());
        Self {
            context,
            events,
            opened: OpenStores::default(),
            slot_pools: SlotPools::default(),
            applied: AppliedHashes::default(),
            memory: ClusterMemory::default(),
        }
    }

    /// Drops the state of a cluster that no longer exists.
    pub(crate) fn remove(&self, key: &ClusterKey) {
        self.opened.remove(key);
        self.slot_pools.remove(key);
        self.applied.remove(key);
        self.memory.remove(key);
        self.context.stores.remove(key);
    }

    /// Returns the number of clusters whose last reconciliation failed.
    pub(crate) fn failing(&self) -> i64 {
        i64::try_from(self.memory.failing()).unwrap_or(i64::MAX)
    }

    /// Reconciles the cluster once.
    pub(crate) async fn reconcile(&self, cluster: &StreamHouseCluster) -> ReconcileAction {
        let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
        let mut findings = ReconcileFindings {
            paused: cluster.spec.paused,
            stopped: cluster.spec.stopped,
            failures: self.memory.failures(&key),
            settled_agents: self.memory.settled_agents(&key),
            ..ReconcileFindings::default()
        };
        let worked = self.run_steps(cluster, &key, &mut findings).await;
        if matches!(&worked, Ok(NextReconcile::Gone)) {
            self.remove(&key);
            return ReconcileAction {
                outcome: ReconcileOutcome::Ok,
                after: None,
            };
        }
        if let Err(error) = &worked {
            tracing::warn!(cluster = %key, %error, "cannot reconcile the cluster; retrying");
            findings.aborted = Some(format!(
                "the API server rejected a request or did not answer: {error}; retrying"
            ));
        }
        self.observe_leaders(&key, &mut findings);
        let now = Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap_or_default();
        let status = status::compute_status(cluster, &findings, now);
        let written = status::write_status(&self.context, cluster, status).await;
        if let Err(error) = &written {
            tracing::warn!(cluster = %key, %error, "cannot write the status of the cluster; retrying");
        }
        let result = summarize(worked.and_then(|next| written.map(|()| next)).ok(), &findings);
        self.schedule(&key, &result)
    }

    fn schedule(&self, key: &ClusterKey, result: &ReconcileResult) -> ReconcileAction {
        let context = &self.context;
        let after = self
            .memory
            .next_delay(key, result, context.drift_interval, &*context.entropy);
        ReconcileAction {
            outcome: result.outcome,
            after: Some(after),
        }
    }

    /// Records how long partitions have had no leader, and how many agents are complete.
    fn observe_leaders(&self, key: &ClusterKey, findings: &mut ReconcileFindings) {
        if let Some(reached) = &findings.metadata {
            let leaderless = reached.leadership.leaderless > 0;
            let now_ms = self.context.clock.now_ms();
            findings.leaderless_for = self.memory.leaderless_for(key, leaderless, now_ms);
        }
        if let Some(rollout) = findings.agents.rollout().filter(|rollout| rollout.is_complete()) {
            self.memory.set_settled_agents(key, rollout.wanted);
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
                DeletionProgress::Pending(problems, after) => {
                    findings.problems.extend(problems);
                    self.observe_agents(key, findings).await?;
                    Ok(NextReconcile::Poll(after))
                }
            };
        }
        findings.max_unavailable = valid
            .as_ref()
            .ok()
            .and_then(|desired| desired.max_unavailable.clone());
        let desired = match valid {
            Ok(desired) if !findings.paused => desired,
            valid => {
                findings.problems.extend(valid.err());
                if !findings.paused {
                    listeners::renew_slots(context, key).await?;
                }
                self.observe_agents(key, findings).await?;
                return Ok(NextReconcile::Settled);
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
        // Without an answer the last decision holds: a database that is away for a moment must not
        // let a version be rolled out that was refused.
        findings.hold_agents = if reached.state.is_some() || reached.hold_agents {
            self.memory.set_held(key, reached.hold_agents);
            reached.hold_agents
        } else {
            self.memory
                .is_held(key)
                .unwrap_or_else(|| metadata::was_held(status))
        };
        findings.problems.extend(reached.problems);
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
        findings.monitoring = Some(desired.has_monitoring());
        findings
            .problems
            .extend(desired.refused_monitoring.iter().cloned());
        findings.problems.extend(missing_apis(context, desired));
        let held = if findings.hold_agents || read.hold_rollout {
            Some(hold::hold_rollout(context, key, desired, &mut children).await?)
        } else {
            None
        };
        if !held.is_some_and(HeldRollout::protects_agents) {
            findings.bootstrap = Some(desired.bootstrap_address());
        }
        let applied = apply::apply_children(context, key, &children, Some(&self.applied)).await?;
        // That of the agents only if their Deployment has it.
        findings.version = applied.deployment.as_ref().map(|_| desired.version.clone());
        for drift in &applied.drift {
            let message = format!("{drift} was changed or deleted outside of the operator and was restored");
            self.events
                .publish_warning(cluster, ConditionReason::DriftCorrected, message)
                .await;
        }
        let (of_listeners, problems) = listeners::separate(applied.problems);
        findings.problems.extend(problems);
        if held.is_none_or(HeldRollout::has_spec_listeners) {
            findings.listeners = Some(listeners::report(desired, &read.inputs, of_listeners));
            if let Some(hash) = build::listeners_hash(desired, &read.inputs) {
                listeners::announce_addresses(context, key, &read.inputs.listeners, &hash).await?;
            }
        } else {
            listeners::renew_slots(context, key).await?;
        }
        self.delete_unwanted(cluster, key, &children, held).await?;
        self.applied.retain(key, &children);
        if !deletion::needs_finalizer(cluster, uses_other_namespaces(cluster, key)) {
            deletion::set_finalizer(context, cluster, false).await?;
        }
        if held.is_none() {
            let check = preflight::read_bucket_check(context, key, applied.preflight.as_ref()).await?;
            findings.bucket = Some(check);
        }
        match &applied.deployment {
            Some(deployment) => self.inspect_rollout(key, deployment, findings).await?,
            None => self.observe_agents(key, findings).await?,
        }
        Ok(next_reconcile(findings))
    }

    /// Deletes the children that are no longer desired, when they have changed and now and then.
    async fn delete_unwanted(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        children: &[ChildObject],
        held: Option<HeldRollout>,
    ) -> kube::Result<()> {
        let context = &self.context;
        let names = children
            .iter()
            .map(|child| format!("{} {}/{}", child.kind, child.namespace(), child.name()));
        let wanted: BTreeSet<String> = names.chain(held.map(|held| format!("{held:?}"))).collect();
        let (interval, now_ms) = (context.drift_interval * SEARCH_EVERY, context.clock.now_ms());
        if self.memory.search_due(key, &wanted, interval, now_ms) {
            let uid = cluster.uid().unwrap_or_default();
            let kept = |kind, object: &DynamicObject| held.is_some_and(|held| held.keeps(kind, object));
            apply::delete_unwanted_children(context, key, &uid, children, kept).await?;
            self.memory.record_search(key, wanted, now_ms);
        }
        Ok(())
    }

    /// Reads the state of the agents without changing anything.
    async fn observe_agents(&self, key: &ClusterKey, findings: &mut ReconcileFindings) -> kube::Result<()> {
        let deployments = apply::api_for(&self.context, ManagedKind::Deployment, &key.namespace);
        let name = format!("{}-agent", key.name);
        let found = deployments.get_opt(&name).await?;
        match found.filter(|deployment| apply::is_managed_for(deployment, key)) {
            Some(deployment) => self.inspect_rollout(key, &deployment, findings).await,
            None => {
                findings.agents = ObservedAgents::Absent;
                Ok(())
            }
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
        findings.agents = ObservedAgents::Present(Box::new(deployment));
        Ok(())
    }
}

/// Returns whether something is under way after the children were applied.
fn next_reconcile(findings: &ReconcileFindings) -> NextReconcile {
    let settled = findings.agents.rollout().is_some_and(RolloutState::is_complete);
    let checked = matches!(findings.bucket, Some(BucketCheck::Verified));
    let metadata = findings.metadata.as_ref();
    let led = metadata.is_none_or(|reached| reached.leadership.leaderless == 0);
    let migrates_later = metadata.is_some_and(|state| state.waiting.is_some());
    let listeners = findings.listeners.as_ref();
    let bound = listeners.is_none_or(|report| !report.waits_for_slot);
    let calm = settled && checked && bound && !migrates_later;
    if calm && (led || findings.stopped) {
        NextReconcile::Settled
    } else {
        NextReconcile::Poll(POLL_INTERVAL)
    }
}

/// Returns the other namespaces in which the spec places objects, where owner references do not
/// reach.
fn other_namespaces<'a>(
    cluster: &'a StreamHouseCluster,
    key: &'a ClusterKey,
) -> impl Iterator<Item = &'a String> {
    let monitoring = &cluster.spec.monitoring;
    [
        &monitoring.service_monitor.namespace,
        &monitoring.prometheus_rule.namespace,
        &monitoring.dashboards.namespace,
    ]
    .into_iter()
    .flatten()
    .filter(|namespace| **namespace != key.namespace)
}

/// Returns whether the spec places objects in another namespace.
fn uses_other_namespaces(cluster: &StreamHouseCluster, key: &ClusterKey) -> bool {
    other_namespaces(cluster, key).next().is_some()
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
                condition: ConditionType::Progressing,
                reason: ConditionReason::CertManagerMissing,
                message: "cert-manager.io/v1 is not served: install cert-manager or set a Secret in \
                    spec.listeners"
                    .to_owned(),
            },
        })
        .collect()
}
