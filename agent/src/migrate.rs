//! The command `migrate`: migrates the metadata schema, unless a live agent does not run on the new
//! version. Run by operators of the cluster; on Kubernetes the operator does the same.

use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata::{self as metadata, MigrationRequest};

use crate::assembly;

/// Arguments of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MigrateOptions {
    request: MigrationRequest,
    dry_run: bool,
}

impl MigrateOptions {
    /// Parses `--to VERSION`, `--dry-run` and `--ignore-agents`.
    ///
    /// # Errors
    /// A usage message for any other arguments.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let to = match argument.as_str() {
                "--dry-run" => {
                    options.dry_run = true;
                    continue;
                }
                "--ignore-agents" => {
                    options.request.ignore_agents = true;
                    continue;
                }
                "--to" => rest.next().map(String::as_str),
                joined => joined.strip_prefix("--to="),
            };
            let version = to.and_then(|to| to.parse().ok()).filter(|version| *version > 0);
            options.request.to = Some(version.ok_or_else(|| {
                format!(
                    "migrate: {:?} is not understood; it takes --to VERSION, a number, --dry-run and --ignore-agents",
                    arguments.join(" ")
                )
            })?);
        }
        Ok(options)
    }
}

/// Migrates, or says what would be done; calls `say` with each line.
///
/// # Errors
/// If the store fails, the schema cannot be migrated to that version, or a live agent does not run
/// on it.
pub async fn run(
    settings: &AgentSettings,
    options: &MigrateOptions,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty(),
        "metadata-url is needed: it names the store to migrate"
    );
    let (url, connect) = (
        settings.metadata_url.expose(),
        assembly::connect_options(settings),
    );
    if options.dry_run {
        let overview = metadata::overview(url, &connect).await?;
        let found = overview.schema.found;
        say(&format!(
            "metadata schema: version {found}; this build runs on {}",
            overview.schema.window
        ));
        for agent in &overview.live_agents {
            say(&format!("live agent: {agent}"));
        }
        let planned = overview.plan_migration(&options.request)?;
        if planned.from < planned.to {
            for agent in overview.sealed_by_migration(planned.to) {
                say(&format!("expired agent, would be sealed: {agent}"));
            }
        }
        say(&if planned.from == planned.to {
            "nothing to migrate".to_owned()
        } else {
            format!("would be migrated to version {}; nothing was changed", planned.to)
        });
        return Ok(());
    }
    let migrated = metadata::migrate_to(url, &connect, &options.request).await?;
    say(&format!(
        "metadata schema: version {} (was {})",
        migrated.to, migrated.from
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use streamhouse_core::settings::{AgentInvocation, load};

    use super::*;

    fn parse(arguments: &[&str]) -> Result<MigrateOptions, String> {
        MigrateOptions::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        let options = |to, dry_run, ignore_agents| MigrateOptions {
            request: MigrationRequest { to, ignore_agents },
            dry_run,
        };
        assert_eq!(parse(&[]), Ok(options(None, false, false)));
        assert_eq!(parse(&["--to", "6"]), Ok(options(Some(6), false, false)));
        assert_eq!(
            parse(&["--ignore-agents", "--to=7", "--dry-run"]),
            Ok(options(Some(7), true, true))
        );
        for refused in [
            &["--to"] as &[&str],
            &["--to", "x"],
            &["--to=0"],
            &["6"],
            &["--force"],
        ] {
            let says = parse(refused).unwrap_err();
            assert!(says.contains("it takes --to VERSION"), "{says}");
        }
    }

    #[tokio::test]
    async fn a_dry_run_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metadata.db");
        let url = format!("--metadata-url=sqlite:{}", path.display());
        let Ok(AgentInvocation::Command { settings, .. }) =
            load(["migrate".to_owned(), url], [], &["migrate"])
        else {
            panic!("the settings are refused")
        };
        let migrate = async |arguments: &[&str]| {
            let said = RefCell::new(Vec::new());
            run(&settings, &parse(arguments).unwrap(), |line| {
                said.borrow_mut().push(line.to_owned());
            })
            .await
            .unwrap();
            said.into_inner()
        };
        assert_eq!(
            migrate(&["--dry-run", "--to=5"]).await,
            [
                "metadata schema: version 0; this build runs on versions 5 to 7",
                "would be migrated to version 5; nothing was changed"
            ]
        );
        assert!(!path.exists());
        assert_eq!(
            migrate(&["--to", "5"]).await,
            ["metadata schema: version 5 (was 0)"]
        );
        assert_eq!(migrate(&[]).await, ["metadata schema: version 7 (was 5)"]);
        assert_eq!(
            migrate(&["--dry-run"]).await.last().map(String::as_str),
            Some("nothing to migrate")
        );
    }
}
