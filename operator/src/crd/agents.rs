//! The part `agents` of a cluster: how many, what they may use, their settings, and what is merged over their pods.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Scalar, schema};

/// The agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))").message("set replicas or autoscaling, not both")
)]
#[serde(rename_all = "camelCase")]
pub struct Agents {
    /// How many; 3 when neither this nor `autoscaling` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Lets a HorizontalPodAutoscaler choose how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// What each agent asks for and may use. When absent: a quarter of a CPU, and as much memory as the settings `produceMemory` and
    /// `cacheMemory` together and 256 MiB more; at most twice that memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// How strictly agents are spread over zones.
    #[serde(default)]
    pub zone_spread: ZoneSpread,
    /// The agent's settings, by the names of its reference; each has the agent's default when absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::agent_settings")]
    pub settings: BTreeMap<String, Scalar>,
    /// The service account that the agents run as.
    #[serde(default)]
    pub service_account: ServiceAccountSpec,
    /// Merged over the pod template last: metadata and spec as in a Pod, the agent's container by its name `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub pod_template: Option<Value>,
}

/// What an agent asks for and may use, as in a container.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, Scalar>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, Scalar>,
}

/// How many agents, and by what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.minReplicas <= self.maxReplicas").message("minReplicas must not be greater than maxReplicas"),
    validation = Rule::new("has(self.targetCPUUtilizationPercentage) || has(self.metrics)").message("say by what to scale: targetCPUUtilizationPercentage or metrics")
)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// At least this many.
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: i32,
    /// At most this many.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// Average CPU use, in percent of what is requested (so `resources.requests.cpu` is needed).
    #[serde(
        default,
        rename = "targetCPUUtilizationPercentage",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(range(min = 1, max = 1000))]
    pub target_cpu_utilization_percentage: Option<i32>,
    /// Further metrics, as in a HorizontalPodAutoscaler (autoscaling/v2).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub metrics: Vec<Value>,
    /// How fast, as in a HorizontalPodAutoscaler. Down by one agent a minute when absent: each hands its partitions over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub behavior: Option<Value>,
}

/// How strictly agents are spread over zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ZoneSpread {
    #[default]
    ScheduleAnyway,
    DoNotSchedule,
    Off,
}

impl ZoneSpread {
    /// What happens to a pod that cannot be spread, as a topology spread constraint has it; `None` without any.
    pub fn when_unsatisfiable(self) -> Option<&'static str> {
        match self {
            Self::ScheduleAnyway => Some("ScheduleAnyway"),
            Self::DoNotSchedule => Some("DoNotSchedule"),
            Self::Off => None,
        }
    }
}

/// The service account that the agents run as.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSpec {
    /// One that exists; the operator makes one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
    /// Annotations of the one the operator makes, such as those of workload identity.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub annotations: BTreeMap<String, String>,
}
