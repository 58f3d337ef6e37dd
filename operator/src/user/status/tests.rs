//! Statuses and events of Users.

use serde_json::json;

use super::*;

fn user(ready: Option<&str>) -> User {
    let mut user: User = serde_json::from_value(json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "User",
        "metadata": { "name": "alice", "namespace": "shop", "uid": "uid-1", "generation": 2 },
        "spec": { "clusterRef": { "name": "main" }, "authentication": { "type": "scram" } }
    }))
    .unwrap();
    if let Some(status) = ready {
        let state = match status {
            "True" => ConditionStatus::True,
            _ => ConditionStatus::False,
        };
        let problem = UserProblem::new(ConditionReason::Reconciled, "");
        user.status = Some(compute_status(&user, &(state, problem), Timestamp::UNIX_EPOCH));
    }
    user
}

fn reason(user: &User, changes: &UserChanges) -> Option<ConditionReason> {
    event_of_changes(user, changes).map(|event| event.reason)
}

#[test]
fn the_event_says_what_has_happened() {
    let credentials = UserChanges {
        credentials: true,
        secret: true,
        ..UserChanges::default()
    };
    let acls = UserChanges {
        acls: true,
        ..UserChanges::default()
    };
    let claimed = UserChanges {
        claimed: true,
        ..credentials.clone()
    };
    let adopted = UserChanges {
        adopted: true,
        ..claimed.clone()
    };
    let restored = UserChanges {
        secret: false,
        ..credentials.clone()
    };
    // The cluster may have another address.
    let secret = UserChanges {
        secret: true,
        ..UserChanges::default()
    };
    let (new, ready) = (user(None), user(Some("True")));
    let mut edited = ready.clone();
    edited.metadata.generation = Some(3);
    assert_eq!(reason(&ready, &UserChanges::default()), None);
    assert_eq!(reason(&new, &claimed), Some(ConditionReason::Created));
    assert_eq!(reason(&new, &adopted), Some(ConditionReason::Adopted));
    assert_eq!(
        reason(&ready, &credentials),
        Some(ConditionReason::CredentialsUpdated)
    );
    assert_eq!(reason(&ready, &restored), Some(ConditionReason::DriftCorrected));
    assert_eq!(reason(&ready, &secret), Some(ConditionReason::ConfigUpdated));
    assert_eq!(reason(&ready, &acls), Some(ConditionReason::DriftCorrected));
    assert_eq!(
        reason(&ready, &claimed),
        Some(ConditionReason::CredentialsUpdated)
    );
    assert_eq!(reason(&edited, &acls), Some(ConditionReason::ConfigUpdated));
}

#[test]
fn a_problem_for_a_person_is_an_event_once() {
    let problem = UserProblem::new(ConditionReason::OwnershipConflict, "managed by shop/bob");
    let ready = (ConditionStatus::False, problem);
    let mut conflicting = user(None);
    let event = event_of_problem(&conflicting, &ready).unwrap();
    assert!(event.warning);
    conflicting.status = Some(compute_status(&conflicting, &ready, Timestamp::UNIX_EPOCH));
    assert_eq!(event_of_problem(&conflicting, &ready), None);
    let waiting = UserProblem::new(ConditionReason::ClusterNotReady, "later");
    assert_eq!(
        event_of_problem(&conflicting, &(ConditionStatus::Unknown, waiting)),
        None
    );
}

#[test]
fn the_same_facts_give_the_same_status() {
    let ready = user(Some("True"));
    let status = ready.status.clone().unwrap();
    assert_eq!(
        (status.user_name.as_deref(), status.secret_name.as_deref()),
        (Some("alice"), Some("alice"))
    );
    let problem = UserProblem::new(ConditionReason::Reconciled, "");
    let later = Timestamp::from_second(1_000).unwrap();
    assert_eq!(
        compute_status(&ready, &(ConditionStatus::True, problem), later),
        status
    );
}
