//! A client that has authenticated, and what it may do.

use std::{net::IpAddr, sync::Arc};

use streamhouse_core::{
    Error, ErrorCode,
    security::{AclOperation, AclResourceType, CLUSTER_RESOURCE_NAME, KafkaPrincipal, ScramCredential},
};

use tokio::time::{Duration, Instant};

use super::ClientSecurity;

/// Who a client is, and by which credential it has proven so, or until when.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    principal: KafkaPrincipal,
    credential: Option<ScramCredential>,
    /// Of a client that has authenticated by a token.
    token: Option<TokenLifetime>,
}

/// Until when a token proves something.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenLifetime {
    /// When the token is no longer accepted.
    pub(super) valid_until: Instant,
    /// By how much that is later than its time of expiry, because clocks differ.
    pub(super) clock_skew: Duration,
}

impl ClientIdentity {
    /// Returns the identity of a client that has proven nothing.
    pub fn anonymous() -> Self {
        Self {
            principal: KafkaPrincipal::ANONYMOUS,
            credential: None,
            token: None,
        }
    }

    /// Returns the identity of a user who has proven to know the password of a credential.
    ///
    /// # Errors
    /// If the name cannot be that of a principal, which no stored one is.
    pub(super) fn proven(user: &str, credential: ScramCredential) -> Result<Self, Error> {
        let principal = KafkaPrincipal::user(user)
            .ok()
            .filter(|principal| !principal.is_reserved());
        let principal = principal.ok_or_else(|| {
            let message = format!("{user:?} is not the name of a user");
            Error::new(ErrorCode::SaslAuthenticationFailed, message)
        })?;
        Ok(Self {
            principal,
            credential: Some(credential),
            token: None,
        })
    }

    /// Returns the identity of a client that has proven it by a token.
    pub(super) fn by_token(principal: KafkaPrincipal, lifetime: TokenLifetime) -> Self {
        Self {
            principal,
            credential: None,
            token: Some(lifetime),
        }
    }

    /// Returns the identity that another agent, which has proven to be one, vouches for.
    pub fn forwarded(principal: KafkaPrincipal) -> Self {
        Self {
            principal,
            credential: None,
            token: None,
        }
    }

    /// Returns the principal.
    pub fn principal(&self) -> &KafkaPrincipal {
        &self.principal
    }

    /// Returns the credential by which the client has authenticated.
    pub(super) fn credential(&self) -> Option<&ScramCredential> {
        self.credential.as_ref()
    }

    /// Returns whether the client has authenticated by a token that is no longer valid.
    pub(super) fn is_expired(&self) -> bool {
        self.token
            .is_some_and(|token| Instant::now() >= token.valid_until)
    }
}

/// What one client may do, by the rules in force when it is asked.
#[derive(Debug, Clone)]
pub struct ClientAccess {
    security: Arc<ClientSecurity>,
    identity: Arc<ClientIdentity>,
    host: Option<IpAddr>,
    client_id: Arc<str>,
}

impl ClientAccess {
    pub(super) fn new(security: Arc<ClientSecurity>, identity: ClientIdentity, host: Option<IpAddr>) -> Self {
        Self {
            security,
            identity: Arc::new(identity),
            host,
            client_id: Arc::default(),
        }
    }

    /// Returns the access of the client of a gRPC call, which its listener has attached.
    ///
    /// # Errors
    /// `Unknown` if it has attached none, which no listener does.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Error> {
        let access = request.extensions().get::<Self>().cloned();
        access.ok_or_else(|| Error::new(ErrorCode::Unknown, "the call has no client"))
    }

    pub(super) fn security(&self) -> &ClientSecurity {
        &self.security
    }

    /// Returns this access with the id by which the client calls itself.
    #[must_use]
    pub fn with_client_id(mut self, client_id: &str) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// Returns the id by which the client of a gRPC call calls itself; may be empty.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Returns the client's principal.
    pub fn principal(&self) -> &KafkaPrincipal {
        &self.identity.principal
    }

    /// Checks whether the client's credential is still the stored one, or its token still valid.
    ///
    /// # Errors
    /// `SaslAuthenticationFailed` if the credential was changed or deleted. `NetworkException` if
    /// the token has expired: the client may have a newer one, and calls again with it.
    pub fn check_current(&self) -> Result<(), Error> {
        if self.is_current() {
            return Ok(());
        }
        let (code, message) = match self.has_expired() {
            true => (
                ErrorCode::NetworkException,
                "the token has expired: authenticate again",
            ),
            false => (
                ErrorCode::SaslAuthenticationFailed,
                "the user's password was changed or deleted: authenticate again",
            ),
        };
        Err(Error::new(code, message))
    }

    /// Returns the address of the client.
    pub fn host(&self) -> Option<IpAddr> {
        self.host
    }

    /// Returns whether the client's credential is still the stored one, or its token still valid.
    pub fn is_current(&self) -> bool {
        self.security.is_current(&self.identity)
    }

    /// Returns whether the client has authenticated by a token that is no longer valid.
    pub fn has_expired(&self) -> bool {
        self.identity.is_expired()
    }

    /// Returns in what time the client's token expires; `None` if it has authenticated by other
    /// means.
    pub fn remaining_session(&self) -> Option<Duration> {
        let token = self.identity.token?;
        let accepted = token.valid_until.saturating_duration_since(Instant::now());
        Some(accepted.saturating_sub(token.clock_skew))
    }

    /// Returns whether the client may do something to a resource.
    pub fn allows(&self, operation: AclOperation, resource_type: AclResourceType, name: &str) -> bool {
        if !self.security.is_authorization_on() {
            return true;
        }
        let view = self.security.view.load();
        let Some(view) = view.as_ref() else {
            return false;
        };
        view.authorize(self.principal(), self.host, operation, resource_type, name)
    }

    /// Returns whether the client may do something to some resource of a type.
    pub fn allows_some(&self, operation: AclOperation, resource_type: AclResourceType) -> bool {
        if !self.security.is_authorization_on() {
            return true;
        }
        let view = self.security.view.load();
        view.as_ref().is_some_and(|view| {
            view.authorize_by_resource_type(self.principal(), self.host, operation, resource_type)
        })
    }

    /// Returns whether the client may learn that a topic exists.
    pub fn can_see_topic(&self, topic: &str) -> bool {
        self.allows(AclOperation::Describe, AclResourceType::Topic, topic)
    }

    /// Returns whether the client may learn that a group exists.
    pub fn can_see_group(&self, group: &str) -> bool {
        self.allows(AclOperation::Describe, AclResourceType::Group, group)
            || self.allows_cluster(AclOperation::Describe)
    }

    /// Returns whether the client may do something to the cluster. Unlike
    /// [`check_cluster`](Self::check_cluster), it does not count as denied if not: something else
    /// may allow the request.
    pub fn allows_cluster(&self, operation: AclOperation) -> bool {
        self.allows(operation, AclResourceType::Cluster, CLUSTER_RESOURCE_NAME)
    }

    /// Checks whether the client may create a topic: any, or this one.
    ///
    /// # Errors
    /// As [`check_topic`](Self::check_topic).
    pub fn check_creation(&self, topic: &str) -> Result<(), Error> {
        match self.allows_cluster(AclOperation::Create) {
            true => Ok(()),
            false => self.check_topic(AclOperation::Create, topic),
        }
    }

    /// Checks whether the client may get a producer id: by the right to write to some topic, as
    /// since Kafka 3.0, or by one of its own.
    ///
    /// # Errors
    /// As [`check_cluster`](Self::check_cluster).
    pub fn check_producer_id(&self) -> Result<(), Error> {
        match self.allows_some(AclOperation::Write, AclResourceType::Topic) {
            true => Ok(()),
            false => self.check_cluster(AclOperation::IdempotentWrite),
        }
    }

    /// Checks whether the client may do something to a topic.
    ///
    /// # Errors
    /// `TopicAuthorizationFailed`, or `MetadataUnavailable` before the ACLs are known. Whether the
    /// topic exists is not said.
    pub fn check_topic(&self, operation: AclOperation, topic: &str) -> Result<(), Error> {
        self.check(operation, AclResourceType::Topic, topic)
    }

    /// Checks whether the client may do something to a group.
    ///
    /// # Errors
    /// `GroupAuthorizationFailed`.
    pub fn check_group(&self, operation: AclOperation, group: &str) -> Result<(), Error> {
        self.check(operation, AclResourceType::Group, group)
    }

    /// Checks whether the client may do something to the cluster.
    ///
    /// # Errors
    /// `ClusterAuthorizationFailed`.
    pub fn check_cluster(&self, operation: AclOperation) -> Result<(), Error> {
        self.check(operation, AclResourceType::Cluster, CLUSTER_RESOURCE_NAME)
    }

    fn check(
        &self,
        operation: AclOperation,
        resource_type: AclResourceType,
        name: &str,
    ) -> Result<(), Error> {
        if self.allows(operation, resource_type, name) {
            return Ok(());
        }
        // Nothing is decided before the first snapshot.
        self.security.loaded()?;
        self.security
            .metrics
            .security
            .record_denied(operation.kafka_name(), resource_type.kafka_name());
        let principal = self.principal();
        let (code, of) = match resource_type {
            AclResourceType::Topic => (ErrorCode::TopicAuthorizationFailed, format!("the topic {name:?}")),
            AclResourceType::Group => (ErrorCode::GroupAuthorizationFailed, format!("the group {name:?}")),
            _ => (ErrorCode::ClusterAuthorizationFailed, "the cluster".to_owned()),
        };
        let message = format!("{principal} may not {operation} {of}: no ACL allows it");
        Err(Error::new(code, message))
    }
}
