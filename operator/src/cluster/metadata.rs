//! Opens a cluster's metadata store and migrates its schema to the version that the agents require.
//! Called by the reconciliation before it applies anything, so that agents never roll to a version
//! whose schema is missing. Publishes the open store for the Topics.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use streamhouse_metadata::{Error, MetadataStore, SchemaState};

use super::{dereference::Connection, problem::Problem};
use crate::{
    context::Context,
    crd::{ConditionType, Reason},
    stores::{Access, ClusterKey},
};

/// The stores that this process has opened, by cluster, with their connection parameters.
#[derive(Debug, Default)]
pub(super) struct Opened(Mutex<HashMap<ClusterKey, Known>>);

#[derive(Debug, Clone)]
struct Known {
    fingerprint: String,
    store: Arc<dyn MetadataStore>,
    cluster_id: String,
}

/// State of a metadata store that can be used.
#[derive(Debug)]
pub(super) struct Reached {
    /// Version of the schema.
    pub(super) schema_version: i64,
    /// Version of the schema before this call has migrated it.
    pub(super) migrated_from: Option<i64>,
    /// Cluster id in the metadata.
    pub(super) cluster_id: String,
}

impl Opened {
    /// Opens the store, migrates its schema if it is outdated, and publishes the result.
    ///
    /// # Errors
    ///
    /// Returns a problem if the store cannot be used. A store of a cluster other than `expected` is
    /// rejected before anything in it is changed.
    pub(super) async fn reach(
        &self,
        context: &Context,
        key: &ClusterKey,
        connection: Result<&Connection, &Problem>,
        expected: Option<&str>,
    ) -> Result<Reached, Problem> {
        let outcome = match connection {
            Ok(connection) => match is_expected(connection, expected).await {
                Ok(()) => self.open(key, connection).await.map_err(|error| problem(&error)),
                Err(problem) => Err(problem),
            },
            Err(problem) => Err(problem.clone()),
        };
        match outcome {
            Ok((store, reached)) => {
                context.stores.publish(key, Access::Open(store));
                Ok(reached)
            }
            Err(problem) => {
                context
                    .stores
                    .publish(key, Access::Closed(problem.message.clone()));
                Err(problem)
            }
        }
    }

    async fn open(
        &self,
        key: &ClusterKey,
        connection: &Connection,
    ) -> Result<(Arc<dyn MetadataStore>, Reached), Error> {
        let Connection {
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
        let Known {
            store, cluster_id, ..
        } = match known {
            Some(known) => known,
            None => {
                let store = streamhouse_metadata::connect(url, options).await?;
                let snapshot = store.snapshot(None).await?.unwrap_or_default();
                let known = Known {
                    fingerprint: fingerprint.clone(),
                    store,
                    cluster_id: snapshot.cluster_id,
                };
                self.0.lock().insert(key.clone(), known.clone());
                known
            }
        };
        store.ping().await?;
        let reached = Reached {
            schema_version: needed,
            migrated_from,
            cluster_id,
        };
        Ok((store, reached))
    }

    /// Drops the store of a cluster that no longer exists.
    pub(super) fn forget(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }
}

/// Rejects a database of a cluster other than `expected`. A resource without an id accepts any.
async fn is_expected(connection: &Connection, expected: Option<&str>) -> Result<(), Problem> {
    let Some(expected) = expected else {
        return Ok(());
    };
    let found = streamhouse_metadata::cluster_id(&connection.url, &connection.options).await;
    let found = match found.map_err(|error| problem(&error))? {
        Some(found) if found == expected => return Ok(()),
        Some(found) => format!("belongs to cluster {found}"),
        None => "is empty".to_owned(),
    };
    Err(Problem {
        condition: ConditionType::MetadataReachable,
        reason: Reason::OtherCluster,
        message: format!(
            "the database {found}, but status.clusterId of this resource is {expected}: correct the connection \
             string in spec.postgresql or restore the metadata of {expected}; create a new resource for a new cluster"
        ),
    })
}

fn problem(error: &Error) -> Problem {
    let reason = match error {
        Error::Schema(_) => Reason::SchemaTooNew,
        _ => Reason::MetadataUnreachable,
    };
    Problem {
        condition: ConditionType::MetadataReachable,
        reason,
        message: error.to_string(),
    }
}
