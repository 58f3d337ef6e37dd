//! Implements the security service: users and ACLs. Changes go to the metadata store; an answer is
//! given once this agent decides by them. Others follow within seconds.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_core::{
    Error, ErrorCode,
    protocol::v1::{self, security_service_server::SecurityService},
    security::{
        AclBinding, AclFilter, AclOperation, AclResourceType, CLUSTER_RESOURCE_NAME, KafkaPrincipal,
        ScramCredential, ScramKeys, ScramMechanism,
    },
};
use streamhouse_metadata::{
    AclRow, MAX_SECURITY_CHANGES, ScramAlteration, ScramAlterationOutcome, ScramCredentialId,
    ScramCredentialRow, SecuritySnapshot,
};
use tonic::{Request, Response, Status};

use super::ServerDeps;
use crate::security::{self, ClientAccess};

/// The result of every call.
type SecurityResult<T> = Result<Response<T>, Status>;

/// ACLs that one call may create.
const MAX_CREATED_ACLS: usize = 1_000;

/// Serves those who manage users and ACLs.
#[derive(Debug, Clone)]
pub(super) struct AgentSecurityService {
    deps: Arc<ServerDeps>,
}

impl AgentSecurityService {
    /// Creates the service of this agent.
    pub(super) fn new(deps: Arc<ServerDeps>) -> Self {
        Self { deps }
    }

    /// Returns what is stored, of which this agent may not have heard yet.
    async fn stored(&self) -> Result<SecuritySnapshot, Error> {
        Ok(self.deps.metadata.load_security().await?)
    }

    /// Waits until this agent decides by what is stored.
    async fn catch_up(&self) {
        security::catch_up(&self.deps.security, &self.deps.directory).await;
    }

    /// Changes the credentials of one user.
    async fn alter_user(
        &self,
        access: &ClientAccess,
        name: &str,
        alteration: &ScramAlteration,
    ) -> Result<(), Error> {
        let outcomes = self.deps.metadata.alter_scram_credentials(alteration).await?;
        if outcomes.get(name) != Some(&ScramAlterationOutcome::Altered) {
            let message = "the user was changed at the same time; look at it and try again";
            return Err(Error::new(ErrorCode::InvalidRequest, message));
        }
        let (set, deleted) = (alteration.upserts.len(), alteration.deletions.len());
        tracing::info!(by = %access.principal(), user = name, set, deleted, "credentials altered");
        self.catch_up().await;
        Ok(())
    }

    /// Returns the stored ACLs that a filter selects. Those of a newer build are left out.
    async fn select_acls(&self, filter: Option<v1::AclFilter>) -> Result<Vec<AclBinding>, Error> {
        let filter = read_filter(filter.unwrap_or_default())?;
        let stored = self.stored().await?.acls;
        let bindings = stored.iter().filter_map(|row| row.binding().ok());
        Ok(bindings.filter(|binding| filter.matches(binding)).collect())
    }
}

/// Returns the client, if it may do this to the cluster.
fn check<T>(request: &Request<T>, operation: AclOperation) -> Result<ClientAccess, Error> {
    let access = ClientAccess::of(request)?;
    access.check_cluster(operation)?;
    Ok(access)
}

#[tonic::async_trait]
impl SecurityService for AgentSecurityService {
    async fn list_users(
        &self,
        request: Request<v1::ListUsersRequest>,
    ) -> SecurityResult<v1::ListUsersResponse> {
        check(&request, AclOperation::Describe)?;
        let mut users: BTreeMap<String, Vec<v1::CredentialListing>> = BTreeMap::new();
        for row in self.stored().await?.credentials {
            users
                .entry(row.user_name)
                .or_default()
                .push(v1::CredentialListing {
                    mechanism: row.mechanism,
                    iterations: u32::try_from(row.iterations).unwrap_or_default(),
                });
        }
        let users = users
            .into_iter()
            .map(|(name, credentials)| v1::UserListing { name, credentials })
            .collect();
        Ok(Response::new(v1::ListUsersResponse { users }))
    }

    async fn put_user(&self, request: Request<v1::PutUserRequest>) -> SecurityResult<v1::PutUserResponse> {
        let access = check(&request, AclOperation::Alter)?;
        let v1::PutUserRequest { name, credentials } = request.into_inner();
        let upserts = read_credentials(&name, credentials)?;
        let stored = self.stored().await?.credentials.into_iter();
        let others = stored.filter(|row| row.user_name == name);
        let others = others.filter(|row| !upserts.iter().any(|new| new.mechanism == row.mechanism));
        let deletions = others.map(|row| row.id()).collect();
        self.alter_user(&access, &name, &ScramAlteration { upserts, deletions })
            .await?;
        Ok(Response::new(v1::PutUserResponse {}))
    }

    async fn delete_user(
        &self,
        request: Request<v1::DeleteUserRequest>,
    ) -> SecurityResult<v1::DeleteUserResponse> {
        let access = check(&request, AclOperation::Alter)?;
        let name = request.into_inner().name;
        let stored = self.stored().await?.credentials.into_iter();
        let of_user = stored.filter(|row| row.user_name == name);
        let deletions: Vec<ScramCredentialId> = of_user.map(|row| row.id()).collect();
        if deletions.is_empty() {
            return Err(invalid(format!("there is no user {name:?}")).into());
        }
        let alteration = ScramAlteration {
            upserts: Vec::new(),
            deletions,
        };
        self.alter_user(&access, &name, &alteration).await?;
        Ok(Response::new(v1::DeleteUserResponse {}))
    }

    async fn list_acls(&self, request: Request<v1::ListAclsRequest>) -> SecurityResult<v1::ListAclsResponse> {
        check(&request, AclOperation::Describe)?;
        let acls = self.select_acls(request.into_inner().filter).await?;
        let acls = acls.iter().map(describe_acl).collect();
        Ok(Response::new(v1::ListAclsResponse { acls }))
    }

    async fn create_acls(
        &self,
        request: Request<v1::CreateAclsRequest>,
    ) -> SecurityResult<v1::CreateAclsResponse> {
        let access = check(&request, AclOperation::Alter)?;
        let acls = request.into_inner().acls;
        if acls.is_empty() || acls.len() > MAX_CREATED_ACLS {
            let message = format!("a call creates between 1 and {MAX_CREATED_ACLS} ACLs");
            return Err(invalid(message).into());
        }
        let rows: Result<Vec<AclRow>, Error> = acls.into_iter().map(read_acl).collect();
        let created = self
            .deps
            .metadata
            .create_acls(&rows?)
            .await
            .map_err(Error::from)?;
        let created = created.iter().filter(|is_new| **is_new).count();
        tracing::info!(by = %access.principal(), acls = created, "ACLs created");
        self.catch_up().await;
        Ok(Response::new(v1::CreateAclsResponse {
            created: u32::try_from(created).unwrap_or(u32::MAX),
        }))
    }

    async fn delete_acls(
        &self,
        request: Request<v1::DeleteAclsRequest>,
    ) -> SecurityResult<v1::DeleteAclsResponse> {
        let access = check(&request, AclOperation::Alter)?;
        let v1::DeleteAclsRequest {
            filter,
            validate_only,
        } = request.into_inner();
        let mut selected = self.select_acls(filter).await?;
        if !validate_only {
            let rows: Vec<AclRow> = selected.iter().map(AclRow::from).collect();
            let mut existed = Vec::with_capacity(rows.len());
            for rows in rows.chunks(MAX_SECURITY_CHANGES) {
                existed.extend(self.deps.metadata.delete_acls(rows).await.map_err(Error::from)?);
            }
            let mut existed = existed.into_iter();
            selected.retain(|_| existed.next().unwrap_or(false));
            tracing::info!(by = %access.principal(), acls = selected.len(), "ACLs deleted");
            self.catch_up().await;
        }
        let deleted = selected.iter().map(describe_acl).collect();
        Ok(Response::new(v1::DeleteAclsResponse { deleted }))
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> SecurityResult<v1::ExplainAccessResponse> {
        check(&request, AclOperation::Describe)?;
        Ok(Response::new(explain(&self.deps, &request.into_inner())?))
    }
}

/// Returns what this agent decides, and why.
fn explain(deps: &ServerDeps, asked: &v1::ExplainAccessRequest) -> Result<v1::ExplainAccessResponse, Error> {
    let principal: KafkaPrincipal = read(&asked.principal)?;
    let operation: AclOperation = read(&asked.operation)?;
    let resource_type: AclResourceType = read(&asked.resource_type)?;
    let host = match asked.host.as_str() {
        "" => None,
        host => Some(read(host)?),
    };
    let name = match (resource_type, asked.resource_name.as_str()) {
        (AclResourceType::Cluster, "") => CLUSTER_RESOURCE_NAME,
        (_, name) => name,
    };
    if !deps.security.is_authorization_on() {
        return Ok(v1::ExplainAccessResponse {
            allowed: true,
            decision: "allowed: the agents run without `authorization`".to_owned(),
            rule: None,
        });
    }
    let view = deps.security.loaded()?;
    let authorizer = view.authorizer();
    let decision = authorizer.authorize(&principal, host, operation, resource_type, name);
    if decision.is_allowed() && view.is_sealed_for(&principal) {
        return Ok(v1::ExplainAccessResponse {
            allowed: false,
            decision: "denied: this agent cannot read an ACL that may deny it; its log names the ACL"
                .to_owned(),
            rule: None,
        });
    }
    Ok(v1::ExplainAccessResponse {
        allowed: decision.is_allowed(),
        decision: decision.to_string(),
        rule: decision.rule().map(describe_acl),
    })
}

fn invalid(problem: impl ToString) -> Error {
    Error::new(ErrorCode::InvalidRequest, problem.to_string())
}

/// Reads a name of Kafka's.
fn read<T: std::str::FromStr>(text: &str) -> Result<T, Error>
where
    T::Err: std::fmt::Display,
{
    text.parse()
        .map_err(|problem| invalid(format!("{text:?}: {problem}")))
}

/// Reads a part of a filter; an empty one selects everything.
fn read_part<T: std::str::FromStr>(text: &str) -> Result<Option<T>, Error>
where
    T::Err: std::fmt::Display,
{
    if text.is_empty() {
        return Ok(None);
    }
    read(text).map(Some)
}

fn read_filter(filter: v1::AclFilter) -> Result<AclFilter, Error> {
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(AclFilter {
        resource_type: read_part(&filter.resource_type)?,
        pattern: read_part(&filter.pattern_type)?.unwrap_or_default(),
        operation: read_part(&filter.operation)?,
        permission: read_part(&filter.permission)?,
        name: text(filter.resource_name),
        principal: text(filter.principal),
        host: text(filter.host),
    })
}

fn read_acl(acl: v1::AclBinding) -> Result<AclRow, Error> {
    let binding = AclBinding {
        resource_type: read(&acl.resource_type)?,
        pattern: read(&acl.pattern_type)?,
        principal: read(&acl.principal)?,
        host: read(&acl.host)?,
        operation: read(&acl.operation)?,
        permission: read(&acl.permission)?,
        name: acl.resource_name,
    };
    binding.validate().map_err(invalid)?;
    Ok(AclRow::from(&binding))
}

fn describe_acl(binding: &AclBinding) -> v1::AclBinding {
    let row = AclRow::from(binding);
    v1::AclBinding {
        principal: row.principal,
        resource_type: row.resource_type,
        resource_name: row.resource_name,
        pattern_type: row.pattern_type,
        host: row.host,
        operation: row.operation,
        permission: row.permission,
    }
}

/// Reads the credentials of a user, each of another mechanism.
fn read_credentials(name: &str, verifiers: Vec<v1::ScramVerifier>) -> Result<Vec<ScramCredentialRow>, Error> {
    let principal = KafkaPrincipal::user(name).map_err(invalid)?;
    if principal.is_reserved() {
        return Err(invalid(format!(
            "{principal} stands for others and has no password"
        )));
    }
    if verifiers.is_empty() || verifiers.len() > ScramMechanism::ALL.len() {
        return Err(invalid("a user has one or two credentials"));
    }
    let mut rows: Vec<ScramCredentialRow> = Vec::new();
    for verifier in verifiers {
        let keys = ScramKeys {
            stored: verifier.stored_key.to_vec(),
            server: verifier.server_key.to_vec(),
        };
        let mechanism: ScramMechanism = read(&verifier.mechanism)?;
        let credential =
            ScramCredential::from_keys(mechanism, verifier.salt.to_vec(), verifier.iterations, keys);
        let row = ScramCredentialRow::new(name, &credential.map_err(invalid)?);
        if rows.iter().any(|other| other.mechanism == row.mechanism) {
            return Err(invalid("a user has one credential for each mechanism"));
        }
        rows.push(row);
    }
    Ok(rows)
}
