//! The resource `Topic`: one topic of a `StreamHouseCluster`.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ScalarValue, schema};

/// A topic of a StreamHouseCluster in the same namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "streamhouse.io",
    version = "v1alpha1",
    kind = "Topic",
    plural = "topics",
    singular = "topic",
    shortname = "sht",
    category = "streamhouse",
    namespaced,
    doc = "A topic of a StreamHouseCluster in the same namespace.",
    status = "TopicStatus",
    derive = "PartialEq",
    selectable = ".spec.clusterRef.name",
    selectable = ".spec.topicName",
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.clusterRef.name"),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".status.partitions"),
    printcolumn(name = "Records", type_ = "integer", json_path = ".status.records", description = "Total number of records written: the sum of the high watermarks."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = "1"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.topicName) || self.metadata.name.size() <= 249").message("a topic name has at most 249 characters: set spec.topicName or choose a shorter metadata.name")
)]
#[x_kube(
    validation = Rule::new("self.clusterRef.name == oldSelf.clusterRef.name").message("clusterRef cannot change: a topic cannot move to another cluster; create a new Topic instead"),
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)").message("topicName cannot change, be set later or be unset; create a new Topic instead"),
    validation = Rule::new("!has(oldSelf.partitions) || (has(self.partitions) && self.partitions >= oldSelf.partitions)").message("partitions can only grow and cannot be unset"),
    validation = Rule::new("!has(self.topicName) || !(self.topicName in ['.', '..', '__cluster_metadata', '__consumer_groups', '__consumer_offsets', '__share_group_state', '__transaction_state', '_wal'])").message("topicName must not be '.', '..' or a name that is reserved"),
    validation = Rule::new("!has(self.retention) || !has(self.retention.time) || !has(self.config) || !('retention.ms' in self.config)").message("retention.time and config['retention.ms'] are the same setting: set only one"),
    validation = Rule::new("!has(self.retention) || !has(self.retention.bytes) || !has(self.config) || !('retention.bytes' in self.config)").message("retention.bytes and config['retention.bytes'] are the same setting: set only one"),
    validation = Rule::new("!has(self.segmentBytes) || !has(self.config) || !('segment.bytes' in self.config)").message("segmentBytes and config['segment.bytes'] are the same setting: set only one"),
    validation = Rule::new("!has(self.compression) || !has(self.config) || !('compression.type' in self.config)").message("compression and config['compression.type'] are the same setting: set only one"),
    validation = Rule::new("!has(self.cleanupPolicy) || !has(self.config) || !('cleanup.policy' in self.config)").message("cleanupPolicy and config['cleanup.policy'] are the same setting: set only one")
)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// StreamHouseCluster that holds the topic. Immutable.
    pub cluster_ref: ClusterRef,
    /// Name of the topic, for names that Kubernetes does not allow. Immutable. Defaults to the name
    /// of the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic_name: Option<String>,
    /// Number of partitions. Can only grow. By default a new topic gets 1 partition and an existing
    /// topic keeps its partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: Option<i32>,
    /// How long and how much a partition retains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionSpec>,
    /// Target size of a segment, such as `64Mi`. A segment is written once this many bytes are
    /// pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti)?$"))]
    pub segment_bytes: Option<String>,
    /// Compression. `producer` (the default) stores batches as producers compress them. Other
    /// values are rejected: set the codec in the producers instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<CompressionType>,
    /// What happens to records beyond the retention. `delete` removes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup_policy: Option<CleanupPolicy>,
    /// Additional topic settings, by Kafka's names. A value is enforced; a setting that is absent
    /// is reset to its default; `null` leaves the setting unmanaged. Use server-side apply for
    /// `null`, because client-side apply removes it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::topic_config")]
    pub config: BTreeMap<String, Option<ScalarValue>>,
    /// Whether a topic that already exists may be managed by this resource. `IfExists` (the
    /// default) adopts it, `Never` reports an error.
    #[serde(default)]
    pub adopt: AdoptionPolicy,
    /// Whether the topic and its records are kept (`Retain`, the default) or deleted (`Delete`)
    /// when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Stops all changes to this topic by the operator. A deletion is still carried out. Defaults
    /// to false.
    #[serde(default)]
    pub paused: bool,
}

/// Reference to a StreamHouseCluster in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterRef {
    /// Name of the cluster.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Retention of a partition. A record is removed when it exceeds either limit.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct RetentionSpec {
    /// Minimum time that records are kept, such as `7d` or `12h`; `-1` keeps them without limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^(-1|[0-9]+(ms|s|m|h|d))$"))]
    pub time: Option<String>,
    /// Minimum number of stored bytes that a partition keeps, such as `10Gi`; `-1` means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^(-1|[0-9]+(Ki|Mi|Gi|Ti)?)$"))]
    pub bytes: Option<String>,
}

/// Compression of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CompressionType {
    #[allow(missing_docs)]
    Producer,
    #[allow(missing_docs)]
    None,
    #[allow(missing_docs)]
    Gzip,
    #[allow(missing_docs)]
    Snappy,
    #[allow(missing_docs)]
    Lz4,
    #[allow(missing_docs)]
    Zstd,
}

impl CompressionType {
    /// Returns the value of `compression.type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Producer => "producer",
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// What happens to records beyond the retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CleanupPolicy {
    #[allow(missing_docs)]
    Delete,
}

/// Whether a topic that already exists may be managed by the resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum AdoptionPolicy {
    #[allow(missing_docs)]
    #[default]
    IfExists,
    #[allow(missing_docs)]
    Never,
}

/// What happens to the data when the resource is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[allow(missing_docs)]
    #[default]
    Retain,
    #[allow(missing_docs)]
    Delete,
}

/// Observed state of the topic.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// Generation of the spec that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Name of the topic in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Unique id of the topic. A different id means that the topic was recreated and its earlier
    /// records are lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// Number of partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Total number of records written: the sum of the high watermarks, rounded down to two
    /// significant digits. Updated at every tenth drift interval of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,
    /// Stored bytes, rounded down to two significant digits. Updated at every tenth drift interval
    /// of the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Conditions: Ready and Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl Topic {
    /// Returns the name of the topic in the cluster.
    pub fn topic_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.topic_name.as_deref().unwrap_or(own)
    }

    /// Returns the uid of the resource, which every object in the API server has.
    pub(crate) fn resource_uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
}
