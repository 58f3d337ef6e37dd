//! The command `user`: gives a user a password, directly in the metadata store. For the first user,
//! before which no client can authenticate; further ones are managed with `streamhouse user`.

use std::path::PathBuf;

use anyhow::Context;
use streamhouse_core::{
    security::{self, KafkaPrincipal, ScramCredential, ScramMechanism},
    settings::AgentSettings,
    time::{Entropy, system_entropy},
};
use streamhouse_metadata::{self as metadata, ScramAlteration, ScramAlterationOutcome, ScramCredentialRow};

use crate::assembly;

/// Arguments of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserOptions {
    name: String,
    password_file: PathBuf,
}

impl UserOptions {
    /// Parses `put NAME --password-file FILE`.
    ///
    /// # Errors
    /// A usage message for any other arguments.
    pub fn parse(arguments: &[String]) -> Result<Self, String> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let (name, file) = match arguments.as_slice() {
            ["put", name, "--password-file", file] | ["put", "--password-file", file, name] => (*name, *file),
            ["put", name, file] => (*name, file.strip_prefix("--password-file=").unwrap_or_default()),
            _ => ("", ""),
        };
        if name.is_empty() || name.starts_with('-') || file.is_empty() {
            return Err(
                "user: the arguments are not understood; it takes put NAME --password-file FILE, with - for stdin"
                    .to_owned(),
            );
        }
        let is_reserved = KafkaPrincipal::user(name).is_ok_and(|principal| principal.is_reserved());
        if is_reserved || name.contains(':') {
            return Err(format!(
                "user: {name:?} cannot be a user's name; it must not be * or ANONYMOUS, nor contain a colon"
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            password_file: file.into(),
        })
    }
}

/// Stores the user, and calls `say` once it can authenticate.
///
/// # Errors
/// If the password cannot be read, or the metadata store fails or has an older schema.
pub async fn run(settings: &AgentSettings, options: &UserOptions, say: impl Fn(&str)) -> anyhow::Result<()> {
    anyhow::ensure!(
        !settings.metadata_url.is_empty(),
        "metadata-url is needed: it names the store that has the users"
    );
    let password = read_password(options)?;
    let entropy = system_entropy();
    let upserts: anyhow::Result<Vec<ScramCredentialRow>> = ScramMechanism::ALL
        .into_iter()
        .map(|mechanism| derive(mechanism, options, &password, entropy.as_ref()))
        .collect();
    let alteration = ScramAlteration {
        upserts: upserts?,
        deletions: Vec::new(),
    };
    assembly::make_data_dir(settings)?;
    let url = settings.metadata_url.expose();
    let store = metadata::connect(url, &assembly::connect_options(settings)).await?;
    let outcomes = store.alter_scram_credentials(&alteration).await?;
    store.close().await?;
    anyhow::ensure!(
        outcomes.get(&options.name) == Some(&ScramAlterationOutcome::Altered),
        "the user was not stored"
    );
    say(&format!(
        "user {} stored; agents know it within seconds",
        options.name
    ));
    Ok(())
}

fn derive(
    mechanism: ScramMechanism,
    options: &UserOptions,
    password: &str,
    entropy: &dyn Entropy,
) -> anyhow::Result<ScramCredentialRow> {
    let credential = ScramCredential::generate(mechanism, password, entropy)?;
    Ok(ScramCredentialRow::new(&options.name, &credential))
}

/// Reads the file without the line break at its end.
fn read_password(options: &UserOptions) -> anyhow::Result<String> {
    let path = &options.password_file;
    let read = if path.as_os_str() == "-" {
        security::read_password(std::io::stdin())
    } else {
        std::fs::File::open(path).and_then(security::read_password)
    };
    let password = read.with_context(|| format!("cannot read the password file {}", path.display()))?;
    anyhow::ensure!(
        !password.is_empty(),
        "the password file {} is empty",
        path.display()
    );
    Ok(password)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use streamhouse_core::settings::{AgentInvocation, load};

    use super::*;

    fn parse(arguments: &[&str]) -> Result<UserOptions, String> {
        UserOptions::parse(&arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_name_and_a_file_are_needed() {
        let alice = UserOptions {
            name: "alice".to_owned(),
            password_file: "/run/password".into(),
        };
        for arguments in [
            &["put", "alice", "--password-file", "/run/password"][..],
            &["put", "--password-file", "/run/password", "alice"],
            &["put", "alice", "--password-file=/run/password"],
        ] {
            assert_eq!(parse(arguments), Ok(alice.clone()));
        }
        for refused in [
            &[][..],
            &["put"],
            &["put", "alice"],
            &["put", "alice", "secret"],
            &["put", "alice", "--password-file="],
            &["put", "--force", "--password-file", "x"],
            &["put", "*", "--password-file", "x"],
            &["put", "ANONYMOUS", "--password-file", "x"],
            &["put", "a:b", "--password-file", "x"],
            &["delete", "alice", "--password-file", "x"],
        ] {
            let problem = parse(refused).unwrap_err();
            assert!(
                problem.starts_with("user: ") && !problem.contains("secret"),
                "{problem}"
            );
        }
    }

    #[tokio::test]
    async fn the_user_has_the_password_of_the_file_by_every_mechanism() {
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("password");
        // Before the first start there is no data directory.
        let data = format!("--data-dir={}", dir.path().join("data").display());
        let settings = match load(["--dev".to_owned(), data], [], &[]) {
            Ok(AgentInvocation::Command { settings, .. }) => *settings,
            other => panic!("{other:?}"),
        };
        let options = UserOptions {
            name: "alice".to_owned(),
            password_file: file.clone(),
        };
        for (content, password) in [("first\n", "first"), (" two words ", " two words ")] {
            std::fs::write(&file, content).unwrap();
            let said = RefCell::new(String::new());
            run(&settings, &options, |line| *said.borrow_mut() = line.to_owned())
                .await
                .unwrap();
            assert_eq!(
                said.into_inner(),
                "user alice stored; agents know it within seconds"
            );
            let url = settings.metadata_url.expose();
            let store = metadata::connect(url, &assembly::connect_options(&settings))
                .await
                .unwrap();
            let stored = store.load_security().await.unwrap().credentials;
            assert_eq!(stored.len(), ScramMechanism::ALL.len());
            for row in stored {
                let keys = streamhouse_core::security::ScramKeys {
                    stored: row.stored_key,
                    server: row.server_key,
                };
                let mechanism = row.mechanism.parse().unwrap();
                let credential = ScramCredential::from_keys(mechanism, row.salt, 4096, keys).unwrap();
                assert!(credential.is_password(password));
            }
        }
        std::fs::write(&file, "\n").unwrap();
        let refused = run(&settings, &options, |_| {}).await.unwrap_err();
        assert!(refused.to_string().contains("is empty"), "{refused}");
        std::fs::write(&file, "x".repeat(security::MAX_PASSWORD_BYTES + 1)).unwrap();
        let refused = run(&settings, &options, |_| {}).await.unwrap_err();
        assert!(format!("{refused:#}").contains("is longer than"), "{refused:#}");
    }
}
