//! The command `recover`: lets a cluster continue whose metadata is older than its bucket, because
//! a backup was restored or a standby without the last commits was promoted. Reports what the
//! bucket contains that the metadata does not know, and vice versa; with `--yes`, advances every
//! identifier that is issued once beyond what the bucket shows, so that nothing is written under a
//! key of the lost history. Objects of that history are kept: neither served nor deleted.

mod survey;

use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata::{
    self as metadata, ClusterState, MetadataStore, RecoveryRequest, SchemaState, Timeline,
};

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
/// A backup made while agents ran contains their leases. Only a recovery that is `meant` migrates
/// an embedded store.
async fn open_metadata(
    settings: &AgentSettings,
    meant: bool,
    say: &impl Fn(&str),
) -> anyhow::Result<std::sync::Arc<dyn MetadataStore>> {
    let (url, options) = (
        settings.metadata_url.expose(),
        assembly::connect_options(settings),
    );
    let overview = metadata::overview(url, &options).await?;
    anyhow::ensure!(
        overview.cluster_id.is_some(),
        "the metadata store is empty: restore a backup of it first, or correct metadata-url"
    );
    if let Some(agent) = overview.live_agents.first() {
        let running = format!(
            "the agent {:?} is running: stop every agent of the cluster, or wait until the lease in the backup expires",
            agent.agent_id
        );
        anyhow::ensure!(!meant, "{running}; then run this again");
        say(&running);
    }
    if meant {
        return Ok(metadata::connect(url, &options).await?);
    }
    let SchemaState { found, window } = overview.schema;
    if metadata::embedded_file(url).is_some() && found < window.max {
        say(&format!(
            "metadata schema: version {found}; {CONFIRM_FLAG} migrates it to version {}",
            window.max
        ));
    }
    Ok(metadata::connect_existing(url, &options).await?)
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
    use std::cell::RefCell;

    use streamhouse_core::settings::{AgentInvocation, load};
    use streamhouse_metadata::MigrationRequest;

    use super::*;

    #[tokio::test]
    async fn a_report_reads_an_embedded_store_of_an_older_schema_and_leaves_it_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = [
            "recover".to_owned(),
            "--dev".to_owned(),
            format!("--data-dir={}", dir.path().display()),
        ];
        let Ok(AgentInvocation::Command { settings, .. }) = load(arguments, [], &["recover"]) else {
            panic!("the settings are refused")
        };
        let (url, options) = (
            settings.metadata_url.expose(),
            assembly::connect_options(&settings),
        );
        let recover = async |version| {
            let request = MigrationRequest {
                to: Some(version),
                ..MigrationRequest::default()
            };
            metadata::migrate_to(url, &options, &request).await.unwrap();
            let said = RefCell::new(Vec::new());
            let outcome = run(&settings, false, |line| said.borrow_mut().push(line.to_owned())).await;
            let found = metadata::schema(url, &options).await.unwrap().found;
            assert_eq!(found, version);
            (said.into_inner(), outcome.unwrap_err().to_string())
        };
        let (said, refused) = recover(4).await;
        assert_eq!(
            said,
            ["metadata schema: version 4; --yes migrates it to version 7"]
        );
        assert!(refused.contains("run `streamhouse-agent migrate`"), "{refused}");
        let (said, refused) = recover(5).await;
        assert_eq!(
            said,
            ["metadata schema: version 5; --yes migrates it to version 7"]
        );
        assert!(refused.contains("there is nothing to recover"), "{refused}");
        let (said, _) = recover(7).await;
        assert_eq!(said, Vec::<String>::new());
    }

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
