//! The command `backup`: copies an embedded metadata store while agents run. For PostgreSQL it
//! names the tool to use.

use std::path::PathBuf;

use streamhouse_core::settings::AgentSettings;
use streamhouse_metadata as metadata;

use crate::assembly;

/// Arguments of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupOptions {
    to: PathBuf,
}

impl BackupOptions {
    /// Parses `--to FILE`, which is required.
    ///
    /// # Errors
    /// A usage message for any other arguments.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let to = match arguments {
            [name, file] if name == "--to" && !file.is_empty() => file.clone(),
            [joined] => joined.strip_prefix("--to=").unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        if to.is_empty() {
            return Err(format!(
                "backup: {:?} is not understood; it takes --to FILE, a file that does not exist yet",
                arguments.join(" ")
            ));
        }
        Ok(Self { to: to.into() })
    }
}

/// Writes the copy, and calls `say` once it is complete.
///
/// # Errors
/// If the metadata store is PostgreSQL or cannot be copied, or the file exists.
pub async fn run(
    settings: &AgentSettings,
    options: &BackupOptions,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty(),
        "metadata-url is needed: it names the store to copy"
    );
    let url = settings.metadata_url.expose();
    let copied = metadata::backup(url, &assembly::connect_options(settings), &options.to).await?;
    anyhow::ensure!(
        copied,
        "backup copies a SQLite file; the metadata store is PostgreSQL, which has its own tool: \
         pg_dump --format=custom --file={} --dbname=METADATA_URL",
        options.to.display()
    );
    say(&format!("metadata store: copied to {}", options.to.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<BackupOptions, String> {
        BackupOptions::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_file_is_needed() {
        let to = BackupOptions {
            to: "/backups/monday.db".into(),
        };
        assert_eq!(parse(&["--to", "/backups/monday.db"]), Ok(to.clone()));
        assert_eq!(parse(&["--to=/backups/monday.db"]), Ok(to));
        for refused in [
            &[] as &[&str],
            &["--to"],
            &["--to="],
            &["/backups/monday.db"],
            &["--to", "a", "b"],
        ] {
            assert!(parse(refused).unwrap_err().contains("--to FILE"), "{refused:?}");
        }
    }
}
