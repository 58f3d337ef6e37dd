//! The command `recover`: lets a cluster continue whose metadata is older than its bucket, because
//! a backup was restored or a standby without the last commits was promoted. Reports what the
//! bucket contains that the metadata does not know, and vice versa; with `--yes`, advances every
//! identifier that is issued once beyond what the bucket shows, so that nothing is written under a
//! key of the lost history. Objects of that history are kept: neither served nor deleted.

mod survey;

use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata::{self as metadata, ClusterState, MetadataStore, RecoveryRequest, Timeline};

use self::survey::RecoverySurvey;
use crate::{
    assembly,
    ownership::{identity, timeline},
    store::{self, ObjectStore},
};

/// The argument that confirms the command.
const CONFIRM_FLAG: &str = "--yes";
/// Number of producer ids that agents may have issued after the newest mark.
const UNMARKED_PRODUCER_IDS: i64 = 1_000_000;

/// Returns whether the arguments confirm the recovery.
///
/// # Errors
/// A usage message for any other argument.
pub fn parse_confirmation(arguments: &[String]) -> Result<bool, String> {
    match arguments {
        [] => Ok(false),
        [meant] if meant == CONFIRM_FLAG => Ok(true),
        _ => Err(format!(
            "recover: {:?} is not understood; it takes {CONFIRM_FLAG}, or nothing to see what it would do",
            arguments.join(" ")
        )),
    }
}

/// Reports the differences between the two stores line by line and, if `meant`, advances the
/// metadata store beyond the bucket.
///
/// # Errors
/// If a store fails, the stores belong to different clusters, or an agent is running and the
/// recovery is `meant`.
pub async fn run(settings: &AgentSettings, meant: bool, say: impl Fn(&str)) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty() && !settings.object_store.is_empty(),
        "metadata-url and object-store are needed: they name the stores to recover"
    );
    let store = store::open_store(&assembly::store_settings(settings)).await?;
    let metadata = open_metadata(settings, meant, &say).await?;
    let outcome = compare_stores(store.as_ref(), metadata.as_ref(), meant, say).await;
    metadata.close().await?;
    outcome
}

/// Opens the metadata store, which must exist and, if the recovery is `meant`, have no live agent.
/// A backup made while agents ran contains their leases.
async fn open_metadata(
    settings: &AgentSettings,
    meant: bool,
    say: &impl Fn(&str),
) -> anyhow::Result<std::sync::Arc<dyn MetadataStore>> {
    let (url, options) = (
        settings.metadata_url.expose(),
        assembly::connect_options(settings),
    );
    anyhow::ensure!(
        metadata::cluster_id(url, &options).await?.is_some(),
        "the metadata store is empty: restore a backup of it first, or correct metadata-url"
    );
    if let Some(agent) = metadata::live_agent(url, &options).await? {
        let running = format!(
            "the agent {agent:?} is running: stop every agent of the cluster, or wait until the lease in the backup expires"
        );
        anyhow::ensure!(!meant, "{running}; then run this again");
        say(&running);
    }
    Ok(metadata::connect(url, &options).await?)
}

async fn compare_stores(
    store: &dyn ObjectStore,
    metadata: &dyn MetadataStore,
    meant: bool,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    let state = metadata.cluster_state().await?;
    let marker = identity::read_identity(store).await?;
    identity::check_cluster(store, marker.as_ref(), &state.cluster_id)?;
    anyhow::ensure!(
        marker.is_some() || state.in_use,
        "the metadata store is new and {} has no marker that names a cluster: there is nothing to recover",
        store.describe()
    );
    let marked = timeline::furthest_timeline(store).await?;
    let survey = RecoverySurvey::collect(store, metadata).await?;
    let now = state.timeline;
    say(&format!(
        "metadata store: cluster {}, timeline {}, incarnations up to {}",
        state.cluster_id, now.number, now.incarnation.0
    ));
    say(&format!(
        "object store {}: timeline {}, incarnations up to {}",
        store.describe(),
        marked.number,
        marked.incarnation.max(survey.incarnation).0
    ));
    survey.report(&say);
    if !is_behind(&state, &marked, &survey) {
        say("the metadata store is not older than the object store: nothing to recover");
        return Ok(());
    }
    let recovery = plan_recovery(&now, &marked, survey);
    if !meant {
        say(&format!(
            "recover would: raise the timeline beyond {}; issue incarnations after {} and producer ids after {}; \
             give every topic a new folder for its segments; drop unfinished segments; delete nothing",
            recovery.observed.number, recovery.observed.incarnation.0, recovery.observed.producer_id
        ));
        say(&format!(
            "nothing was changed; records that the metadata does not know stay unreadable: add {CONFIRM_FLAG} to continue without them"
        ));
        return Ok(());
    }
    let recovered = metadata.recover(&recovery).await?;
    say(&format!(
        "recovered: timeline {}, {} topics with a new folder, {} unfinished segments dropped, {} former incarnations closed; \
         agents can be started",
        recovered.timeline.number, recovered.topics, recovered.intents, recovered.incarnations
    ));
    Ok(())
}

/// Returns whether the bucket shows that another copy of the metadata advanced further.
fn is_behind(state: &ClusterState, marked: &Timeline, survey: &RecoverySurvey) -> bool {
    state.diverged
        || marked.number > state.timeline.number
        || marked.incarnation.max(survey.incarnation) > state.timeline.incarnation
}

/// Returns the recovery that continues beyond both stores.
fn plan_recovery(now: &Timeline, marked: &Timeline, survey: RecoverySurvey) -> RecoveryRequest {
    let given = now.producer_id.max(marked.producer_id);
    RecoveryRequest {
        observed: Timeline {
            number: now.number.max(marked.number),
            incarnation: now.incarnation.max(marked.incarnation).max(survey.incarnation),
            producer_id: given.saturating_add(UNMARKED_PRODUCER_IDS),
        },
        topic_name_uses: survey.names,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_to_be_meant() {
        let given = |arguments: &[&str]| {
            parse_confirmation(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(given(&[]), Ok(false));
        assert_eq!(given(&["--yes"]), Ok(true));
        for other in [&["--yes", "--yes"] as &[&str], &["yes"], &["--force"]] {
            assert!(given(other).is_err(), "{other:?}");
        }
    }
}
