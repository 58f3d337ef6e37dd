//! Where passwords come from: files, standard input, the terminal and one environment variable,
//! never an argument, which other users of the machine can see.

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal as _},
    path::Path,
};

use console::Term;
use streamhouse_client::ClientCredentials;
use streamhouse_core::security::read_password;

use crate::{
    command_error::{CommandError, CommandResult},
    terminal::escape_for_stderr,
    values,
};

/// The value of the variable `STREAMHOUSE_PASSWORD`, which no debug output shows.
#[derive(Clone, Default)]
pub(crate) struct PasswordVariable(String);

impl PasswordVariable {
    /// The variable with the password of the user that calls.
    pub(crate) const NAME: &str = "STREAMHOUSE_PASSWORD";

    /// Creates it from the variable's value.
    pub(crate) fn new(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for PasswordVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PasswordVariable").finish_non_exhaustive()
    }
}

/// Returns the credentials of `--user` or `--token-file`; `None` without one.
///
/// # Errors
/// Fails if there are both, or a user without a password, or the password cannot be read.
pub(crate) fn own_credentials(
    user: Option<&str>,
    password_file: Option<&Path>,
    token_file: Option<&Path>,
    variable: &PasswordVariable,
) -> CommandResult<Option<ClientCredentials>> {
    let user = values::trim_option("--user", user.unwrap_or_default())?;
    if let Some(path) = token_file.filter(|path| !path.as_os_str().is_empty()) {
        return match user.is_empty() {
            true => Ok(Some(ClientCredentials::from_token_file(path))),
            false => Err(CommandError::usage("give --user or --token-file, not both")),
        };
    }
    let file = password_file.filter(|path| !path.as_os_str().is_empty());
    if user.is_empty() {
        return match file {
            None => Ok(None),
            Some(_) => Err(CommandError::usage(
                "--password-file needs --user, whose password it has",
            )),
        };
    }
    let password = match file {
        Some(path) => read_file("--password-file", path)?,
        None => read_password(variable.0.as_bytes())
            .map_err(|error| CommandError::usage(format!("{}: {error}", PasswordVariable::NAME)))?,
    };
    if password.is_empty() {
        return Err(CommandError::usage(format!(
            "--user needs a password: give --password-file, or set {}",
            PasswordVariable::NAME
        )));
    }
    Ok(Some(ClientCredentials::new(user, password)))
}

/// Returns the password that another user gets: of a file, of standard input, or asked for twice on
/// a terminal.
///
/// # Errors
/// Fails if it cannot be read, is empty, or was repeated wrongly.
pub(crate) fn new_password(user: &str, file: Option<&Path>) -> CommandResult<String> {
    let password = match file {
        Some(path) if path.as_os_str() != "-" => read_file("--new-password-file", path)?,
        None if io::stdin().is_terminal() => ask_twice(user)?,
        _ => read_password(io::stdin())
            .map_err(|error| CommandError::failed(format!("cannot read the password from stdin: {error}")))?,
    };
    if password.is_empty() {
        return Err(CommandError::usage("the new password is empty"));
    }
    Ok(password)
}

fn ask_twice(user: &str) -> CommandResult<String> {
    let terminal = Term::stderr();
    let ask = |prompt: String| {
        terminal.write_str(&prompt)?;
        terminal.read_secure_line()
    };
    let first = ask(format!("New password of {}: ", escape_for_stderr(user)))?;
    if ask("Again: ".to_owned())? != first {
        return Err(CommandError::usage("the passwords differ"));
    }
    Ok(first)
}

fn read_file(option: &str, path: &Path) -> CommandResult<String> {
    let read = File::open(path).and_then(read_password);
    read.map_err(|error| CommandError::usage(format!("cannot read {option} {}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use streamhouse_core::security::MAX_PASSWORD_BYTES;

    use super::*;

    #[test]
    fn a_password_comes_from_its_file_without_the_line_break() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, " two words \r\n").unwrap();
        let none = PasswordVariable::default();
        let credentials = own_credentials(Some("alice\n"), Some(&path), None, &none).unwrap();
        assert_eq!(credentials, Some(ClientCredentials::new("alice", " two words ")));
        assert_eq!(new_password("bob", Some(&path)).unwrap(), " two words ");
        assert_eq!(own_credentials(None, None, None, &none).unwrap(), None);
        assert_eq!(own_credentials(Some(""), None, None, &none).unwrap(), None);
    }

    #[test]
    fn a_token_file_takes_the_place_of_a_user() {
        let (path, none) = (Path::new("token"), PasswordVariable::default());
        let credentials = own_credentials(None, None, Some(path), &none).unwrap();
        assert_eq!(credentials, Some(ClientCredentials::from_token_file("token")));
        let error = own_credentials(Some("alice"), None, Some(path), &none).unwrap_err();
        assert!(
            matches!(&error, CommandError::Usage(message) if message.contains("not both")),
            "{error}"
        );
        assert_eq!(
            own_credentials(None, None, Some(Path::new("")), &none).unwrap(),
            None
        );
    }

    #[test]
    fn the_variable_is_used_without_a_file_and_never_shown() {
        let variable = PasswordVariable::new("hunter2\n".to_owned());
        let credentials = own_credentials(Some("alice"), None, None, &variable).unwrap();
        assert_eq!(credentials, Some(ClientCredentials::new("alice", "hunter2")));
        assert!(!format!("{variable:?}").contains("hunter2"));
    }

    #[test]
    fn a_password_that_is_too_long_is_refused_and_not_cut() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("password");
        let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
        std::fs::write(&path, &long).unwrap();
        let variable = PasswordVariable::new(long);
        for error in [
            own_credentials(Some("alice"), Some(&path), None, &PasswordVariable::default()).unwrap_err(),
            own_credentials(Some("alice"), None, None, &variable).unwrap_err(),
            new_password("bob", Some(&path)).unwrap_err(),
        ] {
            assert!(
                matches!(&error, CommandError::Usage(message) if message.contains("is longer than")),
                "{error}"
            );
        }
    }

    #[test]
    fn half_of_the_credentials_is_a_usage_error() {
        let missing = Path::new("/nowhere/password");
        for (user, file, told) in [
            (None, Some(missing), "needs --user"),
            (Some("alice"), Some(missing), "cannot read --password-file"),
            (Some("alice"), None, "--user needs a password"),
        ] {
            let error = own_credentials(user, file, None, &PasswordVariable::default()).unwrap_err();
            assert!(
                matches!(&error, CommandError::Usage(message) if message.contains(told)),
                "{error}"
            );
        }
    }
}
