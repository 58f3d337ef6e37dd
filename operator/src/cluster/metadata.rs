//! Opens a cluster's metadata store and migrates its schema to the version that the agents require.
//! Called by the reconciliation before it applies anything, so that agents never roll to a version
//! whose schema is missing. Publishes the open store for the Topics.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use streamhouse_metadata::{Error, MetadataStore, SchemaState};

use super::{dereference::MetadataConnection, problem::ClusterProblem};
use crate::{
    context::OperatorContext,
    crd::{ConditionReason, ConditionType},
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
}

/// State of a metadata store that can be used.
#[derive(Debug)]
pub(super) struct MetadataState {
    /// Version of the schema.
    pub(super) schema_version: i64,
    /// Version of the schema before this call has migrated it.
    pub(super) migrated_from: Option<i64>,
    /// Cluster id in the metadata.
    pub(super) cluster_id: String,
}

impl OpenStores {
    /// Opens the store, migrates its schema if it is outdated, and publishes the result.
    ///
    /// # Errors
    ///
    /// Returns a problem if the store cannot be used. A store of a cluster other than `expected` is
    /// rejected before anything in it is changed.
    pub(super) async fn open_store(
        &self,
        context: &OperatorContext,
        key: &ClusterKey,
        connection: Result<&MetadataConnection, &ClusterProblem>,
        expected: Option<&str>,
    ) -> Result<MetadataState, ClusterProblem> {
        let outcome = match connection {
            Ok(connection) => match check_cluster_id(connection, expected).await {
                Ok(()) => self
                    .connect_and_migrate(key, connection)
                    .await
                    .map_err(|error| metadata_problem(&error)),
                Err(problem) => Err(problem),
            },
            Err(problem) => Err(problem.clone()),
        };
        match outcome {
            Ok((store, reached)) => {
                context.stores.publish(key, StoreAccess::Open(store));
                Ok(reached)
            }
            Err(problem) => {
                context
                    .stores
                    .publish(key, StoreAccess::Closed(problem.message.clone()));
                Err(problem)
            }
        }
    }

    async fn connect_and_migrate(
        &self,
        key: &ClusterKey,
        connection: &MetadataConnection,
    ) -> Result<(Arc<dyn MetadataStore>, MetadataState), Error> {
        let MetadataConnection {
            url,
            options,
            fingerprint,
        } = connection;
        let SchemaState { found, needed } = streamhouse_metadata::schema(url, options).await?;
        let mut migrated_from = None;
        if found < needed {
            streamhouse_metadata::migrate(url, options).await?;
            migrated_from = Some(found);
        }
        let known = self
            .0
            .lock()
            .get(key)
            .filter(|known| known.fingerprint == *fingerprint)
            .cloned();
        let OpenStore {
            store, cluster_id, ..
        } = match known {
            Some(known) => known,
            None => {
                let store = streamhouse_metadata::connect(url, options).await?;
                let snapshot = store.snapshot(None).await?.unwrap_or_default();
                let known = OpenStore {
                    fingerprint: fingerprint.clone(),
                    store,
                    cluster_id: snapshot.cluster_id,
                };
                self.0.lock().insert(key.clone(), known.clone());
                known
            }
        };
        store.ping().await?;
        let reached = MetadataState {
            schema_version: needed,
            migrated_from,
            cluster_id,
        };
        Ok((store, reached))
    }

    /// Drops the store of a cluster that no longer exists.
    pub(super) fn remove(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }
}

/// Rejects a database of a cluster other than `expected`. A resource without an id accepts any.
async fn check_cluster_id(
    connection: &MetadataConnection,
    expected: Option<&str>,
) -> Result<(), ClusterProblem> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let found = streamhouse_metadata::cluster_id(&connection.url, &connection.options).await;
    let found = match found.map_err(|error| metadata_problem(&error))? {
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
        _ => ConditionReason::MetadataUnreachable,
    };
    ClusterProblem {
        condition: ConditionType::MetadataReachable,
        reason,
        message: error.to_string(),
    }
}
