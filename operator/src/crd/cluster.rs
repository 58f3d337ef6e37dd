//! The resource `StreamHouseCluster`: agents, and the PostgreSQL and bucket that they use.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Agents, DeletionPolicy, Listeners, Monitoring, ObjectStorage, Postgresql, Scalar, schema};

/// Event streaming whose only disk is the object store: stateless agents on one PostgreSQL database and one bucket.
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
    doc = "Event streaming whose only disk is the object store: stateless agents on one PostgreSQL database and one bucket.",
    status = "ClusterStatus",
    derive = "PartialEq",
    selectable = ".spec.version",
    selectable = ".spec.objectStorage.bucket",
    scale(
        spec_replicas_path = ".spec.agents.replicas",
        status_replicas_path = ".status.agents.replicas",
        label_selector_path = ".status.agents.selector"
    ),
    printcolumn(name = "Agents", type_ = "string", json_path = ".status.agents.summary", description = "Ready agents of those wanted."),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = "1"),
    printcolumn(name = "Bootstrap", type_ = "string", json_path = ".status.bootstrap", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40").message("a cluster's name has at most 40 characters, so that the names of its objects fit"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("a cluster's name is lower-case letters, digits and '-', and begins with a letter, as a Service's name does")
)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The agents' version: the image's tag unless `image.tag` is set. The operator's own version when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9_][a-zA-Z0-9._-]*$"))]
    pub version: Option<String>,
    /// Where the agents' image comes from.
    #[serde(default)]
    pub image: Image,
    /// The agents.
    #[serde(default)]
    pub agents: Agents,
    /// The database that holds the metadata.
    pub postgresql: Postgresql,
    /// The bucket that holds the records.
    pub object_storage: ObjectStorage,
    /// Where clients connect.
    #[serde(default)]
    pub listeners: Listeners,
    /// What Prometheus and Grafana are given.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// Who may connect to the agents.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// How many agents an eviction may take at once.
    #[serde(default)]
    pub disruption_budget: DisruptionBudget,
    /// Stops all changes to this cluster, except that a deletion is honoured.
    #[serde(default)]
    pub paused: bool,
    /// Runs no agent, and keeps everything else.
    #[serde(default)]
    pub stopped: bool,
    /// What becomes of metadata and objects when this resource is deleted. `Delete` also needs the annotation
    /// `streamhouse.io/confirm-deletion: NAME-OF-THE-CLUSTER`.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Registry and name, without a tag; the operator's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 512),
        regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._:/-]*[a-zA-Z0-9]$")
    )]
    pub repository: Option<String>,
    /// The tag, where it is not the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[a-zA-Z0-9_][a-zA-Z0-9._-]*$"))]
    pub tag: Option<String>,
    /// `sha256:…`: pins the image; the tag is then for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80), regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// Always, IfNotPresent or Never; Kubernetes' default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// Secrets for the registry, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub pull_secrets: Vec<String>,
}

/// When the image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// As a container has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Who may connect to the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// Whether a NetworkPolicy is made.
    #[serde(default)]
    pub enabled: bool,
    /// Who may connect as a client, as the `from` of a NetworkPolicy; everybody in the namespace when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub clients: Vec<Value>,
    /// Who may scrape metrics; every namespace when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub monitoring: Vec<Value>,
}

/// How many agents an eviction may take at once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DisruptionBudget {
    /// Whether a PodDisruptionBudget is made.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How many agents may be evicted at once, as a number or a percentage; 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::number_or_percentage")]
    pub max_unavailable: Option<Scalar>,
}

impl Default for DisruptionBudget {
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

/// What the operator has seen and done.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The version that the agents run, once all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<AgentsStatus>,
    /// What clients in the Kubernetes cluster connect to: host:port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// The id made with the metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// The version of the metadata schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<i64>,
    /// Ready, Progressing, Degraded, MetadataReachable, StorageReachable, MonitoringAvailable and Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The agents.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentsStatus {
    /// How many there are.
    #[serde(default)]
    pub replicas: i32,
    /// How many are ready.
    #[serde(default)]
    pub ready: i32,
    /// How many have the newest template.
    #[serde(default)]
    pub updated: i32,
    /// Ready and wanted, for people: 3/3.
    #[serde(default)]
    pub summary: String,
    /// The label selector of the agents' pods, for the scale subresource.
    #[serde(default)]
    pub selector: String,
}
