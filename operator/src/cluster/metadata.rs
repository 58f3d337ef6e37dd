//! Opens a cluster's metadata store and migrates its schema as far as its agents allow. Called by
//! the reconciliation before it applies anything, so that agents never roll to a version whose
//! schema is missing. Publishes the open store for the Topics.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use streamhouse_metadata::{
    ClusterSnapshot, ConnectOptions, Error, MetadataStore, MigrationOutcome, MigrationRequest, SchemaState,
    StoreOverview,
};

use super::{
    dereference::MetadataConnection,
    problem::ClusterProblem,
    schema_plan::{SchemaFacts, SchemaPlan, SchemaRefusal, check_release, plan_schema},
};
use crate::{
    conditions::find_condition,
    context::OperatorContext,
    crd::{CONFIRM_DELETION_ANNOTATION, ClusterStatus, ConditionReason, ConditionType},
    metadata_stores::{ClusterKey, StoreAccess},
};

/// The stores that this process has opened, by cluster, with their connection parameters.
#[derive(Debug, Default)]
pub(super) struct OpenStores(Mutex<HashMap<ClusterKey, OpenStore>>);

#[derive(Debug, Clone)]
struct OpenStore {
    fingerprint: String,
    store: Arc<dyn MetadataStore>,
    cluster_id: String,
    /// Version of the last snapshot.
    version: u64,
    leadership: PartitionLeadership,
}

/// Partitions by whether they have a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct PartitionLeadership {
    /// Number of partitions.
    pub(super) partitions: usize,
    /// Number of partitions without a leader.
    pub(super) leaderless: usize,
}

impl PartitionLeadership {
    fn of(snapshot: &ClusterSnapshot) -> Self {
        let partitions = || snapshot.topics.iter().flat_map(|topic| &topic.partitions);
        Self {
            partitions: partitions().count(),
            leaderless: partitions()
                .filter(|partition| partition.holder.is_none())
                .count(),
        }
    }
}

/// What the resource says about its metadata store.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreRequest<'a> {
    /// Cluster id in the status; a resource without one accepts any.
    pub(super) expected: Option<&'a str>,
    /// Release of the agents; `None` if it is not known.
    pub(super) release: Option<&'a str>,
    /// The schema version beyond which the user does not want to migrate yet.
    pub(super) limit: Option<i64>,
}

/// State of a metadata store that can be used.
#[derive(Debug)]
pub(super) struct MetadataState {
    /// Version of the schema.
    pub(super) schema_version: i64,
    /// Version of the schema before this call has migrated it.
    pub(super) migrated_from: Option<i64>,
    /// What a later migration waits for.
    pub(super) waiting: Option<String>,
    /// Cluster id in the metadata.
    pub(super) cluster_id: String,
    /// The partitions and their leaders.
    pub(super) leadership: PartitionLeadership,
}

/// What was reached.
#[derive(Debug, Default)]
pub(super) struct ReachedMetadata {
    /// State of the store, if it can be used.
    pub(super) state: Option<MetadataState>,
    /// What is wrong, also with a store that can be used.
    pub(super) problems: Vec<ClusterProblem>,
    /// Whether agents must not be replaced.
    pub(super) hold_agents: bool,
}

impl From<ClusterProblem> for ReachedMetadata {
    fn from(problem: ClusterProblem) -> Self {
        Self {
            state: None,
            hold_agents: matches!(
                problem.reason,
                ConditionReason::SchemaTooNew | ConditionReason::ClusterIdMismatch
            ),
            problems: vec![problem],
        }
    }
}

impl ReachedMetadata {
    /// Adds a refusal of the release, unless it is known already.
    fn add_refusal(&mut self, refusal: SchemaRefusal) {
        self.hold_agents |= refusal.hold_agents;
        if self
            .problems
            .iter()
            .any(|problem| problem.reason == refusal.reason)
        {
            return;
        }
        let problem = ClusterProblem {
            condition: ConditionType::Degraded,
            reason: refusal.reason,
            message: refusal.message,
        };
        self.problems.insert(0, problem);
    }
}

/// Returns whether a status says that agents must not be replaced, for an operator that has just
/// started and cannot reach the database.
pub(super) fn was_held(status: Option<&ClusterStatus>) -> bool {
    const HELD: [ConditionReason; 5] = [
        ConditionReason::VersionTooNew,
        ConditionReason::VersionNotSupported,
        ConditionReason::SchemaMigrationBlocked,
        ConditionReason::SchemaTooNew,
        ConditionReason::ClusterIdMismatch,
    ];
    let conditions = status.map_or(&[][..], |status| &status.conditions);
    find_condition(conditions, ConditionType::Stalled)
        .is_some_and(|stalled| HELD.iter().any(|reason| reason.as_str() == stalled.reason))
}

impl OpenStores {
    /// Opens the store, migrates its schema if the agents allow it, and publishes the result. A
    /// release that this operator cannot run is refused also without a store.
    ///
    /// A store of a cluster other than the expected one is rejected before anything in it is
    /// changed. One whose schema fits is opened even if the agents of the spec do not.
    pub(super) async fn open_store(
        &self,
        context: &OperatorContext,
        key: &ClusterKey,
        connection: Result<&MetadataConnection, &ClusterProblem>,
        request: StoreRequest<'_>,
    ) -> ReachedMetadata {
        let opened = match connection {
            Ok(connection) => self.prepare(context, key, connection, request).await,
            Err(problem) => Err(problem.clone().into()),
        };
        match opened {
            Ok((store, reached)) => {
                context.stores.publish(key, StoreAccess::Open(store));
                reached
            }
            Err(mut reached) => {
                let why = reached.problems.first().map(|problem| problem.message.clone());
                context
                    .stores
                    .publish(key, StoreAccess::Closed(why.unwrap_or_default()));
                let (operator, window) = (&context.defaults.version, ConnectOptions::default().schema);
                if let Err(refusal) = check_release(operator, window, request.release) {
                    reached.add_refusal(refusal);
                }
                reached
            }
        }
    }

    async fn prepare(
        &self,
        context: &OperatorContext,
        key: &ClusterKey,
        connection: &MetadataConnection,
        request: StoreRequest<'_>,
    ) -> Result<(Arc<dyn MetadataStore>, ReachedMetadata), ReachedMetadata> {
        let (url, options) = (&connection.url, &connection.options);
        let unusable = |error: Error| ReachedMetadata::from(metadata_problem(&error));
        let overview = streamhouse_metadata::overview(url, options)
            .await
            .map_err(unusable)?;
        check_cluster_id(&overview, request.expected)?;
        let SchemaState { found, window } = overview.schema;
        let plan = plan_schema(&SchemaFacts {
            found,
            window,
            operator: &context.defaults.version,
            release: request.release,
            limit: request.limit,
            live_agents: &overview.live_agents,
        });
        let (mut state, mut reached) = (
            MetadataState {
                schema_version: found,
                migrated_from: None,
                waiting: None,
                cluster_id: String::new(),
                leadership: PartitionLeadership::default(),
            },
            ReachedMetadata::default(),
        );
        match plan {
            SchemaPlan::UpToDate => {}
            SchemaPlan::Migrate(to) => {
                let migration = MigrationRequest {
                    to: Some(to),
                    ignore_agents: false,
                };
                let migrated = streamhouse_metadata::migrate_to(url, options, &migration).await;
                let MigrationOutcome { from, to } = migrated.map_err(unusable)?;
                state.schema_version = to;
                state.migrated_from = (from < to).then_some(from);
            }
            SchemaPlan::Wait(what) => state.waiting = Some(what),
            SchemaPlan::Refused(refusal) => {
                reached.hold_agents = refusal.hold_agents;
                reached.problems.push(ClusterProblem {
                    // Without a schema there is nothing that could serve.
                    condition: if found == 0 {
                        ConditionType::MetadataReachable
                    } else {
                        ConditionType::Degraded
                    },
                    reason: refusal.reason,
                    message: refusal.message,
                });
                if !overview.schema.is_supported() {
                    // Nobody has migrated it, so neither topics nor agents can be served.
                    return Err(reached);
                }
            }
        }
        let open = self.connect(key, connection).await.map_err(unusable)?;
        state.cluster_id = open.cluster_id;
        state.leadership = open.leadership;
        reached.state = Some(state);
        Ok((open.store, reached))
    }

    /// Opens the store, or returns the open one, and checks that it answers.
    async fn connect(&self, key: &ClusterKey, connection: &MetadataConnection) -> Result<OpenStore, Error> {
        let fingerprint = &connection.fingerprint;
        let known = self
            .0
            .lock()
            .get(key)
            .filter(|known| known.fingerprint == *fingerprint)
            .cloned();
        let (store, version) = match &known {
            Some(known) => (known.store.clone(), Some(known.version)),
            None => (
                streamhouse_metadata::connect(&connection.url, &connection.options).await?,
                None,
            ),
        };
        let snapshot = store.snapshot(version).await?;
        let open = match (snapshot, known) {
            (None, Some(known)) => known,
            (snapshot, _) => {
                let snapshot = snapshot.unwrap_or_default();
                OpenStore {
                    fingerprint: fingerprint.clone(),
                    store,
                    leadership: PartitionLeadership::of(&snapshot),
                    cluster_id: snapshot.cluster_id,
                    version: snapshot.version,
                }
            }
        };
        self.0.lock().insert(key.clone(), open.clone());
        Ok(open)
    }

    /// Drops the store of a cluster that no longer exists.
    pub(super) fn remove(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }
}

/// Rejects a database of a cluster other than `expected`.
fn check_cluster_id(overview: &StoreOverview, expected: Option<&str>) -> Result<(), ClusterProblem> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let found = match &overview.cluster_id {
        Some(found) if found == expected => return Ok(()),
        Some(found) => format!("belongs to cluster {found}"),
        None => "is empty".to_owned(),
    };
    Err(ClusterProblem {
        condition: ConditionType::MetadataReachable,
        reason: ConditionReason::ClusterIdMismatch,
        message: format!(
            "the database {found}, but status.clusterId of this resource is {expected}: correct the connection \
             string in spec.postgresql or restore the metadata of {expected}; create a new resource for a new cluster"
        ),
    })
}

/// Checks that the database is that of the cluster with this id, before its data is deleted. An
/// empty one has no data.
///
/// # Errors
///
/// Returns what is wrong, also if the database does not answer.
pub(super) async fn check_purge(
    connection: Result<&MetadataConnection, &ClusterProblem>,
    expected: Option<&str>,
) -> Result<(), ClusterProblem> {
    let connection = connection.map_err(Clone::clone)?;
    let overview = streamhouse_metadata::overview(&connection.url, &connection.options).await;
    let overview = overview.map_err(|error| metadata_problem(&error))?;
    match &overview.cluster_id {
        Some(found) if expected != Some(found) => Err(foreign_purge(found, expected)),
        _ => Ok(()),
    }
}

fn foreign_purge(found: &str, expected: Option<&str>) -> ClusterProblem {
    let own = match expected {
        Some(expected) => format!("status.clusterId of this resource is {expected}"),
        None => "this resource has never used it (it has no status.clusterId)".to_owned(),
    };
    ClusterProblem {
        condition: ConditionType::MetadataReachable,
        reason: ConditionReason::ClusterIdMismatch,
        message: format!(
            "nothing is deleted: the database belongs to cluster {found}, but {own}: correct the connection string in \
             spec.postgresql, or remove the annotation {CONFIRM_DELETION_ANNOTATION} to delete the resource only"
        ),
    }
}

fn metadata_problem(error: &Error) -> ClusterProblem {
    let reason = match error {
        Error::SchemaMismatch(_) => ConditionReason::SchemaTooNew,
        // An agent has registered since the decision.
        Error::MigrationBlocked(_) => ConditionReason::SchemaMigrationBlocked,
        _ => ConditionReason::MetadataUnreachable,
    };
    ClusterProblem {
        condition: ConditionType::MetadataReachable,
        reason,
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_purge_names_the_clusters_and_both_ways_out() {
        for (expected, own) in [
            (Some("a1"), "status.clusterId of this resource is a1"),
            (None, "has never used it"),
        ] {
            let problem = foreign_purge("b2", expected);
            assert_eq!(problem.reason, ConditionReason::ClusterIdMismatch);
            for part in [
                own,
                "belongs to cluster b2",
                "spec.postgresql",
                CONFIRM_DELETION_ANNOTATION,
            ] {
                assert!(problem.message.contains(part), "{problem}");
            }
        }
    }

    #[test]
    fn a_refused_release_is_told_once_and_before_an_unreachable_database() {
        let refusal = || SchemaRefusal {
            reason: ConditionReason::VersionTooNew,
            message: "upgrade the operator".to_owned(),
            hold_agents: true,
        };
        let mut reached = ReachedMetadata::from(ClusterProblem {
            condition: ConditionType::MetadataReachable,
            reason: ConditionReason::MetadataUnreachable,
            message: "refused".to_owned(),
        });
        assert!(!reached.hold_agents);
        reached.add_refusal(refusal());
        reached.add_refusal(refusal());
        let reasons: Vec<_> = reached.problems.iter().map(|problem| problem.reason).collect();
        assert_eq!(
            reasons,
            [
                ConditionReason::VersionTooNew,
                ConditionReason::MetadataUnreachable
            ]
        );
        assert!(reached.hold_agents);
    }
}
