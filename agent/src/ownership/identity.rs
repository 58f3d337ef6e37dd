//! Owns the marker object that names the cluster of a bucket and prefix. Created once, with
//! If-None-Match, and deleted only by `purge`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use streamhouse_metadata::{ClusterState, keys};
use tokio::time::{Duration, Instant};

use super::{OwnershipError, PREFIX, timeline};
use crate::store::{GetRange, ObjectStore, RetryPolicy, StoreErrorKind, put_settled};

/// Key of the marker.
pub const IDENTITY_KEY: &str = "_cluster/identity";
/// Format version that this build writes, and the newest one that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Objects per listing page.
const LIST_PAGE_SIZE: usize = 1000;
/// How long the put of the marker is retried.
const PUT_TIMEOUT: Duration = Duration::from_secs(10);

/// Content of the marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIdentity {
    /// Format version of the keys and objects below the prefix.
    pub format_version: u32,
    /// Id of the cluster, assigned when the metadata store was created.
    pub cluster_id: String,
}

/// Reads the marker; returns `None` if it does not exist.
///
/// # Errors
/// If the store cannot be read, the marker cannot be parsed, or its format is newer than this
/// build.
pub async fn read_identity(store: &dyn ObjectStore) -> Result<Option<ClusterIdentity>, OwnershipError> {
    let body = match store.get(IDENTITY_KEY, GetRange::Full).await {
        Ok(body) => body,
        Err(error) if error.kind() == StoreErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OwnershipError::store_error(store)(error)),
    };
    let identity: ClusterIdentity = serde_json::from_slice(&body).map_err(|_| OwnershipError::Marker {
        store: store.describe(),
        key: IDENTITY_KEY.to_owned(),
    })?;
    if identity.format_version > FORMAT_VERSION {
        return Err(OwnershipError::NewerFormat {
            store: store.describe(),
            found: identity.format_version,
            known: FORMAT_VERSION,
        });
    }
    Ok(Some(identity))
}

/// Verifies that the marker names this cluster; a missing marker is accepted.
///
/// # Errors
/// [`OwnershipError::OtherCluster`] otherwise.
pub fn check_cluster(
    store: &dyn ObjectStore,
    marker: Option<&ClusterIdentity>,
    cluster_id: &str,
) -> Result<(), OwnershipError> {
    match marker {
        Some(identity) if identity.cluster_id != cluster_id => Err(OwnershipError::OtherCluster {
            store: store.describe(),
            theirs: identity.cluster_id.clone(),
            ours: cluster_id.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Verifies that the bucket belongs to this cluster. A bucket without a marker is claimed: by a
/// metadata store in use whatever the bucket contains, since early versions wrote no marker; by a
/// new one only if the bucket contains no objects of any cluster.
///
/// # Errors
/// If the bucket belongs to another cluster or may do so, or a store fails.
pub async fn prove_cluster(store: &dyn ObjectStore, state: &ClusterState) -> Result<(), OwnershipError> {
    let marker = match read_identity(store).await? {
        Some(marker) => Some(marker),
        None => claim_bucket(store, state).await?,
    };
    check_cluster(store, marker.as_ref(), &state.cluster_id)
}

/// Creates the marker; returns the existing one if another agent has created it first.
async fn claim_bucket(
    store: &dyn ObjectStore,
    state: &ClusterState,
) -> Result<Option<ClusterIdentity>, OwnershipError> {
    if !state.in_use
        && let Some(key) = find_record_key(store).await?
    {
        return Err(OwnershipError::Unclaimed {
            store: store.describe(),
            key,
            ours: state.cluster_id.clone(),
        });
    }
    let identity = ClusterIdentity {
        format_version: FORMAT_VERSION,
        cluster_id: state.cluster_id.clone(),
    };
    let body = serde_json::to_vec(&identity).map_err(|_| OwnershipError::Marker {
        store: store.describe(),
        key: IDENTITY_KEY.to_owned(),
    })?;
    let retry = RetryPolicy::default().with_deadline(Instant::now() + PUT_TIMEOUT);
    match put_settled(store, IDENTITY_KEY, Bytes::from(body), &retry).await {
        Ok(()) => {
            tracing::info!(
                cluster_id = state.cluster_id,
                store = store.describe(),
                "claimed the object store for this cluster"
            );
            Ok(None)
        }
        Err(error) if error.kind() == StoreErrorKind::AlreadyExists => read_identity(store).await,
        Err(error) => Err(OwnershipError::store_error(store)(error)),
    }
}

/// Returns the key of an object that some cluster wrote, if there is one.
async fn find_record_key(store: &dyn ObjectStore) -> Result<Option<String>, OwnershipError> {
    let mut after: Option<String> = None;
    loop {
        let page = store
            .list("", after.as_deref(), LIST_PAGE_SIZE)
            .await
            .map_err(OwnershipError::store_error(store))?;
        if let Some(object) = page.iter().find(|object| is_record_key(&object.key)) {
            return Ok(Some(object.key.clone()));
        }
        if page.len() < LIST_PAGE_SIZE {
            return Ok(None);
        }
        after = page.last().map(|object| object.key.clone());
    }
}

/// Returns whether agents write such keys for records.
fn is_record_key(key: &str) -> bool {
    keys::parse_wal_key(key).is_some()
        || keys::parse_segment_key(key).is_some()
        || timeline::parse_mark_key(key).is_some()
}

/// Returns whether agents write this key to record the bucket's cluster or timeline.
pub fn is_ownership_key(key: &str) -> bool {
    key.starts_with(PREFIX) && (key == IDENTITY_KEY || timeline::parse_mark_key(key).is_some())
}
