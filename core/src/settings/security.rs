//! The settings of authentication and authorization.

use crate::security::{KafkaPrincipal, ScramMechanism};

/// How clients may authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SaslMechanism {
    /// The password as it is: for connections with TLS.
    Plain,
    /// A proof of the password by SHA-256.
    ScramSha256,
    /// A proof of the password by SHA-512.
    ScramSha512,
    /// A token of an identity provider: for connections with TLS.
    OAuthBearer,
}

impl SaslMechanism {
    /// Every mechanism.
    pub const ALL: [Self; 4] = [
        Self::Plain,
        Self::ScramSha256,
        Self::ScramSha512,
        Self::OAuthBearer,
    ];

    /// Returns the registered name, such as `SCRAM-SHA-256`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => ScramMechanism::Sha256.name(),
            Self::ScramSha512 => ScramMechanism::Sha512.name(),
            Self::OAuthBearer => "OAUTHBEARER",
        }
    }

    /// Returns whether clients prove to know a password.
    pub const fn is_by_password(self) -> bool {
        match self {
            Self::Plain | Self::ScramSha256 | Self::ScramSha512 => true,
            Self::OAuthBearer => false,
        }
    }
}

/// What decides what authenticated clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// Nothing: every client may do everything.
    None,
    /// Access control lists: a client may do what they or their being a super user allow.
    Acl,
}

/// Reads a list of mechanisms; an empty one switches authentication off.
pub(super) fn parse_mechanisms(text: &str) -> Result<Vec<SaslMechanism>, String> {
    let mut mechanisms = Vec::new();
    for name in parts(text, ',') {
        let mut known = SaslMechanism::ALL.into_iter();
        let mechanism = known.find(|mechanism| mechanism.name().eq_ignore_ascii_case(name));
        let mechanism = mechanism.ok_or_else(|| {
            let known = SaslMechanism::ALL.map(SaslMechanism::name).join(", ");
            format!("{name:?} is no mechanism; choose from {known}")
        })?;
        if !mechanisms.contains(&mechanism) {
            mechanisms.push(mechanism);
        }
    }
    Ok(mechanisms)
}

/// Reads a list of principals, with semicolons between them: a name may have a comma.
pub(super) fn parse_principals(text: &str) -> Result<Vec<KafkaPrincipal>, String> {
    let principals = parts(text, ';').map(|principal| {
        let principal: KafkaPrincipal = principal.parse().map_err(|problem| format!("{problem}"))?;
        if principal.is_reserved() {
            return Err(format!("{principal} cannot be a super user: it is not one user"));
        }
        Ok(principal)
    });
    principals.collect()
}

pub(super) fn parse_authorization(text: &str) -> Result<AuthorizationMode, String> {
    match text {
        "none" => Ok(AuthorizationMode::None),
        "acl" => Ok(AuthorizationMode::Acl),
        other => Err(format!("{other:?} is neither none nor acl")),
    }
}

fn parts(text: &str, separator: char) -> impl Iterator<Item = &str> {
    text.split(separator)
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_read_by_their_names() {
        assert_eq!(parse_mechanisms(""), Ok(Vec::new()));
        let two = parse_mechanisms("scram-sha-512, PLAIN,plain");
        assert_eq!(two, Ok(vec![SaslMechanism::ScramSha512, SaslMechanism::Plain]));
        let problem = parse_mechanisms("GSSAPI").unwrap_err();
        assert!(problem.contains("SCRAM-SHA-256"), "{problem}");
    }

    #[test]
    fn super_users_are_principals_of_one_user() {
        let two = parse_principals("User:admin; User:CN=ops,O=shop").unwrap();
        assert_eq!(two[1].to_string(), "User:CN=ops,O=shop");
        for wrong in ["admin", "User:*", "User:ANONYMOUS"] {
            assert!(parse_principals(wrong).is_err(), "{wrong}");
        }
    }
}
