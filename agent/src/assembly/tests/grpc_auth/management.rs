//! Users and ACLs by the security service: a change is in force when it is answered.

use streamhouse_core::{security::ScramKeys, time::system_entropy};

use super::*;

fn verifier(mechanism: ScramMechanism, password: &str) -> v1::ScramVerifier {
    let credential = ScramCredential::generate(mechanism, password, system_entropy().as_ref()).unwrap();
    let ScramKeys { stored, server } = credential.keys().clone();
    v1::ScramVerifier {
        mechanism: mechanism.name().to_owned(),
        iterations: credential.iterations(),
        salt: credential.salt().to_vec().into(),
        stored_key: stored.into(),
        server_key: server.into(),
    }
}

fn put(name: &str, credentials: Vec<v1::ScramVerifier>) -> v1::PutUserRequest {
    v1::PutUserRequest {
        name: name.to_owned(),
        credentials,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_put_listed_and_deleted() {
    let secured = SecuredAgent::start().await;
    let mut admin = secured.client("admin").security();
    let both = ScramMechanism::ALL.map(|mechanism| verifier(mechanism, "first"));
    assert!(!format!("{both:?}").contains("salt"));
    admin.put_user(put("carol", both.to_vec())).await.unwrap();
    let carol = |password: &str| secured.anonymous().with_password("carol", password);
    assert_eq!(carol("first").code().await, Code::Ok, "at once");
    let one = vec![verifier(ScramMechanism::Sha512, "second")];
    admin.put_user(put("carol", one.clone())).await.unwrap();
    assert_eq!(carol("second").code().await, Code::Ok);
    assert_eq!(
        carol("first").code().await,
        Code::Unauthenticated,
        "by no mechanism"
    );
    let listed = admin
        .list_users(v1::ListUsersRequest {})
        .await
        .unwrap()
        .into_inner();
    let names: Vec<&str> = listed.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["admin", "alice", "carol", "nobody"]);
    assert_eq!(listed.users[2].credentials.len(), 1);
    let short = v1::ScramVerifier {
        stored_key: vec![1].into(),
        ..one[0].clone()
    };
    for (name, credentials) in [
        ("carol", Vec::new()),
        ("carol", vec![one[0].clone(), one[0].clone()]),
        ("carol", vec![short]),
        ("*", one.clone()),
        ("ANONYMOUS", one.clone()),
        ("", one),
    ] {
        let refused = admin.put_user(put(name, credentials)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name:?}");
    }
    let delete = v1::DeleteUserRequest {
        name: "carol".to_owned(),
    };
    admin.delete_user(delete.clone()).await.unwrap();
    assert_eq!(carol("second").code().await, Code::Unauthenticated);
    let missing = admin.delete_user(delete).await.unwrap_err();
    assert_eq!(missing.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn acls_are_created_explained_and_deleted() {
    let secured = SecuredAgent::start().await;
    let mut admin = secured.client("admin").security();
    let acl = v1::AclBinding {
        principal: "User:alice".to_owned(),
        resource_type: "TOPIC".to_owned(),
        resource_name: "ord".to_owned(),
        pattern_type: "PREFIXED".to_owned(),
        host: "*".to_owned(),
        operation: "READ".to_owned(),
        permission: "ALLOW".to_owned(),
    };
    let create = v1::CreateAclsRequest {
        acls: vec![acl.clone()],
    };
    for created in [1, 0] {
        let answer = admin.create_acls(create.clone()).await.unwrap().into_inner();
        assert_eq!(answer.created, created);
    }
    let alice = secured.client("alice");
    assert_eq!(alice.topics().await, ["orders"], "at once");
    let explain = |principal: &str, operation: &str| v1::ExplainAccessRequest {
        principal: principal.to_owned(),
        operation: operation.to_owned(),
        resource_type: "topic".to_owned(),
        resource_name: "orders".to_owned(),
        ..Default::default()
    };
    for (principal, operation, allowed, rule) in [
        ("User:alice", "Describe", true, Some(acl.clone())),
        ("User:alice", "Write", false, None),
        ("User:admin", "Write", true, None),
    ] {
        let answer = admin
            .explain_access(explain(principal, operation))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (answer.allowed, answer.rule),
            (allowed, rule),
            "{}",
            answer.decision
        );
        let word = if allowed { "allowed" } else { "denied" };
        assert!(answer.decision.starts_with(word), "{}", answer.decision);
    }
    let refused = admin.explain_access(explain("alice", "Write")).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let matching = v1::AclFilter {
        resource_type: "TOPIC".to_owned(),
        resource_name: "orders".to_owned(),
        pattern_type: "MATCH".to_owned(),
        ..Default::default()
    };
    let list = v1::ListAclsRequest {
        filter: Some(matching.clone()),
    };
    assert_eq!(
        admin.list_acls(list).await.unwrap().into_inner().acls,
        std::slice::from_ref(&acl)
    );
    for (validate_only, left) in [(true, 1), (false, 0)] {
        let delete = v1::DeleteAclsRequest {
            filter: Some(matching.clone()),
            validate_only,
        };
        let deleted = admin.delete_acls(delete).await.unwrap().into_inner().deleted;
        assert_eq!(deleted, std::slice::from_ref(&acl));
        assert_eq!(alice.topics().await.len(), left);
    }
}
