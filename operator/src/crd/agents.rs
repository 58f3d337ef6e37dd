//! The `agents` part of a cluster's spec: replicas, resources, settings and the pod template. Read
//! by the cluster's validation.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ScalarValue, schema};

/// Configuration of the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))").message("set replicas or autoscaling, not both")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentsSpec {
    /// Number of agents. Defaults to 3 if `autoscaling` is not set either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Scales the agents with a HorizontalPodAutoscaler. Cannot be combined with `replicas`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<AutoscalingSpec>,
    /// Resource requests and limits of each agent. By default an agent requests 250m CPU and memory
    /// equal to `produceMemory` plus `cacheMemory` plus 256 MiB, with a memory limit of twice the
    /// request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How strictly agents are spread over availability zones. `ScheduleAnyway` prefers an even
    /// spread, `DoNotSchedule` requires it, `Off` adds no zone constraint.
    #[serde(default)]
    pub zone_spread: ZoneSpread,
    /// Settings of the agents, by the names in the settings reference. A setting that is absent has
    /// the agent's default.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::agent_settings")]
    pub settings: BTreeMap<String, ScalarValue>,
    /// Service account of the agents' pods.
    #[serde(default)]
    pub service_account: ServiceAccountSpec,
    /// Overrides for the agents' pod template (`metadata` and `spec` as in a Pod), merged last. The
    /// agent's container is named `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub pod_template: Option<Value>,
}

/// Resource requests and limits of a container.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ResourceRequirements {
    /// Resource requests per agent, such as `cpu: 500m`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, ScalarValue>,
    /// Resource limits per agent, such as `memory: 2Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, ScalarValue>,
}

/// Configuration of the HorizontalPodAutoscaler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas must not be greater than maxReplicas"),
    validation = Rule::new("has(self.targetCPUUtilizationPercentage) || has(self.metrics)").message("set targetCPUUtilizationPercentage or metrics")
)]
#[serde(rename_all = "camelCase")]
pub struct AutoscalingSpec {
    /// Minimum number of agents.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// Maximum number of agents.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Target average CPU utilization, as a percentage of the CPU request. Requires
    /// `resources.requests.cpu` if `resources` is set.
    #[serde(
        default,
        rename = "targetCPUUtilizationPercentage",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu_utilization_percentage: Option<i32>,
    /// Additional metrics to scale on, as in a HorizontalPodAutoscaler (`autoscaling/v2`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub metrics: Vec<Value>,
    /// Scaling behavior, as in a HorizontalPodAutoscaler. By default at most one agent is removed
    /// per minute, because each hands over its partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub behavior: Option<Value>,
}

/// How strictly agents are spread over availability zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ZoneSpread {
    #[default]
    ScheduleAnyway,
    DoNotSchedule,
    Off,
}

impl ZoneSpread {
    /// Returns the `whenUnsatisfiable` value of the topology spread constraint; `None` for no
    /// constraint.
    pub fn when_unsatisfiable(self) -> Option<&'static str> {
        match self {
            Self::ScheduleAnyway => Some("ScheduleAnyway"),
            Self::DoNotSchedule => Some("DoNotSchedule"),
            Self::Off => None,
        }
    }
}

/// Service account of the agents' pods.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSpec {
    /// Name of an existing service account. By default the operator creates one named
    /// `CLUSTER-agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Annotations of the service account that the operator creates, for example for workload
    /// identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub annotations: BTreeMap<String, String>,
}
