//! The command `purge`: permanently deletes every object of a cluster and then its metadata. Run by
//! operators of the cluster, and by the Kubernetes operator for a cluster that is deleted with its
//! data.
//!
//! Objects are deleted first: while the metadata exists, an interrupted purge can be run again and
//! finds the rest. Only keys of the agent's own form are deleted, the identity marker last: all
//! other objects in the bucket stay, and are named. The bucket must belong to the metadata store's
//! cluster.

use std::fmt;

use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata::{self as metadata, keys};
use tokio::time::{Duration, Instant};

use crate::{
    assembly,
    ownership::identity::{self, ClusterIdentity},
    store::{self, DELETE_BATCH, ObjectMeta, ObjectStore, RetryPolicy, StoreError},
};

/// The argument that confirms the command.
const CONFIRM_FLAG: &str = "--yes";
/// The argument with the id of the only cluster that may be deleted.
const CLUSTER_ID_FLAG: &str = "--cluster-id";
/// Pages of objects between two progress lines.
const PAGES_PER_REPORT: u64 = 10;
/// Maximum number of foreign keys that are named.
const MAX_NAMED_KEYS: usize = 5;
/// How long one request is retried.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of a confirmed purge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PurgeOptions {
    /// The only cluster whose data may be deleted; any if `None`.
    pub cluster_id: Option<String>,
}

impl PurgeOptions {
    /// Parses `--yes`, which confirms the purge, and `--cluster-id ID`.
    ///
    /// # Errors
    /// A usage message for any other arguments, and without the confirmation.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let refuse = || {
            format!(
                "purge: {:?} is not understood; it takes {CONFIRM_FLAG} and {CLUSTER_ID_FLAG} ID",
                arguments.join(" ")
            )
        };
        let (mut options, mut confirmed) = (Self::default(), false);
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let id = match argument.strip_prefix(CLUSTER_ID_FLAG) {
                _ if argument == CONFIRM_FLAG && !confirmed => {
                    confirmed = true;
                    continue;
                }
                Some("") => rest.next().map(String::as_str),
                Some(joined) => joined.strip_prefix('='),
                None => None,
            };
            let id = id.filter(|id| !id.is_empty() && options.cluster_id.is_none());
            options.cluster_id = Some(id.ok_or_else(refuse)?.to_owned());
        }
        if confirmed {
            return Ok(options);
        }
        Err(format!(
            "purge permanently deletes all records and metadata of the cluster; stop all agents and add {CONFIRM_FLAG} to confirm"
        ))
    }
}

/// Deletes everything; calls `say` with each progress line. May be run again after any failure.
///
/// # Errors
/// If a store fails, the stores do not belong together or are of another cluster than that of the
/// options, or an agent is running.
pub async fn run(settings: &AgentSettings, options: &PurgeOptions, say: impl Fn(&str)) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty() && !settings.object_store.is_empty(),
        "metadata-url and object-store are needed: they name the stores to delete"
    );
    let (url, connect) = (
        settings.metadata_url.expose(),
        assembly::connect_options(settings),
    );
    let store = store::open_store(&assembly::store_settings(settings)).await?;
    // Refuses a schema that is newer than this build, before anything is deleted: its agents may
    // have objects that this build does not know.
    let cluster_id = metadata::cluster_id(url, &connect).await?;
    let marker = identity::read_identity(store.as_ref()).await?;
    check_owner(store.as_ref(), cluster_id.as_deref(), marker.as_ref(), options)?;
    let (mut deleted, mut foreign, mut pages) = (0, ForeignObjects::default(), 0_u64);
    let mut after: Option<String> = None;
    loop {
        // An agent that starts meanwhile would write to what is being deleted.
        if let Some(agent) = metadata::live_agent(url, &connect).await? {
            anyhow::bail!(
                "the agent {agent:?} is running; stop every agent of the cluster, then run this again"
            );
        }
        let page = list_page(store.as_ref(), after.as_deref()).await?;
        let (ours, others): (Vec<String>, Vec<String>) = page
            .iter()
            .map(|object| object.key.clone())
            .filter(|key| key != identity::IDENTITY_KEY)
            .partition(|key| is_cluster_key(key));
        anyhow::ensure!(
            cluster_id.is_some() || ours.is_empty(),
            "the metadata store is empty, and {} has objects, such as {}, but no marker that names their cluster: correct metadata-url or \
             object-store, or delete them by hand",
            store.describe(),
            ours.first().map_or("", String::as_str)
        );
        delete_keys(store.as_ref(), &ours).await?;
        deleted += ours.len();
        foreign.add(others);
        pages += 1;
        if page.len() < DELETE_BATCH {
            break;
        }
        if pages.is_multiple_of(PAGES_PER_REPORT) {
            say(&format!("object store: deleted {deleted} objects so far"));
        }
        after = page.last().map(|object| object.key.clone());
    }
    if marker.is_some() {
        delete_keys(store.as_ref(), &[identity::IDENTITY_KEY.to_owned()]).await?;
        deleted += 1;
    }
    say(&format!("object store: deleted {deleted} objects{foreign}"));
    let dropped = metadata::drop_schema(url, &connect).await?;
    say(if dropped {
        "metadata store: dropped the schema"
    } else {
        "metadata store: there was no schema"
    });
    Ok(())
}

/// Checks that both stores belong to one cluster, and to the one that is meant.
fn check_owner(
    store: &dyn ObjectStore,
    cluster_id: Option<&str>,
    marker: Option<&ClusterIdentity>,
    options: &PurgeOptions,
) -> anyhow::Result<()> {
    if let (Some(found), Some(meant)) = (cluster_id, &options.cluster_id) {
        anyhow::ensure!(
            found == meant,
            "the metadata store belongs to cluster {found}, and {CLUSTER_ID_FLAG} is {meant}: correct metadata-url; \
             nothing was deleted"
        );
    }
    match (cluster_id, marker) {
        (Some(ours), marker) => Ok(identity::check_cluster(store, marker, ours)?),
        (None, Some(marker)) => anyhow::bail!(
            "{} belongs to cluster {}, and the metadata store is empty: correct metadata-url or object-store",
            store.describe(),
            marker.cluster_id
        ),
        (None, None) => Ok(()),
    }
}

/// Foreign objects: how many, and the first keys.
#[derive(Default)]
struct ForeignObjects {
    count: usize,
    named: Vec<String>,
}

impl ForeignObjects {
    fn add(&mut self, keys: Vec<String>) {
        self.count += keys.len();
        let room = MAX_NAMED_KEYS - self.named.len();
        self.named.extend(keys.into_iter().take(room));
    }
}

impl fmt::Display for ForeignObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return Ok(());
        }
        let more = if self.count > MAX_NAMED_KEYS { ", ..." } else { "" };
        let named = self.named.join(", ");
        write!(f, "; {} that are not ours stay: {named}{more}", self.count)
    }
}

async fn list_page(store: &dyn ObjectStore, after: Option<&str>) -> Result<Vec<ObjectMeta>, StoreError> {
    let what = after.unwrap_or("the first objects");
    retry_policy()
        .run("list", what, || store.list("", after, DELETE_BATCH))
        .await
}

async fn delete_keys(store: &dyn ObjectStore, keys: &[String]) -> Result<(), StoreError> {
    match keys.first() {
        None => Ok(()),
        Some(first) => retry_policy().run("delete", first, || store.delete(keys)).await,
    }
}

/// For a single request: a store that is busy for a moment must not fail the whole purge.
fn retry_policy() -> RetryPolicy {
    RetryPolicy::default().with_deadline(Instant::now() + REQUEST_TIMEOUT)
}

/// Returns whether an agent writes objects under this key: WAL objects, segments, ownership objects
/// and canaries.
fn is_cluster_key(key: &str) -> bool {
    keys::parse_wal_key(key).is_some()
        || keys::parse_segment_key(key).is_some()
        || identity::is_ownership_key(key)
        || is_canary_key(key)
}

fn is_canary_key(key: &str) -> bool {
    let hexadecimal = |name: &str| name.len() == 16 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    key.strip_prefix(store::open::CANARY_PREFIX)
        .is_some_and(hexadecimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_our_form_are_ours() {
        for ours in [
            "_wal/0000000003/00000000000000000009",
            "orders/0/segment_0000001000.dat",
            "orders@2/0/segment_0000001000.dat",
            "_canary/00000000deadbeef",
            "_cluster/identity",
            "_cluster/timeline/00000000000000000042",
        ] {
            assert!(is_cluster_key(ours), "{ours}");
        }
        for foreign in [
            "_wal/0000000003/9",
            "_wal/notes.txt",
            "orders@1/0/segment_0000001000.dat",
            "orders/0/segment_0000001000.dat.bak",
            "prod/orders/0/segment_0000001000.dat",
            "prod/_wal/0000000003/00000000000000000009",
            "_canary/bird",
            "_cluster/notes",
            "_cluster/timeline/42",
            "_canary/00000000deadbeef/x",
            "notes.txt",
        ] {
            assert!(!is_cluster_key(foreign), "{foreign}");
        }
    }

    #[test]
    fn it_has_to_be_meant() {
        let parse = |arguments: &[&str]| {
            PurgeOptions::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let options = |id: Option<&str>| {
            Ok(PurgeOptions {
                cluster_id: id.map(str::to_owned),
            })
        };
        assert_eq!(parse(&["--yes"]), options(None));
        assert_eq!(parse(&["--yes", "--cluster-id", "a1"]), options(Some("a1")));
        assert_eq!(parse(&["--cluster-id=a1", "--yes"]), options(Some("a1")));
        for unconfirmed in [&[] as &[&str], &["--cluster-id", "a1"]] {
            assert!(parse(unconfirmed).unwrap_err().contains("add --yes"));
        }
        for other in [
            &["--yes", "--yes"] as &[&str],
            &["yes"],
            &["--force"],
            &["--yes", "--cluster-id"],
            &["--yes", "--cluster-id="],
            &["--yes", "--cluster-ids=a1"],
            &["--yes", "--cluster-id=a1", "--cluster-id=a2"],
        ] {
            assert!(parse(other).unwrap_err().contains("--cluster-id ID"), "{other:?}");
        }
    }
}
