//! Parses a PostgreSQL address.
//!
//! Refuses what the driver would misread or ignore and names it: a password that is not
//! percent-encoded, several hosts, an unknown parameter. No message contains any part of a
//! password.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

use crate::{Error, Result};

/// The parameters that an address may have: those of the driver.
const KNOWN_PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
];

/// A parsed address.
#[derive(Debug, Clone)]
pub(super) struct PostgresAddress {
    /// The host, the database and the credentials.
    pub(super) settings: PgConnectOptions,
    /// Whether the address contains `statement-cache-capacity=0`, which declares a connection
    /// pooler that may run each transaction on another server connection.
    pub(super) pooled: bool,
}

impl FromStr for PostgresAddress {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let parts = AddressParts::split(url);
        if parts.has_stray_password() {
            return Err(unencoded_password_error());
        }
        if parts.hosts().contains(',') {
            return Err(address_error(
                "it names several hosts: name one host only, such as that of the primary's service or of a pooler",
            ));
        }
        for (name, value) in parts.parameters() {
            if !KNOWN_PARAMETERS.contains(&name) && name != "options" && !name.starts_with("options[") {
                return Err(unknown_parameter_error(name));
            }
            if matches!(name, "host" | "hostaddr") && value.contains(',') {
                return Err(address_error(
                    "its parameter host names several hosts: name one host only",
                ));
            }
        }
        let settings = PgConnectOptions::from_str(url).map_err(|error| match error {
            sqlx::Error::Configuration(inner) if inner.to_string() == "invalid port number" => {
                if parts.user_info().is_some() {
                    address_error("the text after the host's colon is no port number")
                } else {
                    unencoded_password_error()
                }
            }
            sqlx::Error::Configuration(inner) => address_error(&inner.to_string()),
            other => address_error(&other.to_string()),
        })?;
        let pooled = parts
            .parameters()
            .any(|(name, value)| name == "statement-cache-capacity" && value == "0");
        Ok(Self { settings, pooled })
    }
}

fn address_error(problem: &str) -> Error {
    Error::InvalidAddress(format!(
        "the PostgreSQL address cannot be used: {problem}; expected postgres://user:password@host:port/database"
    ))
}

fn unencoded_password_error() -> Error {
    address_error(
        "in a user name or a password, these characters must be percent-encoded: # is %23, / is %2F, ? is %3F, : is %3A, \
         @ is %40, % is %25",
    )
}

fn unknown_parameter_error(name: &str) -> Error {
    // Do not show a name that may be a piece of a password.
    let shown = if name.len() <= 40
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    {
        format!("its parameter {name} is not known")
    } else {
        "it has a parameter that is not known".to_owned()
    };
    address_error(&format!(
        "{shown} and would be ignored: remove it (known parameters are {}, options)",
        KNOWN_PARAMETERS.join(", ")
    ))
}

/// The parts of an address as they are written.
struct AddressParts<'a> {
    /// The user, password, host and port.
    authority: &'a str,
    /// The database.
    path: &'a str,
    query: &'a str,
    fragment: Option<&'a str>,
}

impl<'a> AddressParts<'a> {
    fn split(url: &'a str) -> Self {
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        let (rest, fragment) = match rest.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (rest, None),
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        Self {
            authority,
            path,
            query,
            fragment,
        }
    }

    fn user_info(&self) -> Option<&'a str> {
        self.authority.rsplit_once('@').map(|(user_info, _)| user_info)
    }

    fn hosts(&self) -> &'a str {
        self.authority
            .rsplit_once('@')
            .map_or(self.authority, |(_, hosts)| hosts)
    }

    /// Returns whether an `@` or `#` occurs where none belongs: a character of the password ended
    /// the authority early.
    fn has_stray_password(&self) -> bool {
        let began = self.user_info().is_none() && self.authority.contains(':');
        self.fragment.is_some() || self.path.contains('@') || (began && self.query.contains('@'))
    }

    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        match url.parse::<PostgresAddress>() {
            Err(Error::InvalidAddress(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_password_that_is_not_encoded_is_named_and_not_shown() {
        for password in [
            "sEcR#eT",
            "sEcR/eT",
            "sEcR?eT",
            "12#eT",
            "12/eT",
            "12?eT",
            "sEcR?x=eT",
            "sE:c/eT",
            "a@b/eT",
            "#eT",
        ] {
            let message = refusal(&format!(
                "postgres://streamhouse:{password}@localhost:5432/metadata"
            ));
            assert!(
                message.contains("percent-encoded: # is %23"),
                "{password}: {message}"
            );
            assert!(
                !message.contains(password) && !message.contains("eT"),
                "{message}"
            );
        }
        let encoded = "postgres://streamhouse:a%23b%2Fc%3Fd%40e%25@localhost:5432/metadata";
        encoded.parse::<PostgresAddress>().unwrap();
    }

    #[test]
    fn more_than_one_host_is_refused_by_name() {
        for hosts in ["one:5432,two:5432", "one,two", "one,two:5432"] {
            let message = refusal(&format!("postgres://streamhouse:sEcReT@{hosts}/metadata"));
            assert!(message.contains("name one host only"), "{message}");
            assert!(!message.contains("sEcReT"), "{message}");
        }
        let message = refusal("postgres:///metadata?host=one,two");
        assert!(message.contains("name one host only"), "{message}");
    }

    #[test]
    fn a_parameter_that_would_be_ignored_is_refused_by_name() {
        let message = refusal("postgres://u:sEcReT@h/d?sslmode=require&target_session_attrs=read-write");
        assert!(
            message.contains("its parameter target_session_attrs is not known"),
            "{message}"
        );
        assert!(!message.contains("sEcReT"), "{message}");
        "postgres://u:p@h/d?sslmode=require&options=-c%20search_path%3Ds&options[geqo]=off&application_name=x"
            .parse::<PostgresAddress>()
            .unwrap();
    }

    #[test]
    fn a_port_that_is_none_is_named() {
        let message = refusal("postgres://u:sEcReT@h:port/d");
        assert!(message.contains("no port number"), "{message}");
    }

    #[test]
    fn no_statement_cache_means_a_pooler() {
        let address: PostgresAddress = "postgres://u:p@h/d?statement-cache-capacity=0".parse().unwrap();
        assert!(address.pooled);
        assert!(!"postgres://u:p@h/d".parse::<PostgresAddress>().unwrap().pooled);
    }
}
