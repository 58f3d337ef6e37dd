//! The reconciliation of a `StreamHouseCluster`: a sequence of steps, one per file of this
//! directory.
//!
//! 1. [`validate`]: validates the spec and derives the [`desired`] state, without side effects;
//! 2. `dereference`: reads the referenced Secrets;
//! 3. `metadata`: connects to PostgreSQL and migrates its schema to the version that the agents
//!    require;
//! 4. [`build`]: renders the children, without side effects;
//! 5. `apply`: applies the children and deletes those that are no longer desired;
//! 6. `status`: writes the status, also after a failed step.
//!
//! A valid spec is applied regardless of the health of the agents, so that a fix is never blocked.
//! The one exception is a schema that is too new: agents that cannot work with it must not replace
//! those that can.

pub mod alerts;
mod apply;
pub mod build;
pub mod children;
mod deletion;
mod dereference;
pub mod desired;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod inputs;
pub mod labels;
mod lives;
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
mod status;
pub mod validate;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::{ResourceExt, api::DynamicObject, runtime::controller::Action};

pub use self::run::run;
use self::{
    children::ManagedKind,
    deletion::Deletion,
    dereference::Dereferenced,
    desired::Desired,
    metadata::Opened,
    problem::Problem,
    status::{Findings, Rollout},
};
use crate::{
    apis::OptionalApi,
    context::Context,
    crd::{ConditionType, Reason, StreamHouseCluster},
    events::Events,
    stores::ClusterKey,
};

/// Interval of the checks while a change is pending that no watch reports.
const SOON: Duration = Duration::from_secs(5);

/// Reconciles clusters; one per process.
#[derive(Debug)]
pub(crate) struct Reconciler {
    context: Context,
    events: Events,
    opened: Opened,
}

impl Reconciler {
    pub(crate) fn new(context: Context) -> Self {
        let events = Events::new(context.client.clone(), context.instance.clone());
        Self {
            context,
            events,
            opened: Opened::default(),
        }
    }

    /// Drops the state of a cluster that no longer exists.
    pub(crate) fn forget(&self, key: &ClusterKey) {
        self.opened.forget(key);
        self.context.stores.forget(key);
    }

    /// Reconciles the cluster once and returns when to do so again.
    pub(crate) async fn reconcile(&self, cluster: Arc<StreamHouseCluster>) -> kube::Result<Action> {
        let key = ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any());
        let mut findings = Findings {
            paused: cluster.spec.paused,
            stopped: cluster.spec.stopped,
            ..Findings::default()
        };
        let worked = self.work(&cluster, &key, &mut findings).await;
        if let Err(error) = &worked {
            findings.problems.push(Problem {
                condition: ConditionType::Progressing,
                reason: Reason::InternalError,
                message: format!("the API server rejected a request or did not answer: {error}; retrying"),
            });
        }
        let gone = matches!(&worked, Ok(Step::Gone));
        if !gone {
            let now = Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap_or_default();
            status::write(&self.context, &cluster, status::compute(&cluster, &findings, now)).await?;
        }
        match worked? {
            Step::Gone => {
                self.forget(&key);
                Ok(Action::await_change())
            }
            Step::Again(after) => Ok(Action::requeue(after)),
        }
    }

    async fn work(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        findings: &mut Findings,
    ) -> kube::Result<Step> {
        let context = &self.context;
        findings.selector = labels::selector_text(&key.name);
        let valid = validate::validate(cluster, &context.defaults);
        if cluster.metadata.deletion_timestamp.is_some() {
            return match deletion::step(context, &self.events, cluster, key, valid.as_ref().ok()).await? {
                Deletion::Done => Ok(Step::Gone),
                Deletion::Pending(what, after) => {
                    findings.problems.push(deletion::pending(&what));
                    Ok(Step::Again(after))
                }
            };
        }
        let desired = match valid {
            Ok(desired) if !findings.paused => desired,
            valid => {
                findings.problems.extend(valid.err());
                self.observe(key, findings).await?;
                return Ok(Step::Again(context.drift_interval));
            }
        };
        if deletion::needs_finalizer(cluster, lives_elsewhere(cluster, key)) {
            deletion::set_finalizer(context, cluster, true).await?;
        }
        let read = dereference::dereference(context, &desired).await?;
        findings.problems.extend(read.problems.iter().cloned());
        self.reach(cluster, key, read.connection.as_ref(), findings).await;
        self.children(cluster, key, &desired, &read, findings).await
    }

    /// Opens the metadata store, before any agent is replaced.
    async fn reach(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        connection: Result<&dereference::Connection, &Problem>,
        findings: &mut Findings,
    ) {
        let status = cluster.status.as_ref();
        let expected = status.and_then(|status| status.cluster_id.as_deref());
        match self.opened.reach(&self.context, key, connection, expected).await {
            Ok(reached) => {
                if let Some(from) = reached.migrated_from {
                    let message = format!("metadata schema {from} -> {}", reached.schema_version);
                    self.events.normal(cluster, Reason::SchemaMigrated, message).await;
                }
                findings.metadata = Some(reached);
            }
            Err(problem) => findings.problems.push(problem),
        }
    }

    async fn children(
        &self,
        cluster: &StreamHouseCluster,
        key: &ClusterKey,
        desired: &Desired,
        read: &Dereferenced,
        findings: &mut Findings,
    ) -> kube::Result<Step> {
        let context = &self.context;
        let mut children = build::build(desired, &read.inputs);
        findings.monitoring = Some(
            desired.service_monitor.is_some() || desired.alerts.is_some() || desired.dashboard.is_some(),
        );
        findings.version = Some(desired.version.clone());
        findings.bootstrap = Some(desired.bootstrap());
        findings.problems.extend(absent_apis(context, desired));
        let unfit = findings
            .problems
            .iter()
            .any(|problem| matches!(problem.reason, Reason::SchemaTooNew | Reason::OtherCluster));
        let mut kept = Vec::new();
        if unfit || read.hold {
            // Running agents are kept: none is replaced by one that cannot work.
            kept.extend([ManagedKind::Deployment, ManagedKind::Job]);
            children.retain(|child| !kept.contains(&child.kind));
        }
        let same_spec = cluster
            .status
            .as_ref()
            .and_then(|status| status.observed_generation)
            == cluster.metadata.generation;
        let applied = apply::apply(context, key, &children, same_spec).await?;
        for drift in &applied.drift {
            let message = format!("{drift} was changed or deleted outside of the operator and was restored");
            self.events
                .warning(cluster, Reason::DriftCorrected, message)
                .await;
        }
        findings.problems.extend(applied.problems);
        let uid = cluster.uid().unwrap_or_default();
        apply::remove_orphans(context, key, &uid, &children, &kept).await?;
        if !deletion::needs_finalizer(cluster, lives_elsewhere(cluster, key)) {
            deletion::set_finalizer(context, cluster, false).await?;
        }
        findings.bucket = Some(preflight::bucket(context, key, applied.preflight.as_ref()).await?);
        match &applied.deployment {
            Some(deployment) => self.look_at(key, deployment, findings).await?,
            None => self.observe(key, findings).await?,
        }
        let settled = findings
            .deployment
            .as_ref()
            .map(Rollout::of)
            .is_some_and(Rollout::settled);
        let checked = matches!(findings.bucket, Some(preflight::Bucket::Verified));
        let calm = settled && checked && findings.problems.is_empty();
        Ok(Step::Again(if calm {
            context.drift_interval
        } else {
            SOON.min(context.drift_interval)
        }))
    }

    /// Reads the state of the agents without changing anything.
    async fn observe(&self, key: &ClusterKey, findings: &mut Findings) -> kube::Result<()> {
        let deployments = apply::api(&self.context, ManagedKind::Deployment, &key.namespace);
        let name = format!("{}-agent", key.name);
        match deployments.get_opt(&name).await? {
            Some(deployment) => self.look_at(key, &deployment, findings).await,
            None => Ok(()),
        }
    }

    async fn look_at(
        &self,
        key: &ClusterKey,
        object: &DynamicObject,
        findings: &mut Findings,
    ) -> kube::Result<()> {
        let Ok(deployment) = object.clone().try_parse::<Deployment>() else {
            return Ok(());
        };
        let rollout = Rollout::of(&deployment);
        if !rollout.settled() {
            lives::end(&self.context, key, &deployment.name_any(), &findings.selector).await?;
        }
        if !rollout.settled() && rollout.wanted > 0 {
            findings.trouble = pods::trouble(&self.context, &key.namespace, &findings.selector).await?;
        }
        findings.deployment = Some(deployment);
        Ok(())
    }
}

/// When to reconcile again.
enum Step {
    /// Never: the resource no longer exists.
    Gone,
    /// After this time, or on a change.
    Again(Duration),
}

/// Returns whether the spec places objects in another namespace, where owner references do not
/// reach.
fn lives_elsewhere(cluster: &StreamHouseCluster, key: &ClusterKey) -> bool {
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
fn absent_apis(context: &Context, desired: &Desired) -> Vec<Problem> {
    let absent = desired
        .optional_apis()
        .into_iter()
        .filter(|api| !context.apis.has(*api));
    absent
        .map(|api| match api {
            OptionalApi::Monitoring => Problem {
                condition: ConditionType::MonitoringAvailable,
                reason: Reason::MonitoringApiMissing,
                message:
                    "monitoring.coreos.com/v1 is not served: install the Prometheus operator or disable \
                    spec.monitoring.serviceMonitor and spec.monitoring.prometheusRule"
                        .to_owned(),
            },
            OptionalApi::CertManager => Problem {
                condition: ConditionType::Degraded,
                reason: Reason::CertManagerMissing,
                message: "cert-manager.io/v1 is not served: install cert-manager or set a Secret in \
                    spec.listeners"
                    .to_owned(),
            },
        })
        .collect()
}
