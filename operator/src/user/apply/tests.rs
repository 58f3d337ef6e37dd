//! How stored rows are compared with the wanted ones.

use streamhouse_core::security::QuotaName;
use streamhouse_metadata::ClientQuotaId;

use super::*;

fn rows() -> UserRows {
    let credential = |mechanism: &str| ScramCredentialRow {
        user_name: "alice".to_owned(),
        mechanism: mechanism.to_owned(),
        salt: vec![1],
        iterations: 4096,
        stored_key: vec![2; 32],
        server_key: vec![3; 32],
    };
    let acl = |name: &str| AclRow {
        principal: "User:alice".to_owned(),
        resource_type: "TOPIC".to_owned(),
        resource_name: name.to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: "READ".to_owned(),
        permission: "ALLOW".to_owned(),
    };
    let quota = |key: &str| ClientQuotaRow {
        id: ClientQuotaId {
            user_name: Some(QuotaName::Named("alice".to_owned())),
            client_id: None,
            ip: None,
            key: key.to_owned(),
        },
        value: 1.0,
    };
    UserRows {
        user_name: "alice".to_owned(),
        credentials: vec![credential("SCRAM-SHA-256"), credential("SCRAM-SHA-512")],
        acls: vec![acl("a"), acl("b")],
        quotas: vec![quota("consumer_byte_rate"), quota("producer_byte_rate")],
    }
}

fn changes(change: impl Fn(&mut UserRows)) -> String {
    let mut wanted = rows();
    change(&mut wanted);
    let mut changes = UserChanges::default();
    compare_rows(&rows(), &wanted, &mut changes);
    changes.summary()
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let reverse = |rows: &mut UserRows| {
        rows.credentials.reverse();
        rows.acls.reverse();
        rows.quotas.reverse();
    };
    assert_eq!(changes(reverse), "");
}

#[test]
fn each_kind_of_row_is_compared() {
    assert_eq!(changes(|rows| rows.credentials[0].salt.push(1)), "credentials");
    assert_eq!(changes(|rows| drop(rows.credentials.pop())), "credentials");
    assert_eq!(changes(|rows| rows.acls.truncate(1)), "access control lists");
    assert_eq!(changes(|rows| rows.quotas[1].value = 2.0), "quotas");
    let all = changes(|rows| {
        rows.credentials.clear();
        rows.acls.clear();
        rows.quotas.clear();
    });
    assert_eq!(all, "credentials, access control lists, quotas");
}
