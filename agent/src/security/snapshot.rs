//! The users, ACLs and quotas of one moment, indexed.

use std::{collections::HashMap, net::IpAddr};

use streamhouse_core::security::{
    AclAuthorizer, AclBinding, AclOperation, AclPermission, AclResourceType, ClientQuotas, KafkaPrincipal,
    QuotaEntity, QuotaEntityType, QuotaKey, QuotaName, ScramCredential, ScramKeys, ScramMechanism,
};
use streamhouse_metadata::{
    AclRow, ClientQuotaId, ClientQuotaRow, QuotaEntityName, ScramCredentialRow, SecuritySnapshot,
};

/// The users, ACLs and quotas of a snapshot.
#[derive(Debug)]
pub struct SecurityView {
    version: i64,
    /// By user and mechanism.
    credentials: HashMap<String, HashMap<ScramMechanism, ScramCredential>>,
    bindings: Vec<AclBinding>,
    authorizer: AclAuthorizer,
    /// An ACL that may deny something cannot be read: only super users may do anything.
    is_sealed: bool,
    quotas: ClientQuotas,
    quota_values: Vec<(QuotaEntity, QuotaKey, f64)>,
}

impl SecurityView {
    /// Indexes a snapshot. A row that this build cannot read, which a newer one may have written,
    /// is left out and logged; if it may deny something, everything is denied.
    pub(super) fn new(snapshot: SecuritySnapshot, super_users: &[KafkaPrincipal]) -> Self {
        let mut credentials: HashMap<String, HashMap<_, _>> = HashMap::new();
        for row in &snapshot.credentials {
            match read_credential(row) {
                Ok(credential) => {
                    let of_user = credentials.entry(row.user_name.clone()).or_default();
                    of_user.insert(credential.mechanism(), credential);
                }
                Err(problem) => tracing::error!(?row, problem, "a credential cannot be read; it is not used"),
            }
        }
        let mut bindings = Vec::with_capacity(snapshot.acls.len());
        let mut is_sealed = false;
        for row in &snapshot.acls {
            match acl_binding(row) {
                Ok(binding) => bindings.push(binding),
                Err(problem) => {
                    let allows = row.permission == AclPermission::Allow.kafka_name();
                    is_sealed |= !allows;
                    tracing::error!(?row, problem, denies_all = !allows, "an ACL cannot be read");
                }
            }
        }
        let quotas = snapshot.quotas.iter().filter_map(|row| match read_quota(row) {
            Ok(quota) => Some(quota),
            Err(problem) => {
                tracing::error!(?row, problem, "a quota cannot be read; it is not used");
                None
            }
        });
        let quota_values: Vec<_> = quotas.collect();
        Self {
            version: snapshot.version,
            credentials,
            authorizer: AclAuthorizer::new(bindings.iter().cloned(), super_users.iter().cloned(), false),
            bindings,
            is_sealed,
            quotas: ClientQuotas::new(quota_values.iter().cloned()),
            quota_values,
        }
    }

    /// Returns the version of the snapshot.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Returns the credential of a user for a mechanism.
    pub fn credential(&self, user: &str, mechanism: ScramMechanism) -> Option<&ScramCredential> {
        self.credentials.get(user)?.get(&mechanism)
    }

    /// Returns the users with their credentials, in no particular order.
    pub fn users(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = &ScramCredential>)> {
        self.credentials
            .iter()
            .map(|(user, of_user)| (user.as_str(), of_user.values()))
    }

    /// Returns the ACLs in order.
    pub fn bindings(&self) -> &[AclBinding] {
        &self.bindings
    }

    /// Returns what decides by the ACLs.
    pub fn authorizer(&self) -> &AclAuthorizer {
        &self.authorizer
    }

    /// Returns whether a principal may do something to a resource.
    pub fn authorize(
        &self,
        principal: &KafkaPrincipal,
        host: Option<IpAddr>,
        operation: AclOperation,
        resource_type: AclResourceType,
        name: &str,
    ) -> bool {
        let decision = self
            .authorizer
            .authorize(principal, host, operation, resource_type, name);
        decision.is_allowed() && !self.is_sealed_for(principal)
    }

    /// Returns whether a principal may do something to some resource of a type.
    pub fn authorize_by_resource_type(
        &self,
        principal: &KafkaPrincipal,
        host: Option<IpAddr>,
        operation: AclOperation,
        resource_type: AclResourceType,
    ) -> bool {
        let decision = self
            .authorizer
            .authorize_by_resource_type(principal, host, operation, resource_type);
        decision.is_allowed() && !self.is_sealed_for(principal)
    }

    /// Returns whether an ACL that this build cannot read denies a principal everything.
    pub fn is_sealed_for(&self, principal: &KafkaPrincipal) -> bool {
        self.is_sealed && !self.authorizer.is_super_user(principal)
    }

    /// Returns each quota: whom it is for, what it limits, and the limit.
    pub fn quota_values(&self) -> &[(QuotaEntity, QuotaKey, f64)] {
        &self.quota_values
    }

    /// Returns the quotas.
    pub fn quotas(&self) -> &ClientQuotas {
        &self.quotas
    }
}

/// Returns what identifies a quota in the metadata store.
pub(crate) fn quota_id(entity: &QuotaEntity, key: QuotaKey) -> ClientQuotaId {
    let stored = |name: Option<&QuotaName>| {
        name.map(|name| match name {
            QuotaName::Default => QuotaEntityName::Default,
            QuotaName::Named(name) => QuotaEntityName::Named(name.clone()),
        })
    };
    ClientQuotaId {
        user_name: stored(entity.user()),
        client_id: stored(entity.client_id()),
        ip: stored(entity.ip()),
        key: key.name().to_owned(),
    }
}

fn read_credential(row: &ScramCredentialRow) -> Result<ScramCredential, String> {
    let mechanism: ScramMechanism = row.mechanism.parse().map_err(|problem| format!("{problem}"))?;
    let iterations = u32::try_from(row.iterations).map_err(|problem| problem.to_string())?;
    let keys = ScramKeys {
        stored: row.stored_key.clone(),
        server: row.server_key.clone(),
    };
    ScramCredential::from_keys(mechanism, row.salt.clone(), iterations, keys)
        .map_err(|problem| problem.to_string())
}

/// Returns a stored credential as the metadata store keeps it.
pub(crate) fn credential_row(user: &str, credential: &ScramCredential) -> ScramCredentialRow {
    ScramCredentialRow {
        user_name: user.to_owned(),
        mechanism: credential.mechanism().name().to_owned(),
        salt: credential.salt().to_vec(),
        iterations: i32::try_from(credential.iterations()).unwrap_or(i32::MAX),
        stored_key: credential.keys().stored.clone(),
        server_key: credential.keys().server.clone(),
    }
}

/// Returns an ACL that the metadata store keeps.
pub(crate) fn acl_binding(row: &AclRow) -> Result<AclBinding, String> {
    fn read<T: std::str::FromStr>(text: &str) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        text.parse().map_err(|problem: T::Err| problem.to_string())
    }
    let binding = AclBinding {
        resource_type: read(&row.resource_type)?,
        name: row.resource_name.clone(),
        pattern: read(&row.pattern_type)?,
        principal: read(&row.principal)?,
        host: read(&row.host)?,
        operation: read(&row.operation)?,
        permission: read(&row.permission)?,
    };
    binding.validate().map_err(|problem| problem.to_string())?;
    Ok(binding)
}

/// Returns an ACL as the metadata store keeps it.
pub(crate) fn acl_row(binding: &AclBinding) -> AclRow {
    AclRow {
        principal: binding.principal.to_string(),
        resource_type: binding.resource_type.kafka_name().to_owned(),
        resource_name: binding.name.clone(),
        pattern_type: binding.pattern.kafka_name().to_owned(),
        host: binding.host.to_string(),
        operation: binding.operation.kafka_name().to_owned(),
        permission: binding.permission.kafka_name().to_owned(),
    }
}

fn read_quota(row: &ClientQuotaRow) -> Result<(QuotaEntity, QuotaKey, f64), String> {
    let ClientQuotaId {
        user_name,
        client_id,
        ip,
        key,
    } = &row.id;
    let parts = [
        (QuotaEntityType::User, user_name),
        (QuotaEntityType::ClientId, client_id),
        (QuotaEntityType::Ip, ip),
    ];
    let parts = parts.into_iter().filter_map(|(part, name)| {
        let name = match name.as_ref()? {
            QuotaEntityName::Default => QuotaName::Default,
            QuotaEntityName::Named(name) => QuotaName::Named(name.clone()),
        };
        Some((part, name))
    });
    let entity = QuotaEntity::new(parts).map_err(|problem| problem.to_string())?;
    let key: QuotaKey = key.parse().map_err(|problem| format!("{problem}"))?;
    Ok((entity, key, row.value))
}
