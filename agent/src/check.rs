//! The command `check`: reports whether the stores can be used with these settings. Run by
//! people before a start, and in Kubernetes, where the last line of stderr becomes the container's
//! termination message. Never creates or migrates a metadata store.

use std::{future::Future, path::Path, sync::Arc};

use streamhouse_core::{settings::AgentSettings, time::SystemEntropy};
use streamhouse_metadata::{self as metadata, SchemaState};
use tokio::time::{Duration, timeout};

use crate::{
    assembly,
    ownership::{self, identity, timeline},
    store::{self, ObjectStore},
};

/// Time limit for the check of one store.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// The stores to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedStores {
    metadata: bool,
    objects: bool,
}

impl CheckedStores {
    /// Parses `metadata` or `object-store`; both stores without an argument.
    ///
    /// # Errors
    /// A usage message for any other argument.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let (metadata, objects) = match arguments {
            [] => (true, true),
            [one] if one == "metadata" => (true, false),
            [one] if one == "object-store" => (false, true),
            _ => {
                return Err(format!(
                    "check: {:?} is not understood; it takes metadata, object-store, or nothing for both",
                    arguments.join(" ")
                ));
            }
        };
        Ok(Self { metadata, objects })
    }
}

/// Checks the stores concurrently, and calls `say` with a line for each that can be used.
///
/// # Errors
/// Names each store that failed, why, and the remedy.
pub async fn run(settings: &AgentSettings, stores: CheckedStores, say: impl Fn(&str)) -> anyhow::Result<()> {
    let (metadata, objects) = tokio::join!(
        run_with_timeout(stores.metadata, check_metadata(settings)),
        run_with_timeout(stores.objects, check_objects(settings)),
    );
    let mut problems = Vec::new();
    for (what, outcome) in [("metadata store", metadata), ("object store", objects)] {
        match outcome {
            None => {}
            Some(Ok(note)) => say(&format!("{what}: ok{note}")),
            Some(Err(problem)) => problems.push(format!("{what}: {problem}")),
        }
    }
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

/// What follows the "ok" of a store that can be used, or why it cannot be.
type CheckOutcome = Result<String, String>;

async fn run_with_timeout(wanted: bool, look: impl Future<Output = CheckOutcome>) -> Option<CheckOutcome> {
    if !wanted {
        return None;
    }
    Some(timeout(CHECK_TIMEOUT, look).await.unwrap_or_else(|_| {
        Err(format!(
            "no answer within {CHECK_TIMEOUT:?}; check its address and the network"
        ))
    }))
}

async fn check_metadata(settings: &AgentSettings) -> CheckOutcome {
    use streamhouse_metadata::Error;
    if settings.metadata_url.is_empty() {
        return Err("metadata-url is needed: it names the store to check".to_owned());
    }
    let (url, options) = (
        settings.metadata_url.expose(),
        assembly::connect_options(settings),
    );
    let reached = async {
        let schema = metadata::schema(url, &options).await?;
        // An agent creates and migrates an embedded store when it starts.
        if schema.is_supported() || metadata::embedded_file(url).is_none() {
            let store = metadata::connect_existing(url, &options).await?;
            store.ping().await?;
            store.close().await?;
        }
        Ok::<_, Error>(schema)
    };
    let schema = reached.await.map_err(|error| match error {
        Error::Unavailable(_) => format!("{error}; check metadata-url, the user's rights and the network"),
        error => error.to_string(),
    })?;
    if schema.found == 0 && !settings.dev {
        check_folder(url).await?;
    }
    Ok(format!(" ({})", describe_schema(url, schema)))
}

/// Fails if the folder of an embedded store does not exist. Only for development an agent makes it.
async fn check_folder(url: &str) -> Result<(), String> {
    let file = metadata::embedded_file(url);
    let folder = file.as_deref().and_then(Path::parent);
    let Some(folder) = folder.filter(|folder| *folder != Path::new("")) else {
        return Ok(());
    };
    match tokio::fs::metadata(folder).await {
        Ok(found) if found.is_dir() => Ok(()),
        _ => Err(format!(
            "the folder {} does not exist; create it, or correct metadata-url",
            folder.display()
        )),
    }
}

/// Returns the version found, and what changes it.
fn describe_schema(url: &str, SchemaState { found, window }: SchemaState) -> String {
    let newest = window.max;
    match found {
        0 => format!("empty; the first agent creates it with schema version {newest}"),
        found if found == newest => format!("schema version {found}"),
        found if metadata::embedded_file(url).is_some() => {
            format!("schema version {found}; the next agent that starts migrates it to version {newest}")
        }
        found => {
            format!("schema version {found}; `streamhouse-agent migrate` migrates it to version {newest}")
        }
    }
}

async fn check_objects(settings: &AgentSettings) -> CheckOutcome {
    if settings.object_store.is_empty() {
        return Err("object-store is needed: it names the store to check".to_owned());
    }
    let store = store::open_store(&assembly::store_settings(settings)).await;
    let store = store.map_err(|error| error.message().to_owned())?;
    let note = check_ownership(settings, &store).await?;
    let proved = store::check_store(store.as_ref(), &SystemEntropy).await;
    proved.map_err(|error| error.message().to_owned())?;
    Ok(note)
}

/// Fails if the object store belongs to another cluster, or its cluster is unknown: nothing may be
/// written to it then. Returns what was not compared.
async fn check_ownership(settings: &AgentSettings, store: &Arc<dyn ObjectStore>) -> CheckOutcome {
    let Some(marker) = identity::read_identity(store.as_ref())
        .await
        .map_err(|error| error.to_string())?
    else {
        return Ok(String::new());
    };
    let unproved = |why: &str| {
        let (store, cluster) = (store.describe(), &marker.cluster_id);
        format!("{store} belongs to cluster {cluster}, and it is unknown whether that is this cluster: {why}")
    };
    if settings.metadata_url.is_empty() {
        return Err(unproved("metadata-url is needed"));
    }
    let (url, options) = (
        settings.metadata_url.expose(),
        assembly::connect_options(settings),
    );
    let overview = metadata::overview(url, &options).await;
    let overview = overview.map_err(|error| unproved(&error.to_string()))?;
    let ours = overview.cluster_id.ok_or_else(|| {
        unproved("the metadata store is empty; correct metadata-url or object-store, or restore the metadata")
    })?;
    identity::check_cluster(store.as_ref(), Some(&marker), &ours).map_err(|error| error.to_string())?;
    // An older schema may have no timeline.
    if !overview.schema.is_supported() {
        return Ok(format!(
            " (its timeline was not compared with the metadata store: {})",
            describe_schema(url, overview.schema)
        ));
    }
    let older = async {
        let newest = timeline::newest_mark(store.as_ref()).await?;
        let metadata = metadata::connect_existing(url, &options).await?;
        let state = metadata.cluster_state().await?;
        metadata.close().await?;
        ownership::check_timeline(store.as_ref(), &state, newest)
    };
    older.await.map_err(|error| error.to_string())?;
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use streamhouse_core::settings::{AgentInvocation, load};
    use streamhouse_metadata::{ClusterState, MigrationRequest, Timeline};

    use super::*;

    fn settings(arguments: &[String]) -> AgentSettings {
        let arguments = [&["check".to_owned()], arguments].concat();
        match load(arguments, [], &["check"]) {
            Ok(AgentInvocation::Command { settings, .. }) => *settings,
            other => panic!("{other:?}"),
        }
    }

    async fn check(settings: &AgentSettings, arguments: &[&str]) -> (Vec<String>, Option<String>) {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let said = RefCell::new(Vec::new());
        let outcome = run(settings, CheckedStores::parse(&arguments).unwrap(), |line| {
            said.borrow_mut().push(line.to_owned());
        })
        .await;
        (said.into_inner(), outcome.err().map(|error| error.to_string()))
    }

    #[tokio::test]
    async fn one_store_or_both_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let dev = settings(&["--dev".to_owned(), format!("--data-dir={}", dir.path().display())]);
        let lines = |lines: &[&str]| lines.iter().map(ToString::to_string).collect::<Vec<_>>();
        let empty = "metadata store: ok (empty; the first agent creates it with schema version 7)";
        for (arguments, said) in [
            (&[] as &[&str], lines(&[empty, "object store: ok"])),
            (&["metadata"], lines(&[empty])),
            (&["object-store"], lines(&["object store: ok"])),
        ] {
            assert_eq!(check(&dev, arguments).await, (said, None), "{arguments:?}");
        }
        assert!(!dir.path().join("metadata.db").exists(), "nothing was created");
        let objects = dir.path().join("objects");
        let objects = store::StoreSettings {
            url: format!("file:{}", objects.display()),
            ..store::StoreSettings::default()
        };
        let left = store::open_store(&objects)
            .await
            .unwrap()
            .list("", None, 10)
            .await
            .unwrap();
        assert_eq!(left, [], "the canary is gone");
    }

    #[tokio::test]
    async fn a_check_reports_the_schema_and_leaves_it_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let dev = settings(&["--dev".to_owned(), format!("--data-dir={}", dir.path().display())]);
        let (url, options) = (dev.metadata_url.expose(), assembly::connect_options(&dev));
        let objects = store::open_store(&assembly::store_settings(&dev)).await.unwrap();
        for (version, schema, objects_note) in [
            (
                4,
                "schema version 4; the next agent that starts migrates it to version 7",
                " (its timeline was not compared with the metadata store: \
                 schema version 4; the next agent that starts migrates it to version 7)",
            ),
            (
                5,
                "schema version 5; the next agent that starts migrates it to version 7",
                "",
            ),
            (7, "schema version 7", ""),
        ] {
            let request = MigrationRequest {
                to: Some(version),
                ..Default::default()
            };
            metadata::migrate_to(url, &options, &request).await.unwrap();
            let cluster = ClusterState {
                cluster_id: metadata::cluster_id(url, &options).await.unwrap().unwrap(),
                timeline: Timeline::default(),
                diverged: false,
                in_use: false,
            };
            identity::prove_cluster(objects.as_ref(), &cluster).await.unwrap();
            let said = vec![
                format!("metadata store: ok ({schema})"),
                format!("object store: ok{objects_note}"),
            ];
            assert_eq!(check(&dev, &[]).await, (said, None), "version {version}");
            let found = metadata::schema(url, &options).await.unwrap().found;
            assert_eq!(found, version);
        }
    }

    #[tokio::test]
    async fn an_embedded_store_needs_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let url = |folder: &Path| format!("--metadata-url=sqlite:{}/metadata.db", folder.display());
        let (said, error) = check(&settings(&[url(dir.path())]), &["metadata"]).await;
        assert_eq!((said.len(), error), (1, None));
        let absent = dir.path().join("absent");
        let (_, error) = check(&settings(&[url(&absent)]), &["metadata"]).await;
        let error = error.unwrap();
        assert!(error.contains("absent does not exist; create it"), "{error}");
    }

    #[tokio::test]
    async fn the_error_names_what_is_wrong_and_nothing_that_was_not_asked_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let broken = settings(&[
            "--metadata-url=postgres://u:hunter2@127.0.0.1:1/d".to_owned(),
            "--metadata-timeout=100ms".to_owned(),
            format!("--object-store=file:{}", file.path().display()),
        ]);
        let (said, error) = check(&broken, &[]).await;
        let error = error.unwrap();
        assert!(said.is_empty(), "said twice: {said:?}");
        assert!(
            error.starts_with("metadata store: ") && error.contains("check metadata-url"),
            "{error}"
        );
        assert!(error.contains("; object store: "), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        let (_, error) = check(&broken, &["object-store"]).await;
        assert!(!error.unwrap().contains("metadata"));
        for url in [
            "postgres://u:hunt#er2@127.0.0.1:1/d",
            "postgres://u:hunter2@one:1,two:1/d",
            "postgres://u:hunter2@127.0.0.1:1/d?keepalives=1",
        ] {
            let misread = settings(&[format!("--metadata-url={url}")]);
            let error = check(&misread, &["metadata"]).await.1.unwrap();
            assert!(
                error.starts_with("metadata store: the PostgreSQL address cannot be used: "),
                "{error}"
            );
            assert_eq!(error.matches("cannot be used").count(), 1, "{error}");
            assert!(!error.contains("er2"), "{error}");
        }
        let (_, error) = check(&settings(&[]), &[]).await;
        let error = error.unwrap();
        assert!(
            error.contains("metadata-url is needed") && error.contains("object-store is needed"),
            "{error}"
        );
    }

    #[test]
    fn other_arguments_are_refused() {
        for arguments in [
            &["objects"] as &[&str],
            &["metadata", "object-store"],
            &["--json"],
        ] {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            let parsed = CheckedStores::parse(&arguments);
            assert!(parsed.is_err(), "{parsed:?}");
        }
    }
}
