//! The resource `User`: one principal of a `StreamHouseCluster`, with its credentials, access
//! control lists and quotas.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AdoptionPolicy, ClusterRef, DeletionPolicy};

/// A user of a StreamHouseCluster in the same namespace: how it authenticates, what it may do, and
/// how much.
#[allow(clippy::duplicated_attributes)] // columns of the same type
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "streamhouse.io",
    version = "v1alpha1",
    kind = "User",
    plural = "users",
    singular = "user",
    shortname = "shu",
    category = "streamhouse",
    namespaced,
    doc = "A user of a StreamHouseCluster in the same namespace: how it authenticates, what it may do, and how much.",
    status = "UserStatus",
    derive = "PartialEq",
    selectable = ".spec.clusterRef.name",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(
        name = "Authentication",
        type_ = "string",
        json_path = ".spec.authentication.type"
    ),
    printcolumn(name = "Secret", type_ = "string", json_path = ".status.secretName"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = "1"
    ),
    printcolumn(
        name = "User",
        type_ = "string",
        json_path = ".status.userName",
        priority = "1"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("self.clusterRef.name == oldSelf.clusterRef.name").message("clusterRef cannot change: a user cannot move to another cluster; create a new User instead"),
    validation = Rule::new("has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)").message("name cannot change, be set later or be unset; create a new User instead"),
    validation = Rule::new("has(self.secretName) == has(oldSelf.secretName) && (!has(self.secretName) || self.secretName == oldSelf.secretName)").message("secretName cannot change, be set later or be unset; create a new User instead"),
    validation = Rule::new("self.authentication.type == oldSelf.authentication.type && has(self.authentication.subject) == has(oldSelf.authentication.subject) && (!has(self.authentication.subject) || self.authentication.subject == oldSelf.authentication.subject)").message("authentication.type and authentication.subject cannot change; create a new User instead"),
    validation = Rule::new("self.authentication.type == 'scram' || !(has(self.name) || has(self.secretName))").message("name and secretName apply to authentication.type scram only: the subject is the name of the user"),
    validation = Rule::new("!has(self.name) || !(self.name in ['*', 'ANONYMOUS'])").message("name must be that of one user: '*' and 'ANONYMOUS' are reserved")
)]
#[serde(rename_all = "camelCase")]
pub struct UserSpec {
    /// StreamHouseCluster of the user. Immutable.
    pub cluster_ref: ClusterRef,
    /// Name of the user, for names that Kubernetes does not allow. Immutable. Defaults to the name
    /// of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub name: Option<String>,
    /// How the user authenticates.
    pub authentication: UserAuthentication,
    /// What the user may do, in a cluster with authorization. By default nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<UserAuthorization>,
    /// How much the clients of the user may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<UserQuotas>,
    /// Name of the Secret that the operator writes for clients, with the keys `username`,
    /// `password`, `bootstrap`, `ca.crt`, `client.properties`, `librdkafka.conf`,
    /// `streamhouse-ca.crt` and `streamhouse.env`. Immutable. Defaults to the name of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub secret_name: Option<String>,
    /// Whether a user that was made by hand may be managed by this resource. `IfExists` adopts it
    /// and replaces its credentials and quotas, `Never` (the default) reports an error.
    #[serde(default = "never")]
    pub adopt: AdoptionPolicy,
    /// Whether credentials, access control lists and quotas are deleted (`Delete`, the default) or
    /// kept (`Retain`) when this resource is deleted. The Secret is always deleted.
    #[serde(default = "delete")]
    pub deletion_policy: DeletionPolicy,
    /// Stops all changes to this user by the operator. A deletion is still carried out. Defaults to
    /// false.
    #[serde(default)]
    pub paused: bool,
}

fn never() -> AdoptionPolicy {
    AdoptionPolicy::Never
}

fn delete() -> DeletionPolicy {
    DeletionPolicy::Delete
}

/// How a user authenticates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.type == 'external') == has(self.subject)").message("subject is required for type external, and for no other type"),
    validation = Rule::new("self.type == 'scram' || !(has(self.mechanisms) || has(self.passwordSecret))").message("mechanisms and passwordSecret apply to type scram only"),
    validation = Rule::new("!has(self.subject) || !(self.subject in ['*', 'ANONYMOUS'])").message("subject must be that of one user: '*' and 'ANONYMOUS' are reserved")
)]
#[serde(rename_all = "camelCase")]
pub struct UserAuthentication {
    /// `scram`: by a password, of which the cluster stores verifiers. `external`: by other means,
    /// such as a certificate; the operator manages only rights and quotas. Immutable.
    #[serde(rename = "type")]
    pub type_: UserAuthenticationType,
    /// Mechanisms for which a verifier is stored. Defaults to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "set"))]
    pub mechanisms: Vec<UserScramMechanism>,
    /// Secret with the password. The key defaults to `password`. By default the operator generates
    /// a password, and a new one when its Secret is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret: Option<super::SecretKeyRef>,
    /// Name of the principal, for type `external`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub subject: Option<String>,
}

/// How a user authenticates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum UserAuthenticationType {
    Scram,
    External,
}

/// SCRAM mechanism of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum UserScramMechanism {
    #[serde(rename = "SCRAM-SHA-256")]
    Sha256,
    #[serde(rename = "SCRAM-SHA-512")]
    Sha512,
}

/// What a user may do.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct UserAuthorization {
    /// Entries of the access control list. An entry that denies has precedence.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    pub acls: Vec<UserAcl>,
}

/// An entry of the access control list of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserAcl {
    /// The resources.
    pub resource: UserAclResource,
    /// Operations on them.
    #[schemars(length(min = 1, max = 16))]
    pub operations: Vec<UserAclOperation>,
    /// IP address of the clients, or `*`, the default, for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 45), regex(pattern = r"^(\*|[0-9a-fA-F.:]+)$"))]
    pub host: Option<String>,
    /// Whether the operations are allowed, the default, or denied.
    #[serde(default)]
    pub permission: UserAclPermission,
}

/// The resources of an entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.type == 'cluster' || has(self.name)").message("name is required, except for type cluster"),
    validation = Rule::new("self.type != 'cluster' || !(has(self.name) || has(self.patternType))").message("name and patternType do not apply to type cluster")
)]
#[serde(rename_all = "camelCase")]
pub struct UserAclResource {
    /// Type of the resources.
    #[serde(rename = "type")]
    pub type_: UserAclResourceType,
    /// Name of the resource, `*` for all of the type, or what their names begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249))]
    pub name: Option<String>,
    /// Whether the name is that of the resource (`literal`, the default) or what names begin with
    /// (`prefix`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern_type: Option<UserAclPatternType>,
}

/// Type of the resources of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum UserAclResourceType {
    Topic,
    Group,
    Cluster,
    TransactionalId,
}

/// How names are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum UserAclPatternType {
    Literal,
    Prefix,
}

/// What an entry says about its operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum UserAclPermission {
    #[default]
    Allow,
    Deny,
}

/// An operation, by its name in Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum UserAclOperation {
    All,
    Read,
    Write,
    Create,
    Delete,
    Alter,
    Describe,
    ClusterAction,
    DescribeConfigs,
    AlterConfigs,
    IdempotentWrite,
    TwoPhaseCommit,
}

/// How much the clients of a user may do together, at each agent.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserQuotas {
    /// Bytes per second that are produced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub producer_byte_rate: Option<i64>,
    /// Bytes per second that are fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub consumer_byte_rate: Option<i64>,
    /// Time for which requests are served, in percent of one processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100_000.0))]
    pub request_percentage: Option<f64>,
    /// Partitions per second that are created or deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100_000.0))]
    pub controller_mutation_rate: Option<f64>,
}

/// Observed state of the user.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the user in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// Name of the Secret for clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// Conditions: Ready and Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl User {
    /// Returns the name of the user in the cluster.
    pub fn user_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        let spec = &self.spec;
        let name = match spec.authentication.type_ {
            UserAuthenticationType::Scram => spec.name.as_deref(),
            UserAuthenticationType::External => spec.authentication.subject.as_deref(),
        };
        name.unwrap_or(own)
    }

    /// Returns the name of the Secret for clients.
    pub fn secret_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.secret_name.as_deref().unwrap_or(own)
    }

    /// Returns the uid of the resource, which every object in the API server has.
    pub(crate) fn resource_uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
}
