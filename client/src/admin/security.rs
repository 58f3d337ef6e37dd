//! Users and access control lists.

use std::net::IpAddr;

use streamhouse_core::{
    protocol::v1,
    security::{
        AclBinding, AclFilter, AclOperation, AclPatternFilter, AclResourceType, KafkaPrincipal,
        ScramCredential, ScramMechanism,
    },
};

use super::{AccessDecision, Admin, UserCredential, UserListing};
use crate::{
    connection,
    error::{Error, Result},
};

/// Calls the security service of any agent.
macro_rules! call_security {
    ($admin:ident, $what:literal, $method:ident($request:expr)) => {{
        let client = &$admin.client;
        let request = $request;
        let called = client.call_any_agent($what, client.api_deadline(), |channel| {
            let request = request.clone();
            async move { connection::security_client(channel).$method(request).await }
        });
        called.await?.0
    }};
}

impl Admin {
    /// Returns all users that have a password, by name.
    ///
    /// # Errors
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn list_users(&self) -> Result<Vec<UserListing>> {
        let answer = call_security!(self, "listing users", list_users(v1::ListUsersRequest {}));
        let users = answer.users.into_iter().map(|user| UserListing {
            name: user.name,
            credentials: user
                .credentials
                .into_iter()
                .map(|credential| UserCredential {
                    mechanism: credential.mechanism,
                    iterations: credential.iterations,
                })
                .collect(),
        });
        Ok(users.collect())
    }

    /// Creates a user, or changes its password: it can authenticate with these mechanisms
    /// afterwards, and only with this password. The password is not sent.
    ///
    /// # Errors
    /// [`Error::Config`] if the password is empty or no mechanism is given;
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn put_user(&self, name: &str, password: &str, mechanisms: &[ScramMechanism]) -> Result<()> {
        if password.is_empty() || mechanisms.is_empty() {
            return Err(Error::config("a user needs a password and a mechanism"));
        }
        let entropy = self.client.config().entropy.clone();
        let derive = |mechanism: &ScramMechanism| {
            ScramCredential::generate(*mechanism, password, entropy.as_ref())
                .map(|credential| verifier(&credential))
                .map_err(|problem| Error::config(problem.to_string()))
        };
        let credentials: Result<Vec<v1::ScramVerifier>> = mechanisms.iter().map(derive).collect();
        let request = v1::PutUserRequest {
            name: name.to_owned(),
            credentials: credentials?,
        };
        call_security!(self, "putting the user", put_user(request));
        Ok(())
    }

    /// Deletes a user. Its ACLs stay.
    ///
    /// # Errors
    /// INVALID_REQUEST if there is no such user; [`Error::Cluster`] and
    /// [`Error::Timeout`].
    pub async fn delete_user(&self, name: &str) -> Result<()> {
        let request = v1::DeleteUserRequest {
            name: name.to_owned(),
        };
        call_security!(self, "deleting the user", delete_user(request));
        Ok(())
    }

    /// Returns the ACLs that a filter selects.
    ///
    /// # Errors
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn list_acls(&self, filter: &AclFilter) -> Result<Vec<AclBinding>> {
        let filter = Some(filter_to_protocol(filter));
        let request = v1::ListAclsRequest { filter };
        let answer = call_security!(self, "listing ACLs", list_acls(request));
        answer.acls.iter().map(binding_from_protocol).collect()
    }

    /// Creates ACLs, and returns how many of them are new.
    ///
    /// # Errors
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn create_acls(&self, acls: &[AclBinding]) -> Result<u32> {
        let acls = acls.iter().map(binding_to_protocol).collect();
        let request = v1::CreateAclsRequest { acls };
        Ok(call_security!(self, "creating ACLs", create_acls(request)).created)
    }

    /// Deletes the ACLs that a filter selects, and returns them; with `validate_only` it only
    /// returns them.
    ///
    /// # Errors
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn delete_acls(&self, filter: &AclFilter, validate_only: bool) -> Result<Vec<AclBinding>> {
        let request = v1::DeleteAclsRequest {
            filter: Some(filter_to_protocol(filter)),
            validate_only,
        };
        let answer = call_security!(self, "deleting ACLs", delete_acls(request));
        answer.deleted.iter().map(binding_from_protocol).collect()
    }

    /// Returns whether a principal may do something to a resource, and why. `host` is the client's
    /// address; without one, only rules for every host count.
    ///
    /// # Errors
    /// [`Error::Cluster`] and [`Error::Timeout`].
    pub async fn explain_access(
        &self,
        principal: &KafkaPrincipal,
        host: Option<IpAddr>,
        operation: AclOperation,
        (resource_type, name): (AclResourceType, &str),
    ) -> Result<AccessDecision> {
        let request = v1::ExplainAccessRequest {
            principal: principal.to_string(),
            host: host.map(|host| host.to_string()).unwrap_or_default(),
            operation: operation.kafka_name().to_owned(),
            resource_type: resource_type.kafka_name().to_owned(),
            resource_name: name.to_owned(),
        };
        let answer = call_security!(self, "explaining access", explain_access(request));
        Ok(AccessDecision {
            allowed: answer.allowed,
            decision: answer.decision,
            rule: answer.rule.as_ref().map(binding_from_protocol).transpose()?,
        })
    }
}

fn verifier(credential: &ScramCredential) -> v1::ScramVerifier {
    v1::ScramVerifier {
        mechanism: credential.mechanism().name().to_owned(),
        iterations: credential.iterations(),
        salt: credential.salt().to_vec().into(),
        stored_key: credential.keys().stored.clone().into(),
        server_key: credential.keys().server.clone().into(),
    }
}

fn binding_to_protocol(binding: &AclBinding) -> v1::AclBinding {
    v1::AclBinding {
        principal: binding.principal.to_string(),
        resource_type: binding.resource_type.kafka_name().to_owned(),
        resource_name: binding.name.clone(),
        pattern_type: binding.pattern.kafka_name().to_owned(),
        host: binding.host.to_string(),
        operation: binding.operation.kafka_name().to_owned(),
        permission: binding.permission.kafka_name().to_owned(),
    }
}

fn binding_from_protocol(acl: &v1::AclBinding) -> Result<AclBinding> {
    fn read<T: std::str::FromStr>(text: &str) -> Result<T>
    where
        T::Err: std::fmt::Display,
    {
        text.parse().map_err(|problem: T::Err| {
            let message = format!("the agent's answer cannot be read, update this client: {problem}");
            Error::State(message.into())
        })
    }
    Ok(AclBinding {
        resource_type: read(&acl.resource_type)?,
        name: acl.resource_name.clone(),
        pattern: read(&acl.pattern_type)?,
        principal: read(&acl.principal)?,
        host: read(&acl.host)?,
        operation: read(&acl.operation)?,
        permission: read(&acl.permission)?,
    })
}

fn filter_to_protocol(filter: &AclFilter) -> v1::AclFilter {
    let pattern_type = match filter.pattern {
        AclPatternFilter::Any => "ANY",
        AclPatternFilter::Match => "MATCH",
        AclPatternFilter::Only(pattern) => pattern.kafka_name(),
    };
    let name_of = |name: Option<&'static str>| name.unwrap_or_default().to_owned();
    v1::AclFilter {
        principal: filter.principal.clone().unwrap_or_default(),
        resource_type: name_of(filter.resource_type.map(AclResourceType::kafka_name)),
        resource_name: filter.name.clone().unwrap_or_default(),
        pattern_type: pattern_type.to_owned(),
        host: filter.host.clone().unwrap_or_default(),
        operation: name_of(filter.operation.map(AclOperation::kafka_name)),
        permission: name_of(filter.permission.map(|permission| permission.kafka_name())),
    }
}
