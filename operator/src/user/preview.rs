//! Computes what a reconciliation of a User would change, without changing it. Called by `diff`.
//! Passwords and verifiers are never part of the result.

use streamhouse_core::security::QuotaName;
use streamhouse_metadata::{AclRow, ClientQuotaRow, MetadataStore, UserRows};

use super::{
    apply::{PasswordSource, UserApplication, UserChanges, compare_rows},
    credentials::VerifiedCredentials,
    error::{UserError, ownership_problem},
    owner::UserOwner,
    validate::{DesiredUser, validate},
};
use crate::{
    api_calls::exists,
    context::OperatorContext,
    crd::{AdoptionPolicy, StreamHouseCluster, User},
};

/// The changes of a User.
#[derive(Debug, Default)]
pub(crate) struct UserPreview {
    /// The changes, a line each.
    pub(crate) changes: Vec<String>,
    /// Problems, as messages.
    pub(crate) problems: Vec<String>,
}

/// Returns what applying this User would change.
///
/// # Errors
///
/// Returns an error if the API server or the metadata store cannot be queried.
pub(crate) async fn preview_user(
    context: &OperatorContext,
    store: &dyn MetadataStore,
    cluster: &StreamHouseCluster,
    user: &User,
) -> anyhow::Result<UserPreview> {
    let mut preview = UserPreview::default();
    match collect_changes(context, store, cluster, user, &mut preview.changes).await {
        Ok(()) => {}
        Err(UserError::Problem(problem)) => preview
            .problems
            .push(format!("{}: {}", problem.reason, problem.message)),
        Err(error) => return Err(error.into()),
    }
    Ok(preview)
}

async fn collect_changes(
    context: &OperatorContext,
    store: &dyn MetadataStore,
    cluster: &StreamHouseCluster,
    user: &User,
    changes: &mut Vec<String>,
) -> Result<(), UserError> {
    let desired = validate(user)?;
    let owner = UserOwner::of(user);
    let application = UserApplication {
        context,
        store,
        cluster,
        user,
        owner: &owner,
        desired: &desired,
        verified: &VerifiedCredentials::default(),
    };
    // As a reconciliation does: a User whose Secret cannot be written changes nothing.
    let source = match &desired.scram {
        Some(scram) => Some(application.password(scram).await?),
        None => None,
    };
    let stored = match store.find_owned_user(&owner.key()).await? {
        Some(stored) => stored,
        None => {
            changes.push(plan_claim(context, store, &owner, &desired).await?);
            UserRows {
                user_name: desired.name.clone(),
                ..UserRows::default()
            }
        }
    };
    let wanted = application.rows(source.as_ref(), &stored).await?;
    changes.extend(row_changes(&stored, &wanted));
    changes.extend(source.and_then(|source| secret_change(&source)));
    Ok(())
}

/// Returns how the User would become the owner of its name.
///
/// # Errors
///
/// Returns the problem if it would not.
async fn plan_claim(
    context: &OperatorContext,
    store: &dyn MetadataStore,
    owner: &UserOwner,
    desired: &DesiredUser,
) -> Result<String, UserError> {
    let name = &desired.name;
    let adopts = desired.adopt == AdoptionPolicy::IfExists;
    for (key, rows) in store.list_owned_users("").await? {
        let of_quota = rows.quotas.iter().find(|row| has_quota(&desired.quotas, row));
        let what = match (rows.user_name == *name, of_quota) {
            (true, _) => format!("user {name:?}"),
            (false, Some(quota)) => describe_quota(quota),
            (false, None) => continue,
        };
        let Some(other) = UserOwner::parse(&key) else {
            return Err(ownership_problem(&what, &key).into());
        };
        if exists::<User>(context, &other.namespace, &other.resource, &other.uid).await?
            || !(adopts || other.has_name_of(owner))
        {
            return Err(ownership_problem(&what, &key).into());
        }
        return Ok(format!("take over {what} of {other}, which no longer exists"));
    }
    let snapshot = store.load_security().await?;
    let by_hand = snapshot.credentials.iter().any(|row| row.user_name == *name);
    let quota = snapshot.quotas.iter().find(|row| has_quota(&desired.quotas, row));
    let what = match (by_hand, quota) {
        (true, _) => format!("user {name:?}"),
        (false, Some(quota)) => describe_quota(quota),
        (false, None) => return Ok(format!("create user {name:?}")),
    };
    match adopts {
        true => Ok(format!("adopt {what}, which was made by hand")),
        false => Err(ownership_problem(&what, "").into()),
    }
}

fn has_quota(wanted: &[ClientQuotaRow], row: &ClientQuotaRow) -> bool {
    wanted.iter().any(|quota| quota.id == row.id)
}

fn describe_quota(row: &ClientQuotaRow) -> String {
    let user = match &row.id.user_name {
        Some(QuotaName::Named(name)) => format!("user {name:?}"),
        _ => "all users".to_owned(),
    };
    format!("quota {} of {user}", row.id.key)
}

/// Returns the differences of the rows, a line each.
fn row_changes(stored: &UserRows, wanted: &UserRows) -> Vec<String> {
    let mut kinds = UserChanges::default();
    compare_rows(stored, wanted, &mut kinds);
    let mut lines = Vec::new();
    if kinds.credentials {
        let mechanisms = |rows: &UserRows| {
            let names: Vec<&str> = rows
                .credentials
                .iter()
                .map(|row| row.mechanism.as_str())
                .collect();
            match names.is_empty() {
                true => "none".to_owned(),
                false => names.join(", "),
            }
        };
        lines.push(format!(
            "credentials would be replaced: {} (was {})",
            mechanisms(wanted),
            mechanisms(stored)
        ));
    }
    let added = wanted.acls.iter().filter(|row| !stored.acls.contains(row));
    lines.extend(added.map(|row| format!("add ACL: {}", describe_acl(row))));
    let removed = stored.acls.iter().filter(|row| !wanted.acls.contains(row));
    lines.extend(removed.map(|row| format!("remove ACL: {}", describe_acl(row))));
    for quota in &wanted.quotas {
        let (key, value) = (&quota.id.key, quota.value);
        match stored.quotas.iter().find(|row| row.id == quota.id) {
            None => lines.push(format!("set quota {key} to {value} (was none)")),
            Some(row) if row.value != value => {
                lines.push(format!("set quota {key} to {value} (was {})", row.value));
            }
            Some(_) => {}
        }
    }
    let removed = stored.quotas.iter().filter(|row| !has_quota(&wanted.quotas, row));
    lines.extend(removed.map(|row| format!("remove quota {} (was {})", row.id.key, row.value)));
    lines
}

fn describe_acl(row: &AclRow) -> String {
    format!(
        "{} {} on {} {} {:?} from {}",
        row.permission, row.operation, row.pattern_type, row.resource_type, row.resource_name, row.host
    )
}

/// Returns the change of the Secret for clients, by the names of its keys.
fn secret_change(source: &PasswordSource<'_>) -> Option<String> {
    let name = &source.scram.secret_name;
    if source.secret.is_absent() {
        let password = match source.scram.password {
            Some(_) => "the given password",
            None => "a generated password",
        };
        return Some(format!("create Secret {name} with {password}"));
    }
    let keys = source.secret.differing_keys(&source.content);
    (!keys.is_empty()).then(|| format!("replace {} of Secret {name}", keys.join(", ")))
}

#[cfg(test)]
mod tests {
    use streamhouse_metadata::{ClientQuotaId, ScramCredentialRow};

    use super::*;

    fn rows(topic: &str, quotas: &[(&str, f64)], verifier: u8) -> UserRows {
        let name = "alice".to_owned();
        UserRows {
            user_name: name.clone(),
            credentials: vec![ScramCredentialRow {
                user_name: name.clone(),
                mechanism: "SCRAM-SHA-512".to_owned(),
                salt: vec![1],
                iterations: 4096,
                stored_key: vec![verifier; 64],
                server_key: vec![verifier; 64],
            }],
            acls: vec![AclRow {
                principal: "User:alice".to_owned(),
                resource_type: "TOPIC".to_owned(),
                resource_name: topic.to_owned(),
                pattern_type: "LITERAL".to_owned(),
                host: "*".to_owned(),
                operation: "READ".to_owned(),
                permission: "ALLOW".to_owned(),
            }],
            quotas: quotas
                .iter()
                .map(|(key, value)| ClientQuotaRow {
                    id: ClientQuotaId {
                        user_name: Some(QuotaName::Named(name.clone())),
                        client_id: None,
                        ip: None,
                        key: (*key).to_owned(),
                    },
                    value: *value,
                })
                .collect(),
        }
    }

    #[test]
    fn each_difference_is_a_line_without_verifiers() {
        let stored = rows("orders", &[("a", 1.0), ("b", 2.0)], 7);
        assert!(row_changes(&stored, &stored).is_empty());
        let wanted = rows("payments", &[("b", 3.0), ("c", 4.0)], 9);
        assert_eq!(
            row_changes(&stored, &wanted),
            [
                "credentials would be replaced: SCRAM-SHA-512 (was SCRAM-SHA-512)",
                "add ACL: ALLOW READ on LITERAL TOPIC \"payments\" from *",
                "remove ACL: ALLOW READ on LITERAL TOPIC \"orders\" from *",
                "set quota b to 3 (was 2)",
                "set quota c to 4 (was none)",
                "remove quota a (was 1)",
            ]
        );
    }
}
