//! Validates authentication and authorization, and translates them to settings of the agents. A
//! setting that the spec does not determine is left out: agents of an older release refuse
//! variables that they do not know.

use serde_json::json;

use super::{listener_ports::OwnListeners, secret_key};
use crate::{
    cluster::{
        desired::{DesiredListener, DesiredRoute, ListenerPort, SecretKeySelector},
        problem::ClusterProblem,
    },
    crd::{AuthenticationMechanism, AuthenticationSpec, AuthorizationType, ClusterSpec, ListenerType},
};

/// Settings of the agents about their clients' identities and rights.
#[derive(Debug, Default)]
pub(super) struct AccessSettings {
    /// Values by the name of the setting.
    pub(super) values: Vec<(&'static str, String)>,
    /// Key of the super users, if they are in a Secret.
    pub(super) super_users: Option<SecretKeySelector>,
    /// Content of the agents' OAuth file, if they accept tokens.
    pub(super) oauth_file: Option<String>,
}

/// Returns the settings of the spec.
pub(super) fn access_settings(
    spec: &ClusterSpec,
    own: &OwnListeners,
    further: &[DesiredListener],
) -> Result<AccessSettings, ClusterProblem> {
    let mut settings = AccessSettings::default();
    if let Some(authentication) = &spec.authentication {
        let mechanisms = &authentication.mechanisms;
        if mechanisms.is_empty() {
            return refuse(
                "spec.authentication.mechanisms: name at least one mechanism, such as SCRAM-SHA-512",
            );
        }
        for (mechanism, sent) in [
            (AuthenticationMechanism::Plain, "passwords"),
            (AuthenticationMechanism::OAuthBearer, "tokens"),
        ] {
            if mechanisms.contains(&mechanism) {
                require_tls((mechanism.as_str(), sent), own, further)?;
            }
        }
        settings.oauth_file = oauth_file(authentication)?;
        let names: Vec<&str> = mechanisms.iter().map(|mechanism| mechanism.as_str()).collect();
        settings.values.push(("authentication", names.join(",")));
    }
    if spec.authentication.is_none() {
        require_authentication(spec)?;
    }
    let Some(authorization) = &spec.authorization else {
        return Ok(settings);
    };
    if authorization.type_ == AuthorizationType::Acl && spec.authentication.is_none() {
        return refuse(
            "spec.authorization requires spec.authentication: without it every client is User:ANONYMOUS; set spec.authentication.mechanisms",
        );
    }
    settings
        .values
        .push(("authorization", authorization.type_.as_str().to_owned()));
    let users = &authorization.super_users;
    settings.super_users = authorization
        .super_users_secret
        .as_ref()
        .map(|secret| secret_key(secret, "superUsers"));
    if !users.is_empty() && settings.super_users.is_some() {
        return refuse(
            "spec.authorization: superUsers and superUsersSecret are the same setting: set only one",
        );
    }
    if !users.is_empty() {
        settings.values.push(("super-users", users.join(";")));
    }
    Ok(settings)
}

/// Returns the content of the agents' OAuth file; `None` if they accept no tokens.
fn oauth_file(authentication: &AuthenticationSpec) -> Result<Option<String>, ClusterProblem> {
    let takes_tokens = authentication
        .mechanisms
        .contains(&AuthenticationMechanism::OAuthBearer);
    let oauth = match (takes_tokens, &authentication.oauth) {
        (true, Some(oauth)) => oauth,
        (false, None) => return Ok(None),
        (true, None) => {
            return refuse(
                "spec.authentication.mechanisms: OAUTHBEARER requires spec.authentication.oauth, which says whose tokens are accepted",
            );
        }
        (false, Some(_)) => {
            return refuse(
                "spec.authentication.oauth requires the mechanism OAUTHBEARER: add it, or remove oauth",
            );
        }
    };
    let claim = oauth.principal_claim.as_deref();
    if oauth.issuer.is_empty() || oauth.audience.is_empty() || claim == Some("") {
        return refuse("spec.authentication.oauth: issuer, audience and principalClaim must not be empty");
    }
    let address = oauth.jwks_url.strip_prefix("https://").unwrap_or_default();
    if address.is_empty() || address.contains(|c: char| c == '@' || c.is_whitespace()) {
        return refuse(
            "spec.authentication.oauth.jwksUrl must begin with https://, without a user or password",
        );
    }
    let mut file = json!({
        "issuer": oauth.issuer, "audience": oauth.audience, "jwksUrl": oauth.jwks_url,
    });
    if let Some(claim) = claim {
        file["principalClaim"] = json!(claim);
    }
    // JSON is YAML too.
    Ok(Some(format!("{file:#}\n")))
}

/// What clients reach from outside of the Kubernetes cluster is open to everybody only on purpose.
fn require_authentication(spec: &ClusterSpec) -> Result<(), ClusterProblem> {
    let mut listeners = spec.listeners.additional.iter();
    let open = listeners
        .find(|listener| listener.type_ != ListenerType::Internal && !listener.unsafe_without_authentication);
    match open {
        None => Ok(()),
        Some(listener) => refuse(&format!(
            "spec.listeners.additional[{}] is reachable from outside of the Kubernetes cluster without authentication: set spec.authentication, or unsafeWithoutAuthentication of the listener",
            listener.name
        )),
    }
}

/// Passwords and tokens must not pass a network as they are. Requests that a proxy routes have its
/// TLS, which for an Ingress is part of the spec.
fn require_tls(
    (mechanism, sent): (&str, &str),
    own: &OwnListeners,
    further: &[DesiredListener],
) -> Result<(), ClusterProblem> {
    let missing_tls = |field: &str, port: &ListenerPort| (!port.has_tls()).then(|| format!("{field}.tls"));
    let kafka = own.kafka.iter();
    let kafka = kafka.map(|port| missing_tls("spec.listeners.kafka", port));
    let further = further.iter().map(|listener| {
        let name = format!("spec.listeners.additional[{}]", listener.name);
        match &listener.route {
            Some(DesiredRoute::Gateway { .. }) => None,
            Some(DesiredRoute::Ingress { tls_secret, .. }) => {
                let is_plain = tls_secret.is_none() && !listener.port.has_tls();
                is_plain.then(|| format!("{name}.ingress.tlsSecretName"))
            }
            None => missing_tls(&name, &listener.port),
        }
    });
    let mut missing = std::iter::once(missing_tls("spec.listeners.grpc", &own.grpc))
        .chain(kafka)
        .chain(further)
        .flatten();
    match missing.next() {
        None => Ok(()),
        Some(field) => refuse(&format!(
            "spec.authentication.mechanisms: {mechanism} sends {sent} as they are: set {field}, or use SCRAM-SHA-512"
        )),
    }
}

fn refuse<T>(message: &str) -> Result<T, ClusterProblem> {
    Err(ClusterProblem::invalid_spec(message))
}

#[cfg(test)]
mod tests {
    use crate::cluster::fixtures::{desired_with, problem_with};

    #[test]
    fn agents_are_given_only_what_the_spec_says() {
        let variables = desired_with("").variables;
        for name in ["AUTHENTICATION", "AUTHORIZATION", "SUPER_USERS"] {
            assert!(!variables.contains_key(&format!("STREAMHOUSE_{name}")), "{name}");
        }
        let desired = desired_with(
            "authentication: {mechanisms: [SCRAM-SHA-512, SCRAM-SHA-256]}
authorization: {type: acl, superUsers: ['User:admin', 'User:CN=ops,O=shop']}",
        );
        let variable = |name: &str| desired.variables[&format!("STREAMHOUSE_{name}")].clone();
        assert_eq!(variable("AUTHENTICATION"), "SCRAM-SHA-512,SCRAM-SHA-256");
        assert_eq!(variable("AUTHORIZATION"), "acl");
        assert_eq!(variable("SUPER_USERS"), "User:admin;User:CN=ops,O=shop");
    }

    #[test]
    fn super_users_may_be_in_a_secret_which_is_read_at_start() {
        let access = "authentication: {mechanisms: [SCRAM-SHA-512]}\n";
        let desired = desired_with(&format!(
            "{access}authorization: {{type: acl, superUsersSecret: {{name: operators}}}}"
        ));
        assert!(!desired.variables.contains_key("STREAMHOUSE_SUPER_USERS"));
        let secret = desired.super_users.as_ref().unwrap();
        assert_eq!(
            (secret.name.as_str(), secret.key.as_str()),
            ("operators", "superUsers")
        );
        let needed = desired.required_secrets();
        assert!(
            needed
                .iter()
                .any(|secret| secret.name == "operators" && secret.restarts)
        );
        let problem = problem_with(&format!(
            "{access}authorization: {{type: acl, superUsers: ['User:a'], superUsersSecret: {{name: operators}}}}"
        ));
        assert!(problem.message.contains("set only one"), "{problem}");
    }

    #[test]
    fn a_listener_to_the_outside_needs_authentication_or_the_explicit_word() {
        let listener = |more: &str| {
            format!("listeners: {{additional: [{{name: outside, type: nodeport, port: 9094{more}}}]}}\n")
        };
        let problem = problem_with(&listener(""));
        assert!(problem.message.contains("additional[outside]"), "{problem}");
        assert!(
            problem.message.contains("unsafeWithoutAuthentication"),
            "{problem}"
        );
        let open = desired_with(&listener(", unsafeWithoutAuthentication: true"));
        assert!(!open.authenticates());
        let mechanisms = "authentication: {mechanisms: [SCRAM-SHA-512]}";
        assert!(desired_with(&(listener("") + mechanisms)).authenticates());
        let inside = "listeners: {additional: [{name: inside, type: internal, port: 9094}]}";
        assert!(!desired_with(inside).authenticates());
    }

    #[test]
    fn tokens_need_their_identity_provider() {
        let tls = "listeners: {grpc: {tls: {secretName: certificate}}}\n";
        let oauth = "issuer: 'https://id.example', audience: streamhouse, jwksUrl: 'https://id.example/keys'";
        let spec = |mechanisms: &str, oauth: &str| {
            format!("{tls}authentication: {{mechanisms: [{mechanisms}], oauth: {{{oauth}}}}}")
        };
        let desired = desired_with(&spec("OAUTHBEARER, SCRAM-SHA-512", oauth));
        assert_eq!(
            desired.variables["STREAMHOUSE_AUTHENTICATION"],
            "OAUTHBEARER,SCRAM-SHA-512"
        );
        assert!(!desired.variables.contains_key("STREAMHOUSE_OAUTH_FILE"));
        let file: serde_json::Value = serde_json::from_str(desired.oauth_file.as_ref().unwrap()).unwrap();
        assert_eq!(file["jwksUrl"], "https://id.example/keys");
        assert!(file.get("principalClaim").is_none());
        let missing = format!("{tls}authentication: {{mechanisms: [OAUTHBEARER]}}");
        let plain = spec("OAUTHBEARER", oauth).replace(tls, "");
        for (spec, expected) in [
            (missing, "requires spec.authentication.oauth"),
            (
                plain,
                "OAUTHBEARER sends tokens as they are: set spec.listeners.grpc.tls",
            ),
            (spec("PLAIN", oauth), "requires the mechanism OAUTHBEARER"),
            (
                spec(
                    "OAUTHBEARER",
                    &oauth.replace("https://id.example/keys", "http://id.example/keys"),
                ),
                "must begin with https://",
            ),
            (
                spec("OAUTHBEARER", &oauth.replace("streamhouse", "''")),
                "must not be empty",
            ),
        ] {
            let problem = problem_with(&spec);
            assert!(problem.message.contains(expected), "{spec}: {problem}");
        }
    }

    #[test]
    fn what_agents_would_refuse_is_a_problem_that_says_what_to_do() {
        let tls = "tls: {secretName: certificate}";
        for (spec, expected) in [
            ("authorization: {type: acl}".to_owned(), "set spec.authentication.mechanisms"),
            (
                "authentication: {mechanisms: [SCRAM-SHA-512]}\nauthorization: {type: acl, superUsers: [admin]}".to_owned(),
                "super-users",
            ),
            ("authentication: {mechanisms: []}".to_owned(), "at least one mechanism"),
            ("authentication: {mechanisms: [PLAIN]}".to_owned(), "set spec.listeners.grpc.tls"),
            (
                format!("authentication: {{mechanisms: [PLAIN]}}\nlisteners: {{grpc: {{{tls}}}, kafka: {{enabled: true}}}}"),
                "set spec.listeners.kafka.tls",
            ),
            (
                format!("authentication: {{mechanisms: [PLAIN]}}\nlisteners: {{grpc: {{{tls}}}, additional: [{{name: a, type: internal, port: 9100}}]}}"),
                "set spec.listeners.additional[a].tls",
            ),
            (
                format!("authentication: {{mechanisms: [PLAIN]}}\nlisteners: {{grpc: {{{tls}}}, additional: [{{name: a, type: ingress, port: 9100, bootstrap: {{host: a.example}}}}]}}"),
                "set spec.listeners.additional[a].ingress.tlsSecretName",
            ),
        ] {
            let problem = problem_with(&spec);
            assert!(problem.message.contains(expected), "{spec}: {problem}");
        }
        for listeners in [
            format!("kafka: {{enabled: true, {tls}}}"),
            "additional: [{name: a, type: ingress, port: 9100, bootstrap: {host: a.example}, ingress: {tlsSecretName: b}}]".to_owned(),
        ] {
            let with_tls = format!(
                "authentication: {{mechanisms: [PLAIN]}}\nlisteners: {{grpc: {{{tls}}}, {listeners}}}"
            );
            let desired = desired_with(&with_tls);
            assert_eq!(desired.variables["STREAMHOUSE_AUTHENTICATION"], "PLAIN");
        }
        let none = desired_with("authorization: {type: none}");
        assert_eq!(none.variables["STREAMHOUSE_AUTHORIZATION"], "none");
    }
}
