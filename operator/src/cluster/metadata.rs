//! Opens a cluster's metadata store and migrates its schema as far as its agents allow. Called by
//! the reconciliation before it applies anything, so that agents never roll to a version whose
//! schema is missing. Publishes the open store for the Topics.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use streamhouse_metadata::{
    ClusterSnapshot, Error, MetadataStore, MigrationOutcome, MigrationRequest, SchemaState, StoreOverview,
};

use super::{
    dereference::MetadataConnection,
    problem::ClusterProblem,
    schema_plan::{SchemaFacts, SchemaPlan, plan_schema},
};
use crate::{
    conditions::find_condition,
    context::OperatorContext,
    crd::{ClusterStatus, ConditionReason, ConditionType},
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
    pub(super) problem: Option<ClusterProblem>,
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
            problem: Some(problem),
        }
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
    /// Opens the store, migrates its schema if the agents allow it, and publishes the result.
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
            Err(reached) => {
                let why = reached.problem.as_ref().map(|problem| problem.message.clone());
                context
                    .stores
                    .publish(key, StoreAccess::Closed(why.unwrap_or_default()));
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
                reached.problem = Some(ClusterProblem {
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
