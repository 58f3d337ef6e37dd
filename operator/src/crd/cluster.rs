//! The resource `StreamHouseCluster`: agents, and the PostgreSQL and bucket that they use.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{DeletionPolicy, Scalar, schema};

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
    /// What each agent asks for and may use.
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

/// The database that holds the metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Postgresql {
    /// The Secret with the connection string `postgres://user:password@host:port/database`; key `uri` when absent.
    pub connection_secret: SecretKey,
    /// How the connection is protected; what the connection string says when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PostgresqlTls>,
}

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKey {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// How the connection to PostgreSQL is protected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresqlTls {
    /// What is checked.
    #[serde(default)]
    pub mode: TlsMode,
    /// The certificates to trust (PEM); key `ca.crt` when absent. The system's when the whole field is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
}

/// What is checked of a server's certificate; PostgreSQL's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum TlsMode {
    Require,
    VerifyCa,
    #[default]
    VerifyFull,
}

impl TlsMode {
    /// PostgreSQL's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

/// The bucket that holds the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket").message("the bucket cannot change: it holds the records; make a new cluster"),
    validation = Rule::new("has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)").message("the prefix cannot change: it holds the records; make a new cluster")
)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStorage {
    /// The bucket, which must exist. Cannot change.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]*[a-z0-9]$"))]
    pub bucket: String,
    /// Keeps everything below this prefix. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._/-]*$"))]
    pub prefix: Option<String>,
    /// The endpoint of an S3-compatible store; AWS when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#]+/?$"))]
    pub endpoint: Option<String>,
    /// The bucket's region; us-east-1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[a-zA-Z0-9-]+$"))]
    pub region: Option<String>,
    /// Puts the bucket into the path instead of the host name, as MinIO wants it.
    #[serde(default)]
    pub path_style: bool,
    /// The certificates to trust for the endpoint (PEM); key `ca.crt` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<SecretKey>,
    /// The access key; when absent, the service account's workload identity is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<CredentialsSecret>,
}

/// A Secret with an access key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialsSecret {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key that holds the access key's id.
    #[serde(default = "access_key_id")]
    #[schemars(length(min = 1, max = 253))]
    pub access_key_id_key: String,
    /// The key that holds the secret access key.
    #[serde(default = "secret_access_key")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_access_key_key: String,
}

fn access_key_id() -> String {
    "accessKeyId".to_owned()
}

fn secret_access_key() -> String {
    "secretAccessKey".to_owned()
}

/// Where clients connect.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.kafka) || !has(self.kafka.enabled) || !self.kafka.enabled").message("this version's agents do not serve the Kafka protocol yet: leave listeners.kafka.enabled out"),
    validation = Rule::new("!has(self.grpc) || !has(self.http) || !has(self.grpc.port) || !has(self.http.port) || self.grpc.port != self.http.port").message("grpc and http need different ports")
)]
pub struct Listeners {
    /// StreamHouse's own clients; port 50051 when absent.
    #[serde(default)]
    pub grpc: Listener,
    /// `/health`, `/ready` and `/metrics`; port 8080 when absent.
    #[serde(default)]
    pub http: Listener,
    /// Kafka clients; reserved for the version that serves them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaListener>,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Listener {
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,
    /// Its certificate; plain text when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Kafka clients.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct KafkaListener {
    /// Whether Kafka clients are served.
    #[serde(default)]
    pub enabled: bool,
    /// Its port; 9092 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,
    /// Its certificate; plain text when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Where a listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.secretName) != has(self.issuerRef)").message("set exactly one of secretName and issuerRef")
)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// A Secret of type kubernetes.io/tls with tls.crt and tls.key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The cert-manager issuer that signs a certificate for the Service's names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// A cert-manager issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Issuer or ClusterIssuer.
    #[serde(default)]
    pub kind: IssuerKind,
}

/// The kind of a cert-manager issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum IssuerKind {
    #[default]
    Issuer,
    ClusterIssuer,
}

impl IssuerKind {
    /// As cert-manager names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issuer => "Issuer",
            Self::ClusterIssuer => "ClusterIssuer",
        }
    }
}

/// What Prometheus and Grafana are given. Each is made where its API is installed.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// How Prometheus scrapes the agents.
    #[serde(default)]
    pub service_monitor: ServiceMonitorSpec,
    /// The alerts.
    #[serde(default)]
    pub prometheus_rule: PrometheusRuleSpec,
    /// The dashboards.
    #[serde(default)]
    pub dashboards: DashboardsSpec,
}

/// How Prometheus scrapes the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceMonitorSpec {
    /// Whether a ServiceMonitor is made.
    #[serde(default)]
    pub enabled: bool,
    /// Labels by which a Prometheus selects it; kube-prometheus-stack wants `release: NAME`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// The namespace it is made in; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// How often, such as 30s; Prometheus' own default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: Option<String>,
    /// How long a scrape may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub scrape_timeout: Option<String>,
    /// Further relabelings, as in a ServiceMonitor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub relabelings: Vec<Value>,
    /// Further relabelings of the metrics, as in a ServiceMonitor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub metric_relabelings: Vec<Value>,
    /// How the agents' certificate is checked, as in a ServiceMonitor. When absent it follows from the certificate of `listeners.http`;
    /// needed where that has one and the ServiceMonitor is in another namespace, from which no Secret of this one can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::free_form")]
    pub tls_config: Option<Value>,
}

/// The alerts.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusRuleSpec {
    /// Whether a PrometheusRule is made.
    #[serde(default)]
    pub enabled: bool,
    /// Labels by which a Prometheus selects it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// The namespace it is made in; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Other thresholds, by the alert's name, in the unit of the alert.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::thresholds")]
    pub thresholds: BTreeMap<String, String>,
    /// Alerts to leave out, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 128)))]
    pub disabled_alerts: Vec<String>,
}

/// The dashboards.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DashboardsSpec {
    /// Whether a ConfigMap with the dashboard is made, labelled `grafana_dashboard: "1"` for Grafana's sidecar.
    #[serde(default)]
    pub enabled: bool,
    /// Further labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
    /// The namespace it is made in; the cluster's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Grafana's folder; StreamHouse when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub folder: Option<String>,
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
