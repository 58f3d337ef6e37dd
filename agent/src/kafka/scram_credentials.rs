//! DescribeUserScramCredentials and AlterUserScramCredentials. Clients send salted passwords, never
//! the passwords.

use std::collections::BTreeMap;

use streamhouse_core::{
    kafka::{
        AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse, AlterUserScramCredentialsResult,
        AlterUserScramCredentialsScramCredentialDeletion, AlterUserScramCredentialsScramCredentialUpsertion,
        DescribeUserScramCredentialsCredentialInfo, DescribeUserScramCredentialsRequest,
        DescribeUserScramCredentialsResponse, DescribeUserScramCredentialsResult,
    },
    security::{
        AclOperation, KafkaPrincipal, MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, ScramCredential,
        ScramMechanism,
    },
};
use streamhouse_metadata::{
    MAX_SCRAM_SALT_BYTES, MAX_SECURITY_NAME_BYTES, ScramAlteration, ScramAlterationOutcome,
    ScramCredentialId, ScramCredentialRow,
};

use super::{
    error::UNSUPPORTED_SASL_MECHANISM,
    request::RequestContext,
    security_admin::{AdminRefusal, catch_up, fail_valid, result_fields},
};
use crate::security::SecurityView;

const RESOURCE_NOT_FOUND: i16 = 91;
const DUPLICATE_RESOURCE: i16 = 92;
const UNACCEPTABLE_CREDENTIAL: i16 = 93;

/// Serves DescribeUserScramCredentials.
pub(super) async fn describe_user_scram_credentials(
    context: RequestContext,
    request: DescribeUserScramCredentialsRequest,
) -> DescribeUserScramCredentialsResponse {
    let described = described_users(&context, request).await;
    let (error_code, error_message) = result_fields(&described);
    DescribeUserScramCredentialsResponse {
        error_code,
        error_message,
        results: described.unwrap_or_default(),
        ..DescribeUserScramCredentialsResponse::default()
    }
}

async fn described_users(
    context: &RequestContext,
    request: DescribeUserScramCredentialsRequest,
) -> Result<Vec<DescribeUserScramCredentialsResult>, AdminRefusal> {
    context.access().check_cluster(AclOperation::Describe)?;
    catch_up(context).await;
    let view = context.client.deps.security.loaded()?;
    let users = request.users.unwrap_or_default();
    if users.is_empty() {
        let mut described: Vec<_> = view
            .users()
            .map(|(user, _)| described_user(&view, user))
            .collect();
        described.sort_by(|one, other| one.user.cmp(&other.user));
        return Ok(described);
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for user in users {
        *counts.entry(user.name).or_default() += 1;
    }
    let described = counts.into_iter().map(|(user, count)| match count {
        1 => described_user(&view, &user),
        _ => failed_user(
            &user,
            DUPLICATE_RESOURCE,
            "Cannot describe SCRAM credentials for the same user twice in a single request",
        ),
    });
    Ok(described.collect())
}

fn described_user(view: &SecurityView, user: &str) -> DescribeUserScramCredentialsResult {
    let mechanisms = ScramMechanism::ALL.into_iter();
    let credentials = mechanisms.filter_map(|mechanism| view.credential(user, mechanism));
    let infos = credentials.map(|credential| DescribeUserScramCredentialsCredentialInfo {
        mechanism: credential.mechanism().code(),
        iterations: i32::try_from(credential.iterations()).unwrap_or(i32::MAX),
    });
    let credential_infos: Vec<_> = infos.collect();
    if credential_infos.is_empty() {
        let problem = "Attempt to describe a user credential that does not exist";
        return failed_user(user, RESOURCE_NOT_FOUND, problem);
    }
    DescribeUserScramCredentialsResult {
        user: user.to_owned(),
        credential_infos,
        ..DescribeUserScramCredentialsResult::default()
    }
}

fn failed_user(user: &str, error_code: i16, problem: &str) -> DescribeUserScramCredentialsResult {
    DescribeUserScramCredentialsResult {
        user: user.to_owned(),
        error_code,
        error_message: Some(format!("{problem}: {user}")),
        ..DescribeUserScramCredentialsResult::default()
    }
}

/// Serves AlterUserScramCredentials: for each user everything or nothing.
pub(super) async fn alter_user_scram_credentials(
    context: RequestContext,
    request: AlterUserScramCredentialsRequest,
) -> AlterUserScramCredentialsResponse {
    let mut plan = CredentialPlan::default();
    if let Err(refused) = context.access().check_cluster(AclOperation::Alter) {
        let refused = AdminRefusal::from(refused);
        let deleted = request.deletions.into_iter().map(|deletion| deletion.name);
        let upserted = request.upsertions.into_iter().map(|upsertion| upsertion.name);
        let users = deleted.chain(upserted);
        plan.results
            .extend(users.map(|user| (user, Err(refused.clone()))));
    } else {
        plan.add(request);
        plan.store(&context).await;
    }
    let results = plan.results.into_iter().map(|(user, result)| {
        let (error_code, error_message) = result_fields(&result);
        AlterUserScramCredentialsResult {
            user,
            error_code,
            error_message,
        }
    });
    AlterUserScramCredentialsResponse {
        results: results.collect(),
        ..AlterUserScramCredentialsResponse::default()
    }
}

/// What a request changes, with the outcome of each user.
#[derive(Default)]
struct CredentialPlan {
    alteration: ScramAlteration,
    results: BTreeMap<String, Result<(), AdminRefusal>>,
}

impl CredentialPlan {
    fn add(&mut self, request: AlterUserScramCredentialsRequest) {
        for deletion in request.deletions {
            let user = deletion.name.clone();
            let id = deleted_credential(deletion);
            self.note(user, id, |alteration, id| alteration.deletions.push(id));
        }
        for upsertion in request.upsertions {
            let user = upsertion.name.clone();
            let row = new_credential(upsertion);
            self.note(user, row, |alteration, row| alteration.upserts.push(row));
        }
        let results = &self.results;
        let is_valid = |user: &str| results.get(user).is_some_and(Result::is_ok);
        self.alteration.upserts.retain(|row| is_valid(&row.user_name));
        self.alteration.deletions.retain(|id| is_valid(&id.user_name));
    }

    fn note<T>(
        &mut self,
        user: String,
        change: Result<T, AdminRefusal>,
        add: impl FnOnce(&mut ScramAlteration, T),
    ) {
        let result = self.results.entry(user).or_insert(Ok(()));
        match change {
            Ok(change) => add(&mut self.alteration, change),
            Err(refusal) if result.is_ok() => *result = Err(refusal),
            Err(_) => {}
        }
    }

    async fn store(&mut self, context: &RequestContext) {
        let ScramAlteration { upserts, deletions } = &self.alteration;
        if upserts.is_empty() && deletions.is_empty() {
            return;
        }
        let metadata = &context.client.deps.metadata;
        let altered = metadata.alter_scram_credentials(&self.alteration).await;
        match altered.map_err(AdminRefusal::from) {
            Ok(outcomes) => {
                for (user, outcome) in outcomes {
                    self.results.insert(user, read_outcome(outcome));
                }
                let by = context.access().principal();
                let users: Vec<&String> = self.results.keys().take(20).collect();
                tracing::info!(%by, ?users, "SCRAM credentials altered");
                catch_up(context).await;
            }
            Err(refusal) => fail_valid(self.results.values_mut(), &refusal),
        }
    }
}

fn read_outcome(outcome: ScramAlterationOutcome) -> Result<(), AdminRefusal> {
    match outcome {
        ScramAlterationOutcome::Altered => Ok(()),
        ScramAlterationOutcome::UnknownCredential => Err(AdminRefusal::new(
            RESOURCE_NOT_FOUND,
            "Attempt to delete a user credential that does not exist",
        )),
        ScramAlterationOutcome::Duplicate => Err(AdminRefusal::new(
            DUPLICATE_RESOURCE,
            "A user credential cannot be altered twice in the same request",
        )),
    }
}

fn read_mechanism(code: i8) -> Result<ScramMechanism, AdminRefusal> {
    let unknown = || AdminRefusal::new(UNSUPPORTED_SASL_MECHANISM, "Unknown SCRAM mechanism");
    ScramMechanism::from_code(code).ok_or_else(unknown)
}

fn unacceptable(problem: impl ToString) -> AdminRefusal {
    AdminRefusal::new(UNACCEPTABLE_CREDENTIAL, problem)
}

fn check_user_name(name: &str) -> Result<(), AdminRefusal> {
    if name.is_empty() {
        return Err(unacceptable("Username must not be empty"));
    }
    if name.contains('\0') {
        return Err(unacceptable("the user name contains a NUL character"));
    }
    if name.len() > MAX_SECURITY_NAME_BYTES {
        let problem = format!("the user name is longer than {MAX_SECURITY_NAME_BYTES} bytes");
        return Err(unacceptable(problem));
    }
    Ok(())
}

fn deleted_credential(
    deletion: AlterUserScramCredentialsScramCredentialDeletion,
) -> Result<ScramCredentialId, AdminRefusal> {
    check_user_name(&deletion.name)?;
    let mechanism = read_mechanism(deletion.mechanism)?.name().to_owned();
    Ok(ScramCredentialId {
        user_name: deletion.name,
        mechanism,
    })
}

fn new_credential(
    upsertion: AlterUserScramCredentialsScramCredentialUpsertion,
) -> Result<ScramCredentialRow, AdminRefusal> {
    check_user_name(&upsertion.name)?;
    let principal = KafkaPrincipal::user(&upsertion.name).map_err(unacceptable)?;
    if principal.is_reserved() {
        return Err(unacceptable(format!(
            "{principal} is nobody who can authenticate"
        )));
    }
    let mechanism = read_mechanism(upsertion.mechanism)?;
    let iterations = u32::try_from(upsertion.iterations).unwrap_or_default();
    if iterations < MIN_SCRAM_ITERATIONS {
        return Err(unacceptable("Too few iterations"));
    }
    if iterations > MAX_SCRAM_ITERATIONS {
        return Err(unacceptable("Too many iterations"));
    }
    let salt = upsertion.salt.expose().to_vec();
    if salt.len() > MAX_SCRAM_SALT_BYTES {
        return Err(unacceptable(format!(
            "the salt is longer than {MAX_SCRAM_SALT_BYTES} bytes"
        )));
    }
    let salted = upsertion.salted_password.expose();
    let credential = ScramCredential::from_salted_password(mechanism, salt, iterations, salted);
    let credential = credential.map_err(unacceptable)?;
    Ok(ScramCredentialRow::new(&upsertion.name, &credential))
}
