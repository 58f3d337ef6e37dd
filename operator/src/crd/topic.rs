//! The resource `Topic`: one topic of one cluster.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Scalar, schema};

/// A topic of a `StreamHouseCluster` in the same namespace.
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
    printcolumn(name = "Records", type_ = "integer", json_path = ".status.records", description = "Records ever written: the sum of the high watermarks."),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = "1"),
    printcolumn(name = "Topic", type_ = "string", json_path = ".status.topicName", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.topicName) || self.metadata.name.size() <= 249").message("a topic's name has at most 249 characters: set spec.topicName, or choose a shorter metadata.name")
)]
#[x_kube(
    validation = Rule::new("self.clusterRef.name == oldSelf.clusterRef.name").message("clusterRef cannot change: a topic cannot move to another cluster; make a new Topic"),
    validation = Rule::new("has(self.topicName) == has(oldSelf.topicName) && (!has(self.topicName) || self.topicName == oldSelf.topicName)").message("topicName cannot change, be set later or be unset: make a new Topic"),
    validation = Rule::new("!has(oldSelf.partitions) || (has(self.partitions) && self.partitions >= oldSelf.partitions)").message("partitions can only grow, and cannot be unset once they were set"),
    validation = Rule::new("!has(self.topicName) || (self.topicName != '.' && self.topicName != '..' && !self.topicName.startsWith('__'))").message("topicName must not be '.' or '..' nor begin with '__', which is reserved"),
    validation = Rule::new("!has(self.retention) || !has(self.retention.time) || !has(self.config) || !('retention.ms' in self.config)").message("retention.time and config['retention.ms'] are the same setting: set one"),
    validation = Rule::new("!has(self.retention) || !has(self.retention.bytes) || !has(self.config) || !('retention.bytes' in self.config)").message("retention.bytes and config['retention.bytes'] are the same setting: set one"),
    validation = Rule::new("!has(self.segmentBytes) || !has(self.config) || !('segment.bytes' in self.config)").message("segmentBytes and config['segment.bytes'] are the same setting: set one"),
    validation = Rule::new("!has(self.compression) || !has(self.config) || !('compression.type' in self.config)").message("compression and config['compression.type'] are the same setting: set one"),
    validation = Rule::new("!has(self.cleanupPolicy) || !has(self.config) || !('cleanup.policy' in self.config)").message("cleanupPolicy and config['cleanup.policy'] are the same setting: set one")
)]
#[serde(rename_all = "camelCase")]
pub struct TopicSpec {
    /// The cluster that holds the topic.
    pub cluster_ref: ClusterRef,
    /// The topic's name, if it is not the resource's own; for names that Kubernetes does not allow. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 249), regex(pattern = r"^[a-zA-Z0-9._-]+$"))]
    pub topic_name: Option<String>,
    /// How many partitions: can grow, never shrink. 1 when a topic is created without; a topic that exists keeps what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: Option<i32>,
    /// When old records may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// A segment is written when this many bytes wait, such as 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti)?$"))]
    pub segment_bytes: Option<String>,
    /// `producer`, the default: batches are stored as producers compress them. A codec cannot be enforced: it is refused, and has to
    /// be set in the producers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,
    /// What happens to old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cleanup_policy: Option<CleanupPolicy>,
    /// Further settings, by Kafka's names. A value is enforced; a setting that is absent is reset to its default; null leaves it alone
    /// (use server-side apply: client-side apply takes null for "absent").
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::topic_config")]
    pub config: BTreeMap<String, Option<Scalar>>,
    /// Whether a topic that exists already may be taken over.
    #[serde(default)]
    pub adopt: Adopt,
    /// What becomes of the topic and its records when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// Stops all changes to this topic, except that a deletion is honoured.
    #[serde(default)]
    pub paused: bool,
}

/// A cluster in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// When old records may go; whichever comes first.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Retention {
    /// How long records are kept at least, such as 7d or 12h; -1 for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^(-1|[0-9]+(ms|s|m|h|d))$"))]
    pub time: Option<String>,
    /// Stored bytes that a partition keeps at least, such as 10Gi; -1 for no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^(-1|[0-9]+(Ki|Mi|Gi|Ti)?)$"))]
    pub bytes: Option<String>,
}

/// What producers are asked to compress with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
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

impl Compression {
    /// The value of `compression.type`.
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

/// What happens to old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CleanupPolicy {
    #[allow(missing_docs)]
    Delete,
}

/// Whether a topic that exists already may be taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Adopt {
    #[allow(missing_docs)]
    #[default]
    IfExists,
    #[allow(missing_docs)]
    Never,
}

/// What becomes of the data when the resource is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    #[allow(missing_docs)]
    #[default]
    Retain,
    #[allow(missing_docs)]
    Delete,
}

/// What the operator has seen and done.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopicStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The topic's name in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// The topic's id, unique for ever. Another id is another topic: its records are not the old one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// How many partitions it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<i32>,
    /// Records ever written: the sum of the high watermarks. Refreshed at the operator's drift interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<i64>,
    /// Bytes stored. Refreshed at the operator's drift interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<i64>,
    /// Ready and Paused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl Topic {
    /// The topic's name in the cluster.
    pub fn topic_name(&self) -> &str {
        let own = self.metadata.name.as_deref().unwrap_or_default();
        self.spec.topic_name.as_deref().unwrap_or(own)
    }
}
