//! Rows of users, ACLs and quotas as the values of [`streamhouse_core::security`], and back.

use std::{fmt::Display, str::FromStr};

use streamhouse_core::security::{
    AclBinding, QuotaEntity, QuotaEntityType, QuotaKey, ScramCredential, ScramKeys, ScramMechanism,
};

use super::security::{AclRow, ClientQuotaId, ClientQuotaRow, ScramCredentialRow};

/// Reads a value by its name.
fn read<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|problem: T::Err| problem.to_string())
}

impl ScramCredentialRow {
    /// Returns the row of a user's credential.
    pub fn new(user_name: &str, credential: &ScramCredential) -> Self {
        let ScramKeys { stored, server } = credential.keys().clone();
        Self {
            user_name: user_name.to_owned(),
            mechanism: credential.mechanism().name().to_owned(),
            salt: credential.salt().to_vec(),
            iterations: i32::try_from(credential.iterations()).unwrap_or(i32::MAX),
            stored_key: stored,
            server_key: server,
        }
    }

    /// Returns the credential.
    ///
    /// # Errors
    ///
    /// What is wrong with a row that this build cannot read.
    pub fn credential(&self) -> Result<ScramCredential, String> {
        let mechanism: ScramMechanism = read(&self.mechanism)?;
        let iterations = u32::try_from(self.iterations).map_err(|problem| problem.to_string())?;
        let keys = ScramKeys {
            stored: self.stored_key.clone(),
            server: self.server_key.clone(),
        };
        ScramCredential::from_keys(mechanism, self.salt.clone(), iterations, keys)
            .map_err(|problem| problem.to_string())
    }
}

impl From<&AclBinding> for AclRow {
    fn from(binding: &AclBinding) -> Self {
        Self {
            principal: binding.principal.to_string(),
            resource_type: binding.resource_type.kafka_name().to_owned(),
            resource_name: binding.name.clone(),
            pattern_type: binding.pattern.kafka_name().to_owned(),
            host: binding.host.to_string(),
            operation: binding.operation.kafka_name().to_owned(),
            permission: binding.permission.kafka_name().to_owned(),
        }
    }
}

impl AclRow {
    /// Returns the entry.
    ///
    /// # Errors
    ///
    /// What is wrong with a row that this build cannot read.
    pub fn binding(&self) -> Result<AclBinding, String> {
        let binding = AclBinding {
            resource_type: read(&self.resource_type)?,
            name: self.resource_name.clone(),
            pattern: read(&self.pattern_type)?,
            principal: read(&self.principal)?,
            host: read(&self.host)?,
            operation: read(&self.operation)?,
            permission: read(&self.permission)?,
        };
        binding.validate().map_err(|problem| problem.to_string())?;
        Ok(binding)
    }
}

impl ClientQuotaId {
    /// Returns the id of an entity's quota.
    pub fn new(entity: &QuotaEntity, key: QuotaKey) -> Self {
        Self {
            user_name: entity.user().cloned(),
            client_id: entity.client_id().cloned(),
            ip: entity.ip().cloned(),
            key: key.name().to_owned(),
        }
    }
}

impl ClientQuotaRow {
    /// Returns whom the quota is for, what it limits, and the limit.
    ///
    /// # Errors
    ///
    /// What is wrong with a row that this build cannot read.
    pub fn quota(&self) -> Result<(QuotaEntity, QuotaKey, f64), String> {
        let ClientQuotaId {
            user_name,
            client_id,
            ip,
            key,
        } = &self.id;
        let parts = [
            (QuotaEntityType::User, user_name),
            (QuotaEntityType::ClientId, client_id),
            (QuotaEntityType::Ip, ip),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(part, name)| Some((part, name.clone()?)));
        let entity = QuotaEntity::new(parts).map_err(|problem| problem.to_string())?;
        Ok((entity, read(key)?, self.value))
    }
}
