//! The users, ACLs and quotas of one moment, indexed.

use std::{collections::HashMap, net::IpAddr};

use streamhouse_core::security::{
    AclAuthorizer, AclBinding, AclOperation, AclPermission, AclResourceType, ClientQuotas, KafkaPrincipal,
    QuotaEntity, QuotaKey, ScramCredential, ScramMechanism,
};
use streamhouse_metadata::SecuritySnapshot;

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
            match row.credential() {
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
            match row.binding() {
                Ok(binding) => bindings.push(binding),
                Err(problem) => {
                    let allows = row.permission == AclPermission::Allow.kafka_name();
                    is_sealed |= !allows;
                    tracing::error!(?row, problem, denies_all = !allows, "an ACL cannot be read");
                }
            }
        }
        let quotas = snapshot.quotas.iter().filter_map(|row| match row.quota() {
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
