//! Random changes of users, ACLs and quotas on each store, compared step by step with tables in
//! memory. What the changes must do is checked in `security_plan/tests.rs`.

use proptest::prelude::*;

use crate::{
    MetadataStore,
    conformance::{fixture::snapshot, security::load},
    security_plan::tests::{SecurityChange, SecurityTablesModel, change, plan},
    tests::support::{TestStore, postgres, run_random_cases, sqlite_memory},
};

/// Makes the call and returns its answer as text.
async fn call(store: &dyn MetadataStore, change: &SecurityChange) -> crate::Result<String> {
    Ok(match change {
        SecurityChange::Scram(alteration) => {
            format!("{:?}", store.alter_scram_credentials(alteration).await?)
        }
        SecurityChange::CreateAcls(rows) => format!("{:?}", store.create_acls(rows).await?),
        SecurityChange::DeleteAcls(rows) => format!("{:?}", store.delete_acls(rows).await?),
        SecurityChange::Quotas(alteration) => format!("{:?}", store.alter_client_quotas(alteration).await?),
        SecurityChange::Apply { owner, user, unowned } => {
            format!("{:?}", store.apply_user(owner, user, *unowned).await?)
        }
        SecurityChange::Delete(owner) => format!("{:?}", store.delete_user(owner).await?),
    })
}

async fn compare_step(
    fresh: &TestStore,
    tables: &mut SecurityTablesModel,
    versions: &mut (i64, u64),
    change: &SecurityChange,
) {
    let answer = call(&*fresh.store, change).await;
    match plan(tables, change) {
        Ok((expected, delta)) => {
            assert_eq!(answer.unwrap(), expected);
            if delta.changes_snapshot() {
                *versions = (versions.0 + 1, versions.1 + 1);
            }
            tables.write(&delta);
        }
        Err(refused) => assert_eq!(answer.unwrap_err().to_string(), refused.to_string()),
    }
    let (seen, cluster) = (load(&fresh.store).await, snapshot(&fresh.store).await);
    assert_eq!((cluster.security_version, cluster.version), *versions);
    assert_eq!(seen, tables.stored().into_snapshot(versions.0));
    let users = fresh.store.list_owned_users("k8s:").await.unwrap();
    assert_eq!(users, tables.stored().into_users());
}

/// Runs `cases` random sequences, each on a fresh store.
fn run_random_changes<F: Future<Output = TestStore>>(cases: u32, length: usize, fresh: impl Fn() -> F) {
    let sequences = prop::collection::vec(change(), 1..length);
    run_random_cases(cases, &sequences, async |changes| {
        let fresh = fresh().await;
        let mut tables = SecurityTablesModel::default();
        let mut versions = (0, snapshot(&fresh.store).await.version);
        for change in &changes {
            compare_step(&fresh, &mut tables, &mut versions, change).await;
        }
    });
}

#[test]
fn sqlite_changes_users_as_the_tables_in_memory() {
    run_random_changes(150, 40, sqlite_memory);
}

#[test]
fn postgres_changes_users_as_the_tables_in_memory() {
    run_random_changes(12, 60, postgres);
}
