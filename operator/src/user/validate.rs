//! Validates a User without reading anything, and translates it to rows of the metadata store.
//! Repeats the rules of the schema, since a resource may be older than a rule.

use std::collections::BTreeSet;

use streamhouse_core::security::{
    AclBinding, AclHost, AclOperation, AclPatternType, AclPermission, AclResourceType, CLUSTER_RESOURCE_NAME,
    KafkaPrincipal, QuotaKey, QuotaName, ScramMechanism,
};
use streamhouse_metadata::{AclRow, ClientQuotaId, ClientQuotaRow, MAX_SECURITY_NAME_BYTES};

use super::error::UserProblem;
use crate::crd::{
    AdoptionPolicy, SecretKeyRef, User, UserAcl, UserAclOperation, UserAclPatternType, UserAclPermission,
    UserAclResourceType, UserAuthenticationType, UserScramMechanism,
};

/// The desired state of a user.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DesiredUser {
    pub(super) name: String,
    /// How it authenticates; `None` if by other means than a password.
    pub(super) scram: Option<DesiredScram>,
    /// In order, each once.
    pub(super) acls: Vec<AclRow>,
    /// In order.
    pub(super) quotas: Vec<ClientQuotaRow>,
    /// Whether a user that was made by hand may be adopted.
    pub(super) adopt: AdoptionPolicy,
}

/// Authentication by a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DesiredScram {
    /// In order, each once; at least one.
    pub(super) mechanisms: Vec<ScramMechanism>,
    /// Name and key of the Secret with the password; `None` for a generated one.
    pub(super) password: Option<(String, String)>,
    /// Name of the Secret for clients.
    pub(super) secret_name: String,
}

/// Validates a User.
///
/// # Errors
///
/// Returns the first problem.
pub(super) fn validate(user: &User) -> Result<DesiredUser, UserProblem> {
    let name = user.user_name();
    let principal = check_name(user, name)?;
    let spec = &user.spec;
    let scram = match spec.authentication.type_ {
        UserAuthenticationType::External if spec.authentication.subject.is_none() => {
            return Err(UserProblem::invalid_spec(
                "spec.authentication.subject is missing: type external needs the name of the principal",
            ));
        }
        UserAuthenticationType::External => None,
        UserAuthenticationType::Scram => Some(desired_scram(user)?),
    };
    let acls = spec.authorization.as_ref().map_or(&[][..], |given| &given.acls);
    let mut rows = BTreeSet::new();
    for (index, acl) in acls.iter().enumerate() {
        let field = format!("spec.authorization.acls[{index}]");
        collect_acl(&field, acl, &principal, &mut rows)?;
    }
    Ok(DesiredUser {
        name: name.to_owned(),
        scram,
        acls: rows.into_iter().collect(),
        quotas: quotas(user, name)?,
        adopt: spec.adopt,
    })
}

fn check_name(user: &User, name: &str) -> Result<KafkaPrincipal, UserProblem> {
    let invalid = |problem: &str| {
        Err(UserProblem::invalid_spec(format!(
            "the user name {name:?} {problem}"
        )))
    };
    if name.len() > MAX_SECURITY_NAME_BYTES {
        return invalid(&format!(
            "has more than {MAX_SECURITY_NAME_BYTES} bytes: choose a shorter one"
        ));
    }
    if name.chars().any(char::is_control) {
        return invalid("has a control character: choose another one");
    }
    let principal = match KafkaPrincipal::user(name) {
        Ok(principal) if !principal.is_reserved() => principal,
        _ => return invalid("is not that of one user: choose another one"),
    };
    let before = user
        .status
        .as_ref()
        .and_then(|status| status.user_name.as_deref());
    match before.filter(|before| *before != name) {
        Some(before) => Err(UserProblem::invalid_spec(format!(
            "spec.name: cannot change from {before:?} to {name:?}: restore it and create a new User for the other name"
        ))),
        None => Ok(principal),
    }
}

fn desired_scram(user: &User) -> Result<DesiredScram, UserProblem> {
    let authentication = &user.spec.authentication;
    let secret_name = user.secret_name().to_owned();
    let password = authentication
        .password_secret
        .as_ref()
        .map(|SecretKeyRef { name, key }| {
            (name.clone(), key.clone().unwrap_or_else(|| "password".to_owned()))
        });
    if password.as_ref().is_some_and(|(name, _)| *name == secret_name) {
        return Err(UserProblem::invalid_spec(format!(
            "spec.authentication.passwordSecret.name: Secret {secret_name} is the one that the operator writes for clients: rename one, or set spec.secretName"
        )));
    }
    let mut mechanisms: Vec<ScramMechanism> = authentication
        .mechanisms
        .iter()
        .map(|mechanism| match mechanism {
            UserScramMechanism::Sha256 => ScramMechanism::Sha256,
            UserScramMechanism::Sha512 => ScramMechanism::Sha512,
        })
        .collect();
    if mechanisms.is_empty() {
        mechanisms = vec![ScramMechanism::Sha256, ScramMechanism::Sha512];
    }
    mechanisms.sort_by_key(|mechanism| mechanism.name());
    mechanisms.dedup();
    Ok(DesiredScram {
        mechanisms,
        password,
        secret_name,
    })
}

/// Adds the rows of an entry, one for each operation.
fn collect_acl(
    field: &str,
    acl: &UserAcl,
    principal: &KafkaPrincipal,
    rows: &mut BTreeSet<AclRow>,
) -> Result<(), UserProblem> {
    let invalid = |problem: String| UserProblem::invalid_spec(format!("{field}: {problem}"));
    let host: AclHost = acl
        .host
        .as_deref()
        .unwrap_or("*")
        .parse()
        .map_err(|error| invalid(format!("host: {error}")))?;
    let resource = &acl.resource;
    let is_cluster = resource.type_ == UserAclResourceType::Cluster;
    let name = match &resource.name {
        Some(name) => name.clone(),
        None if is_cluster => CLUSTER_RESOURCE_NAME.to_owned(),
        None => return Err(invalid("resource.name is missing".to_owned())),
    };
    for operation in &acl.operations {
        let binding = AclBinding {
            resource_type: resource_type(resource.type_),
            name: name.clone(),
            pattern: match resource.pattern_type {
                Some(UserAclPatternType::Prefix) => AclPatternType::Prefixed,
                Some(UserAclPatternType::Literal) | None => AclPatternType::Literal,
            },
            principal: principal.clone(),
            host,
            operation: self::operation(*operation),
            permission: match acl.permission {
                UserAclPermission::Allow => AclPermission::Allow,
                UserAclPermission::Deny => AclPermission::Deny,
            },
        };
        binding.validate().map_err(|error| invalid(error.to_string()))?;
        rows.insert(AclRow::from(&binding));
    }
    Ok(())
}

fn resource_type(given: UserAclResourceType) -> AclResourceType {
    match given {
        UserAclResourceType::Topic => AclResourceType::Topic,
        UserAclResourceType::Group => AclResourceType::Group,
        UserAclResourceType::Cluster => AclResourceType::Cluster,
        UserAclResourceType::TransactionalId => AclResourceType::TransactionalId,
    }
}

fn operation(given: UserAclOperation) -> AclOperation {
    match given {
        UserAclOperation::All => AclOperation::All,
        UserAclOperation::Read => AclOperation::Read,
        UserAclOperation::Write => AclOperation::Write,
        UserAclOperation::Create => AclOperation::Create,
        UserAclOperation::Delete => AclOperation::Delete,
        UserAclOperation::Alter => AclOperation::Alter,
        UserAclOperation::Describe => AclOperation::Describe,
        UserAclOperation::ClusterAction => AclOperation::ClusterAction,
        UserAclOperation::DescribeConfigs => AclOperation::DescribeConfigs,
        UserAclOperation::AlterConfigs => AclOperation::AlterConfigs,
        UserAclOperation::IdempotentWrite => AclOperation::IdempotentWrite,
        UserAclOperation::TwoPhaseCommit => AclOperation::TwoPhaseCommit,
    }
}

fn quotas(user: &User, name: &str) -> Result<Vec<ClientQuotaRow>, UserProblem> {
    let Some(given) = &user.spec.quotas else {
        return Ok(Vec::new());
    };
    let bytes = |rate: Option<i64>| rate.map(|rate| rate as f64);
    let quotas = [
        (
            "producerByteRate",
            QuotaKey::ProducerByteRate,
            bytes(given.producer_byte_rate),
        ),
        (
            "consumerByteRate",
            QuotaKey::ConsumerByteRate,
            bytes(given.consumer_byte_rate),
        ),
        (
            "requestPercentage",
            QuotaKey::RequestPercentage,
            given.request_percentage,
        ),
        (
            "controllerMutationRate",
            QuotaKey::ControllerMutationRate,
            given.controller_mutation_rate,
        ),
    ];
    let mut rows = Vec::new();
    for (field, key, value) in quotas {
        let Some(value) = value else { continue };
        if !(value.is_finite() && value > 0.0) {
            return Err(UserProblem::invalid_spec(format!(
                "spec.quotas.{field}: {value} is not a positive number"
            )));
        }
        rows.push(ClientQuotaRow {
            id: ClientQuotaId {
                user_name: Some(QuotaName::Named(name.to_owned())),
                client_id: None,
                ip: None,
                key: key.name().to_owned(),
            },
            value,
        });
    }
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(rows)
}

#[cfg(test)]
mod tests;
