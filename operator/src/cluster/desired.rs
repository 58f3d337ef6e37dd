//! The desired state of a cluster: validated, with every default filled in, in the operator's own
//! types. Created only by `validate`, so that its users need no further checks; used by `build` and
//! by the steps that read.

mod listener;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

pub use self::listener::*;
use super::problem::ClusterProblem;
use crate::crd::{DeletionPolicy, PostgresqlTlsMode, ZoneSpread};

/// The desired state of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredCluster {
    /// Name of the resource.
    pub name: String,
    /// Namespace of the resource.
    pub namespace: String,
    /// Uid of the resource; empty if it was not read from an API server.
    pub uid: String,
    /// Owner reference of the children in the same namespace; `None` for a resource without a uid.
    pub owner: Option<OwnerReference>,
    /// Version of the agents.
    pub version: String,
    /// Release of the agents; `None` for a tag or digest of one's own without `spec.version`.
    pub release: Option<String>,
    /// Image of the agents.
    pub image: ImageReference,
    /// Number of agents.
    pub scale: AgentScale,
    /// Resource requests and limits of each agent, as in a container.
    pub resources: Value,
    /// How strictly agents are spread over zones.
    pub zone_spread: ZoneSpread,
    /// `STREAMHOUSE_` variables of the agents, without those that contain secrets, differ between
    /// pods or name a mounted file.
    pub variables: BTreeMap<String, String>,
    /// How long a stopping agent may take.
    pub drain_timeout: Duration,
    /// Service account of the agents.
    pub service_account: DesiredServiceAccount,
    /// Override of the pod template, merged last.
    pub pod_template: Option<Value>,
    /// Listener for clients.
    pub grpc: ListenerPort,
    /// Listener for `/health`, `/ready` and `/metrics`.
    pub http: ListenerPort,
    /// Listener for Kafka clients inside of the Kubernetes cluster, if desired.
    pub kafka: Option<ListenerPort>,
    /// Port of the listener that serves every client by one address. Its certificate is that of
    /// `grpc`.
    pub forward_port: u16,
    /// Further listeners for clients.
    pub listeners: Vec<DesiredListener>,
    /// Secret key of the principals that may do everything, if they are in a Secret.
    pub super_users: Option<SecretKeySelector>,
    /// Content of the agents' OAuth file, if they accept tokens.
    pub oauth_file: Option<String>,
    /// DNS domain of the Kubernetes cluster.
    pub cluster_domain: String,
    /// The metadata database.
    pub postgresql: MetadataDatabase,
    /// The bucket.
    pub storage: StorageBucket,
    /// Scrape configuration, if a ServiceMonitor is desired.
    pub service_monitor: Option<ScrapeConfig>,
    /// Alerts, if a PrometheusRule is desired.
    pub alerts: Option<AlertConfig>,
    /// Dashboard, if desired.
    pub dashboard: Option<DashboardConfig>,
    /// Monitoring objects that are not created, because the operator's settings do not allow their
    /// namespace.
    pub refused_monitoring: Vec<ClusterProblem>,
    /// Allowed peers, if a NetworkPolicy is desired.
    pub network_policy: Option<NetworkPeers>,
    /// `maxUnavailable`, if a PodDisruptionBudget is desired.
    pub max_unavailable: Option<Value>,
    /// What happens to the data when the resource is deleted.
    pub deletion_policy: DeletionPolicy,
}

/// Image of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// Complete reference of the image.
    pub reference: String,
    /// Pull policy; Kubernetes' default if `None`.
    pub pull_policy: Option<&'static str>,
    /// Secrets with credentials for the registry.
    pub pull_secrets: Vec<String>,
}

/// Number of agents.
#[derive(Debug, Clone, PartialEq)]
pub enum AgentScale {
    /// No agents, until `spec.stopped` is unset.
    Stopped,
    /// A fixed number.
    Fixed(i32),
    /// A number chosen by a HorizontalPodAutoscaler.
    Automatic(DesiredAutoscaler),
}

impl AgentScale {
    /// Returns the minimum number of agents.
    pub fn min_replicas(&self) -> i32 {
        match self {
            Self::Stopped => 0,
            Self::Fixed(replicas) => *replicas,
            Self::Automatic(autoscaler) => autoscaler.min,
        }
    }
}

/// Configuration of a HorizontalPodAutoscaler.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredAutoscaler {
    /// Minimum number of agents.
    pub min: i32,
    /// Maximum number of agents.
    pub max: i32,
    /// Target average CPU utilization, in percent of the request.
    pub cpu: Option<i32>,
    /// Additional metrics.
    pub metrics: Vec<Value>,
    /// Scaling behavior; the operator's default if `None`.
    pub behavior: Option<Value>,
}

/// Service account of the agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredServiceAccount {
    /// Name of the account.
    pub name: String,
    /// Annotations of the account to create; `None` if it already exists.
    pub make: Option<BTreeMap<String, String>>,
}

/// A key of a Secret in the cluster's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKeySelector {
    /// Name of the Secret.
    pub name: String,
    /// Key in the Secret.
    pub key: String,
}

/// The metadata database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataDatabase {
    /// Secret key of the connection string.
    pub connection: SecretKeySelector,
    /// TLS of the connection; `None` if the connection string determines it.
    pub tls: Option<DatabaseTls>,
}

/// TLS of the connection to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTls {
    /// Verification of the server's certificate.
    pub mode: PostgresqlTlsMode,
    /// CA certificates to trust; those of the image if `None`.
    pub authority: Option<SecretKeySelector>,
}

/// The bucket. Its name, endpoint and region are among the variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageBucket {
    /// CA certificates to trust; those of the image if `None`.
    pub authority: Option<SecretKeySelector>,
    /// Access key; `None` for workload identity.
    pub credentials: Option<BucketCredentials>,
}

/// Access key of the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketCredentials {
    /// Secret key of the access key id.
    pub access_key_id: SecretKeySelector,
    /// Secret key of the secret access key.
    pub secret_access_key: SecretKeySelector,
}

/// Configuration of the ServiceMonitor.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeConfig {
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Namespace of the ServiceMonitor.
    pub namespace: String,
    /// Scrape interval.
    pub interval: Option<String>,
    /// Scrape timeout.
    pub timeout: Option<String>,
    /// Additional relabelings of the targets.
    pub relabelings: Vec<Value>,
    /// Additional relabelings of the metrics.
    pub metric_relabelings: Vec<Value>,
    /// TLS configuration, if set by the user.
    pub tls_config: Option<Value>,
}

/// Configuration of the PrometheusRule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertConfig {
    /// Additional labels.
    pub labels: BTreeMap<String, String>,
    /// Namespace of the PrometheusRule.
    pub namespace: String,
    /// Thresholds that override the default, by alert.
    pub thresholds: BTreeMap<String, String>,
    /// Durations (`for`) that override the default, by alert.
    pub waits: BTreeMap<String, String>,
    /// Alerts to leave out.
    pub disabled: Vec<String>,
}

/// Configuration of the dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DashboardConfig {
    /// Additional labels of the ConfigMap.
    pub labels: BTreeMap<String, String>,
    /// Namespace of the ConfigMap.
    pub namespace: String,
    /// Folder in Grafana.
    pub folder: String,
}

/// Peers that may connect.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkPeers {
    /// Peers of the listener for clients; all pods in the namespace if empty.
    pub clients: Vec<Value>,
    /// Peers of the metrics; all if empty.
    pub monitoring: Vec<Value>,
}

/// A Secret that the cluster requires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequiredSecret {
    /// Name of the Secret.
    pub name: String,
    /// Keys that must exist.
    pub keys: Vec<String>,
    /// Whether agents read the Secret only at start, so that a change restarts them. Certificates
    /// of listeners are reloaded.
    pub restarts: bool,
}

impl DesiredCluster {
    /// Returns the Secrets without which agents cannot start, each once and in a fixed order.
    pub fn required_secrets(&self) -> Vec<RequiredSecret> {
        let mut needed: BTreeMap<&str, RequiredSecret> = BTreeMap::new();
        let mut need = |name, key: &str, restarts| {
            let secret = needed.entry(name).or_insert_with(|| RequiredSecret {
                name: name.to_owned(),
                keys: Vec::new(),
                restarts: false,
            });
            if !secret.keys.iter().any(|known| known == key) {
                secret.keys.push(key.to_owned());
            }
            secret.restarts |= restarts;
        };
        let database = &self.postgresql;
        let credentials = self.storage.credentials.as_ref();
        let read_at_start = [
            Some(&database.connection),
            database.tls.as_ref().and_then(|tls| tls.authority.as_ref()),
            self.storage.authority.as_ref(),
            self.super_users.as_ref(),
            credentials.map(|credentials| &credentials.access_key_id),
            credentials.map(|credentials| &credentials.secret_access_key),
        ];
        for secret in read_at_start.into_iter().flatten() {
            need(secret.name.as_str(), &secret.key, true);
        }
        for certificate in self.ports().filter_map(|(_, port)| port.certificate.as_ref()) {
            need(&certificate.secret, "tls.crt", false);
            need(&certificate.secret, "tls.key", false);
        }
        needed.into_values().collect()
    }

    /// Returns whether clients have to authenticate.
    pub fn authenticates(&self) -> bool {
        self.variables.contains_key("STREAMHOUSE_AUTHENTICATION")
    }

    /// Returns the listeners of the agents by name.
    pub fn ports(&self) -> impl Iterator<Item = (&str, &ListenerPort)> {
        let further = self
            .listeners
            .iter()
            .map(|listener| (listener.name.as_str(), &listener.port));
        let kafka = self.kafka.iter().map(|port| (KAFKA_LISTENER, port));
        [("grpc", &self.grpc), ("http", &self.http)]
            .into_iter()
            .chain(kafka)
            .chain(further)
    }

    /// Returns the name of the Service that clients connect to.
    pub fn service_name(&self) -> String {
        format!("{}-agents", self.name)
    }

    /// Returns the name of the Deployment and of other objects that exist once for all agents.
    pub fn agent_name(&self) -> String {
        format!("{}-agent", self.name)
    }

    /// Returns the maximum number of slots of the agents while none of them ends slowly.
    pub fn expected_slots(&self) -> u16 {
        let replicas = match &self.scale {
            AgentScale::Stopped => return 0,
            AgentScale::Fixed(replicas) => *replicas,
            AgentScale::Automatic(autoscaler) => autoscaler.max,
        };
        slots_for(replicas)
    }

    /// Returns the host and port for clients in the Kubernetes cluster.
    pub fn bootstrap_address(&self) -> String {
        format!(
            "{}.{}.svc:{}",
            self.service_name(),
            self.namespace,
            self.grpc.number
        )
    }

    /// Returns the name of the headless Service for Kafka clients, below which each pod has a name.
    pub fn kafka_pods_service(&self) -> String {
        format!("{}-{KAFKA_LISTENER}", self.name)
    }

    /// Returns the domain of the DNS names of pods for Kafka clients, which are an IP address with
    /// hyphens below it.
    pub fn kafka_pods_domain(&self) -> String {
        format!(
            "{}.{}.svc.{}",
            self.kafka_pods_service(),
            self.namespace,
            self.cluster_domain
        )
    }

    /// Returns whether Kafka clients reach the pods themselves.
    pub fn has_internal_kafka(&self) -> bool {
        self.kafka.is_some() || self.listeners.iter().any(DesiredListener::is_internal_kafka)
    }

    /// Returns whether any monitoring object is asked for.
    pub fn has_monitoring(&self) -> bool {
        self.service_monitor.is_some()
            || self.alerts.is_some()
            || self.dashboard.is_some()
            || !self.refused_monitoring.is_empty()
    }

    /// Returns the optional APIs that this cluster requires.
    pub fn optional_apis(&self) -> Vec<crate::apis::OptionalApi> {
        use crate::apis::OptionalApi;
        let signs = |port: &ListenerPort| {
            port.certificate
                .as_ref()
                .is_some_and(|certificate| certificate.issuer.is_some())
        };
        let mut wanted = Vec::new();
        if self.service_monitor.is_some() || self.alerts.is_some() {
            wanted.push(OptionalApi::Monitoring);
        }
        if self.ports().any(|(_, port)| signs(port)) {
            wanted.push(OptionalApi::CertManager);
        }
        wanted
    }
}

/// Returns the number of slots for this number of agents: during a rolling update there are 25%
/// more, rounded up.
pub fn slots_for(replicas: i32) -> u16 {
    let replicas = u16::try_from(replicas).unwrap_or(0);
    replicas.saturating_add(replicas.div_ceil(4).max(1))
}
