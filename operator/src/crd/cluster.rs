//! The resource `StreamHouseCluster`: a group of agents with their PostgreSQL database and bucket.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    AgentsSpec, AuthenticationSpec, AuthorizationSpec, DeletionPolicy, ListenerStatus, ListenersSpec,
    MonitoringSpec, ObjectStorageSpec, PostgresqlSpec, ScalarValue, schema,
};

/// A StreamHouse cluster: stateless agents that store records in one bucket and metadata in one
/// PostgreSQL database.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "streamhouse.io",
    version = "v1alpha1",
    kind = "StreamHouseCluster",
    plural = "streamhouseclusters",
    singular = "streamhousecluster",
    shortname = "shc",
    category = "streamhouse",
    namespaced,
    doc = "A StreamHouse cluster: stateless agents that store records in one bucket and metadata in one PostgreSQL database.",
    status = "ClusterStatus",
    derive = "PartialEq",
    selectable = ".spec.version",
    selectable = ".spec.objectStorage.bucket",
    scale(
        spec_replicas_path = ".spec.agents.replicas",
        status_replicas_path = ".status.agents.replicas",
        label_selector_path = ".status.agents.selector"
    ),
    printcolumn(name = "Agents", type_ = "string", json_path = ".status.agents.summary", description = "Ready and desired number of agents."),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = "1"),
    printcolumn(name = "Bootstrap", type_ = "string", json_path = ".status.bootstrap", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must have at most 40 characters, because the names of the cluster's objects are derived from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must consist of lower-case letters, digits and '-', start with a letter and end with a letter or digit")
)]
#[x_kube(
    validation = Rule::new("has(self.authentication) || !has(self.listeners) || !has(self.listeners.additional) || self.listeners.additional.all(l, l.type == 'internal' || (has(l.unsafeWithoutAuthentication) && l.unsafeWithoutAuthentication))").message("listeners for clients outside of the Kubernetes cluster require authentication: set authentication, or unsafeWithoutAuthentication of the listener"),
    validation = Rule::new("!has(self.authorization) || self.authorization.type != 'acl' || has(self.authentication)").message("authorization requires authentication: without it every client is User:ANONYMOUS"),
    validation = Rule::new("!has(self.authorization) || !has(self.authorization.superUsers) || !has(self.authorization.superUsersSecret)").message("authorization.superUsers and authorization.superUsersSecret are the same setting: set only one")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Version of the agents, used as the image tag unless `image.tag` is set. Must be a release
    /// that is not newer than the operator, if it is a release. Defaults to the operator's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9_][a-zA-Z0-9._-]*$"))]
    pub version: Option<String>,
    /// Container image of the agents.
    #[serde(default)]
    pub image: ImageSpec,
    /// Configuration of the agents.
    #[serde(default)]
    pub agents: AgentsSpec,
    /// PostgreSQL database that holds the metadata.
    pub postgresql: PostgresqlSpec,
    /// Bucket that holds the records.
    pub object_storage: ObjectStorageSpec,
    /// Ports and TLS of the agents.
    #[serde(default)]
    pub listeners: ListenersSpec,
    /// How clients authenticate. By default they do not: every client is `User:ANONYMOUS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<AuthenticationSpec>,
    /// What clients may do. By default everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization: Option<AuthorizationSpec>,
    /// Prometheus and Grafana integration.
    #[serde(default)]
    pub monitoring: MonitoringSpec,
    /// Network access to the agents.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// Limit on voluntary evictions of agents.
    #[serde(default)]
    pub disruption_budget: DisruptionBudgetSpec,
    /// Stops all changes to this cluster by the operator. A deletion is still carried out. Defaults
    /// to false.
    #[serde(default)]
    pub paused: bool,
    /// Scales the agents to zero and keeps all other objects and the data. Defaults to false.
    #[serde(default)]
    pub stopped: bool,
    /// Whether metadata and objects are kept (`Retain`, the default) or deleted (`Delete`) when
    /// this resource is deleted. `Delete` also requires the annotation
    /// `streamhouse.io/confirm-deletion: NAME-OF-THE-CLUSTER`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Container image of the agents.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Registry and name of the image, without a tag. Defaults to the operator's `--default-image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._:/-]*[a-zA-Z0-9]$")
    )]
    pub repository: Option<String>,
    /// Tag of the image. Defaults to `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9_][a-zA-Z0-9._-]*$"))]
    pub tag: Option<String>,
    /// Digest of the image (`sha256:…`). If set, it determines the image and the tag is
    /// informational.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// Pull policy: `Always`, `IfNotPresent` or `Never`. By default Kubernetes derives it from the
    /// tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<ImagePullPolicy>,
    /// Names of Secrets with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub pull_secrets: Vec<String>,
}

/// Pull policy of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ImagePullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    /// Returns the value of `imagePullPolicy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Network access to the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether the operator creates a NetworkPolicy. Defaults to false.
    #[serde(default)]
    pub enabled: bool,
    /// Peers that may connect as clients, in the form of a NetworkPolicy's `from`. By default all
    /// pods in the cluster's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub clients: Vec<Value>,
    /// Peers that may scrape metrics, in the form of a NetworkPolicy's `from`. By default all
    /// namespaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub monitoring: Vec<Value>,
}

/// Limit on voluntary evictions of agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudgetSpec {
    /// Whether the operator creates a PodDisruptionBudget. Defaults to true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Maximum number of agents that may be evicted at the same time, as a number or a percentage.
    /// Defaults to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number_or_percentage")]
    pub max_unavailable: Option<ScalarValue>,
}

impl Default for DisruptionBudgetSpec {
    fn default() -> Self {
        Self {
            enabled: true,
            max_unavailable: None,
        }
    }
}

fn yes() -> bool {
    true
}

/// Observed state of the cluster.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Version of the agents; changes once all agents run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// State of the agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<AgentsStatus>,
    /// Address (`host:port`) for clients inside the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// State of the Kafka listener and of the additional listeners.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 17), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub listeners: Vec<ListenerStatus>,
    /// Unique id of the cluster, stored in its metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Version of the metadata schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i64>,
    /// Conditions: Ready, Progressing, Degraded, Stalled, MetadataReachable, StorageReachable,
    /// MonitoringAvailable, ListenersAvailable and Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// State of the agents.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentsStatus {
    /// Number of agents.
    #[serde(default)]
    pub replicas: i32,
    /// Number of ready agents.
    #[serde(default)]
    pub ready: i32,
    /// Number of agents with the current pod template.
    #[serde(default)]
    pub updated: i32,
    /// Ready and desired number of agents, such as `3/3`.
    #[serde(default)]
    pub summary: String,
    /// Label selector of the agents' pods, used by the scale subresource.
    #[serde(default)]
    pub selector: String,
}
