//! Authentication by each mechanism, revocation, and what a snapshot allows.

use streamhouse_core::{
    security::{AclOperation, AclResourceType, ScramClient},
    time::system_entropy,
};
use streamhouse_metadata::{AclRow, ScramCredentialRow, SecuritySnapshot};

use super::*;

const PASSWORD: &str = "correct horse";

fn acl(principal: &str, name: &str, operation: &str, permission: &str) -> AclRow {
    AclRow {
        principal: principal.to_owned(),
        resource_type: "TOPIC".to_owned(),
        resource_name: name.to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: operation.to_owned(),
        permission: permission.to_owned(),
    }
}

/// Returns a snapshot with the user `alice`, who has one password for both mechanisms.
fn snapshot(password: &str, acls: Vec<AclRow>) -> SecuritySnapshot {
    let credentials = [ScramMechanism::Sha256, ScramMechanism::Sha512].map(|mechanism| {
        let credential = ScramCredential::derive(mechanism, password, b"salt".to_vec(), 4096).unwrap();
        ScramCredentialRow::new("alice", &credential)
    });
    SecuritySnapshot {
        version: 1,
        credentials: credentials.to_vec(),
        acls,
        quotas: Vec::new(),
    }
}

fn security(with: impl FnOnce(&mut AgentSettings)) -> Arc<ClientSecurity> {
    let mut settings = AgentSettings::defaults(true);
    settings.authentication = SaslMechanism::ALL.to_vec();
    with(&mut settings);
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    Arc::new(ClientSecurity::new(&settings, system_entropy(), metrics))
}

fn with_acls(settings: &mut AgentSettings) {
    settings.authorization = AuthorizationMode::Acl;
    settings.super_users = vec!["User:admin".parse().unwrap()];
}

async fn plain(security: &Arc<ClientSecurity>, user: &str, password: &str) -> Result<ClientIdentity, Error> {
    let exchange = SaslExchange::begin(security, "PLAIN", None).unwrap();
    match exchange
        .respond(format!("\0{user}\0{password}").as_bytes())
        .await?
    {
        SaslProgress::Done(identity, _) => Ok(identity),
        SaslProgress::Continue(..) => panic!("PLAIN has one message"),
    }
}

async fn scram(
    security: &Arc<ClientSecurity>,
    mechanism: ScramMechanism,
    user: &str,
    password: &str,
) -> Result<ClientIdentity, Error> {
    let client = ScramClient::new(mechanism, user, password, system_entropy().as_ref()).unwrap();
    let exchange = SaslExchange::begin(security, mechanism.name(), None).unwrap();
    let SaslProgress::Continue(exchange, challenge) =
        exchange.respond(client.first_message().as_bytes()).await?
    else {
        panic!("nothing is proven yet");
    };
    let proof = client.respond(&challenge).unwrap();
    let SaslProgress::Done(identity, signature) = exchange.respond(proof.message().as_bytes()).await? else {
        panic!("the exchange has two messages");
    };
    proof.verify(&signature).unwrap();
    Ok(identity)
}

#[tokio::test]
async fn the_right_password_authenticates_by_every_mechanism_and_a_wrong_one_by_none() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    for mechanism in [ScramMechanism::Sha256, ScramMechanism::Sha512] {
        let identity = scram(&security, mechanism, "alice", PASSWORD).await.unwrap();
        assert_eq!(identity.principal().to_string(), "User:alice");
        for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD)] {
            let error = scram(&security, mechanism, user, password).await.unwrap_err();
            assert_eq!(error.code(), ErrorCode::SaslAuthenticationFailed);
            assert!(!error.message().contains(user), "{}", error.message());
        }
    }
    for _ in 0..2 {
        let identity = plain(&security, "alice", PASSWORD).await.unwrap();
        assert_eq!(identity.principal().to_string(), "User:alice");
    }
    for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD), ("", ""), ("alice", "")] {
        let error = plain(&security, user, password).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::SaslAuthenticationFailed, "{user}");
    }
}

#[tokio::test]
async fn a_password_that_is_replaced_during_an_exchange_does_not_end_it_well() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    for (replaced, code) in [
        (
            snapshot("another", Vec::new()),
            ErrorCode::SaslAuthenticationFailed,
        ),
        (SecuritySnapshot::default(), ErrorCode::SaslAuthenticationFailed),
    ] {
        security.replace(snapshot(PASSWORD, Vec::new()));
        let mechanism = ScramMechanism::Sha512;
        let client = ScramClient::new(mechanism, "alice", PASSWORD, system_entropy().as_ref()).unwrap();
        let exchange = SaslExchange::begin(&security, mechanism.name(), None).unwrap();
        let begun = exchange.respond(client.first_message().as_bytes()).await.unwrap();
        let SaslProgress::Continue(exchange, challenge) = begun else {
            panic!("nothing is proven yet");
        };
        security.replace(replaced);
        let proof = client.respond(&challenge).unwrap();
        let refused = exchange.respond(proof.message().as_bytes()).await.unwrap_err();
        assert_eq!(refused.code(), code);
    }
}

#[tokio::test]
async fn only_mechanisms_that_are_offered_begin() {
    let security = security(|settings| settings.authentication = vec![SaslMechanism::ScramSha512]);
    assert!(SaslExchange::begin(&security, "SCRAM-SHA-512", None).is_some());
    for other in ["SCRAM-SHA-256", "PLAIN", "GSSAPI", "scram-sha-512", ""] {
        assert!(SaslExchange::begin(&security, other, None).is_none(), "{other}");
    }
}

#[tokio::test]
async fn nobody_authenticates_before_the_users_are_known() {
    let security = security(with_acls);
    let error = plain(&security, "alice", PASSWORD).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::MetadataUnavailable);
    let access = security.anonymous(None);
    assert!(!access.allows(AclOperation::Read, AclResourceType::Topic, "orders"));
    assert!(!access.allows_some(AclOperation::Read, AclResourceType::Topic));
}

#[tokio::test]
async fn another_password_or_none_ends_what_the_old_one_began() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    let identity = plain(&security, "alice", PASSWORD).await.unwrap();
    let access = security.access(identity, None);
    assert!(access.is_current());
    security.replace(snapshot(
        PASSWORD,
        vec![acl("User:alice", "orders", "READ", "ALLOW")],
    ));
    assert!(access.is_current(), "an ACL is no credential");
    security.replace(snapshot("another", Vec::new()));
    assert!(!access.is_current());
    assert!(
        plain(&security, "alice", PASSWORD).await.is_err(),
        "what was remembered does not count"
    );
    security.replace(SecuritySnapshot::default());
    assert!(!access.is_current());
    assert!(security.anonymous(None).is_current());
}

#[tokio::test]
async fn acls_decide_and_super_users_need_none() {
    let security = security(with_acls);
    let acls = vec![
        acl("User:alice", "orders", "READ", "ALLOW"),
        acl("User:*", "secret", "ALL", "DENY"),
        acl("User:*", "secret", "READ", "ALLOW"),
    ];
    security.replace(snapshot(PASSWORD, acls));
    let alice = security.access(plain(&security, "alice", PASSWORD).await.unwrap(), None);
    assert!(alice.allows(AclOperation::Describe, AclResourceType::Topic, "orders"));
    assert!(alice.allows_some(AclOperation::Read, AclResourceType::Topic));
    alice.check_topic(AclOperation::Read, "orders").unwrap();
    let refused = |result: Result<(), Error>| result.unwrap_err().code();
    assert_eq!(
        refused(alice.check_topic(AclOperation::Write, "orders")),
        ErrorCode::TopicAuthorizationFailed
    );
    assert_eq!(
        refused(alice.check_topic(AclOperation::Read, "secret")),
        ErrorCode::TopicAuthorizationFailed
    );
    assert_eq!(
        refused(alice.check_group(AclOperation::Read, "g")),
        ErrorCode::GroupAuthorizationFailed
    );
    assert_eq!(
        refused(alice.check_cluster(AclOperation::Alter)),
        ErrorCode::ClusterAuthorizationFailed
    );
    let admin = security.access(ClientIdentity::forwarded("User:admin".parse().unwrap()), None);
    admin.check_cluster(AclOperation::Alter).unwrap();
    admin.check_topic(AclOperation::Read, "secret").unwrap();
}

#[tokio::test]
async fn an_acl_of_a_newer_build_that_may_deny_denies_everything() {
    let security = security(with_acls);
    let unknown = |permission| acl("User:alice", "orders", "TELEPORT", permission);
    let allowed = acl("User:alice", "orders", "READ", "ALLOW");
    security.replace(snapshot(PASSWORD, vec![allowed.clone(), unknown("ALLOW")]));
    let access = |name: &str| security.access(ClientIdentity::forwarded(name.parse().unwrap()), None);
    assert!(access("User:alice").allows(AclOperation::Read, AclResourceType::Topic, "orders"));
    security.replace(snapshot(PASSWORD, vec![allowed, unknown("DENY")]));
    assert!(!access("User:alice").allows(AclOperation::Read, AclResourceType::Topic, "orders"));
    assert!(access("User:admin").allows(AclOperation::Read, AclResourceType::Topic, "orders"));
}

#[tokio::test]
async fn who_fails_often_has_to_wait_also_with_the_right_password() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    let mut codes = Vec::new();
    for _ in 0..25 {
        codes.push(
            scram(&security, ScramMechanism::Sha256, "alice", "wrong")
                .await
                .unwrap_err()
                .code(),
        );
    }
    assert_eq!(codes[19], ErrorCode::SaslAuthenticationFailed);
    assert_eq!(codes[20..], [ErrorCode::ResourceExhausted; 5]);
    let error = plain(&security, "alice", PASSWORD).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
}

#[tokio::test]
async fn of_attempts_at_once_no_more_are_made_than_one_after_the_other() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    let attempts = (0..40).map(|_| plain(&security, "alice", "wrong"));
    let codes = futures::future::join_all(attempts)
        .await
        .into_iter()
        .map(|attempt| attempt.unwrap_err().code());
    let made = codes.filter(|code| *code == ErrorCode::SaslAuthenticationFailed);
    assert_eq!(made.count(), 20);
}

#[tokio::test]
async fn the_right_password_of_many_at_once_is_no_failure() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    let attempts = (0..100).map(|_| plain(&security, "alice", PASSWORD));
    for attempt in futures::future::join_all(attempts).await {
        attempt.unwrap();
    }
    plain(&security, "alice", "wrong").await.unwrap_err();
    plain(&security, "alice", PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_session_holds_for_hours_and_while_the_credential_is_the_same() {
    let security = security(|_| {});
    security.replace(snapshot(PASSWORD, Vec::new()));
    let identity = plain(&security, "alice", PASSWORD).await.unwrap();
    let begun = 1_700_000_000_000;
    let token = security.begin_session(&identity, begun).unwrap();
    let day = i64::try_from(SESSION_MAX_AGE.as_millis()).unwrap();
    for (age, holds) in [
        (0, true),
        (day - 1, true),
        (day, false),
        // The clock of the agent that began it may be ahead by minutes, not by more.
        (-300_000, true),
        (-300_001, false),
        (i64::MIN, false),
    ] {
        let resumed = security.resume_session(&token, begun.saturating_add(age));
        assert_eq!(resumed.is_some(), holds, "{age}");
    }
    assert!(
        security
            .begin_session(&ClientIdentity::anonymous(), begun)
            .is_none()
    );
    security.replace(snapshot("another", Vec::new()));
    assert!(security.resume_session(&token, begun).is_none());
}

#[test]
fn without_settings_everybody_is_anonymous_and_may_do_everything() {
    let security = security(|settings| settings.authentication = Vec::new());
    assert!(!security.is_authentication_required() && !security.is_authorization_on());
    let access = security.anonymous(None);
    assert_eq!(access.principal(), &KafkaPrincipal::ANONYMOUS);
    assert!(access.allows(AclOperation::Delete, AclResourceType::Topic, "orders"));
}

#[test]
fn an_agent_warns_of_what_no_setting_says_is_intended() {
    let warnings = |with: fn(&mut AgentSettings)| security(with).warnings().len();
    let open = |settings: &mut AgentSettings| {
        settings.authentication = Vec::new();
        settings.allow_unauthenticated = false;
    };
    assert_eq!(warnings(open), 1);
    assert_eq!(
        warnings(|settings| settings.authentication = Vec::new()),
        0,
        "on with --dev"
    );
    assert_eq!(warnings(|_| {}), 1, "users, but no ACLs");
    assert_eq!(warnings(with_acls), 0);
}
