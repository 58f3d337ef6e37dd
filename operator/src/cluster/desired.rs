//! A cluster as it shall be: checked, with every default filled in, in types of our own. Made by `validate` and nobody else, so whoever
//! holds one need not check anything again; taken by `build` and by the steps that read.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use crate::crd::{DeletionPolicy, IssuerRef, TlsMode, ZoneSpread};

/// A cluster as it shall be.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// The resource's name.
    pub name: String,
    /// The resource's namespace.
    pub namespace: String,
    /// The resource's uid; empty for one that was not read from an API server.
    pub uid: String,
    /// What children in the same namespace are owned by; `None` for a resource without a uid.
    pub owner: Option<OwnerReference>,
    /// The agents' version.
    pub version: String,
    /// The agents' image.
    pub image: ImageReference,
    /// How many agents.
    pub scale: Scale,
    /// What each agent asks for and may use, as in a container.
    pub resources: Value,
    /// How strictly agents are spread over zones.
    pub zone_spread: ZoneSpread,
    /// The agents' `STREAMHOUSE_` variables, without those that hold secrets or differ from pod to pod.
    pub variables: BTreeMap<String, String>,
    /// How long a stopping agent may take.
    pub drain_timeout: Duration,
    /// The service account that the agents run as.
    pub service_account: ServiceAccount,
    /// What is merged over the pod template last.
    pub pod_template: Option<Value>,
    /// Where clients connect.
    pub grpc: Port,
    /// `/health`, `/ready` and `/metrics`.
    pub http: Port,
    /// The database.
    pub postgresql: Database,
    /// The bucket.
    pub storage: Bucket,
    /// How Prometheus scrapes the agents, if it shall.
    pub service_monitor: Option<Scrape>,
    /// The alerts, if there shall be any.
    pub alerts: Option<Alerts>,
    /// The dashboard, if there shall be one.
    pub dashboard: Option<Dashboard>,
    /// Who may connect, if that shall be limited.
    pub network_policy: Option<Peers>,
    /// How many agents an eviction may take at once, if that shall be limited.
    pub max_unavailable: Option<Value>,
    /// What becomes of the data with the resource.
    pub deletion_policy: DeletionPolicy,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageReference {
    /// As a container names it.
    pub reference: String,
    /// When it is pulled; Kubernetes' default when absent.
    pub pull_policy: Option<&'static str>,
    /// Secrets for the registry.
    pub pull_secrets: Vec<String>,
}

/// How many agents.
#[derive(Debug, Clone, PartialEq)]
pub enum Scale {
    /// None, until the cluster is started again.
    Stopped,
    /// This many.
    Fixed(i32),
    /// As many as a HorizontalPodAutoscaler says.
    Automatic(Autoscaler),
}

impl Scale {
    /// How many there are at least.
    pub fn least(&self) -> i32 {
        match self {
            Self::Stopped => 0,
            Self::Fixed(replicas) => *replicas,
            Self::Automatic(autoscaler) => autoscaler.min,
        }
    }
}

/// A HorizontalPodAutoscaler.
#[derive(Debug, Clone, PartialEq)]
pub struct Autoscaler {
    /// At least this many.
    pub min: i32,
    /// At most this many.
    pub max: i32,
    /// Average CPU use in percent of what is requested.
    pub cpu: Option<i32>,
    /// Further metrics.
    pub metrics: Vec<Value>,
    /// How fast; ours when absent.
    pub behavior: Option<Value>,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its name.
    pub name: String,
    /// The annotations of the one to make; `None` for one that exists already.
    pub make: Option<BTreeMap<String, String>>,
}

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Where its certificate comes from; plain text when absent.
    pub certificate: Option<Certificate>,
}

impl Port {
    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.certificate.is_some()
    }
}

/// A listener's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret that holds it.
    pub secret: String,
    /// Who signs it into that Secret; `None` when somebody else does.
    pub issuer: Option<IssuerRef>,
}

/// A key of a Secret in the cluster's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyOfSecret {
    /// The Secret.
    pub name: String,
    /// The key.
    pub key: String,
}

/// The database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// Where the connection string is.
    pub connection: KeyOfSecret,
    /// How the connection is protected; what the connection string says when absent.
    pub tls: Option<DatabaseTls>,
}

/// How the connection to the database is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTls {
    /// What is checked.
    pub mode: TlsMode,
    /// Whom to trust; the system's authorities when absent.
    pub authority: Option<KeyOfSecret>,
}

/// The bucket. Its name, endpoint and region are among the variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Whom to trust; the system's authorities when absent.
    pub authority: Option<KeyOfSecret>,
    /// The access key; workload identity when absent.
    pub credentials: Option<Credentials>,
}

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its id.
    pub access_key_id: KeyOfSecret,
    /// Its secret.
    pub secret_access_key: KeyOfSecret,
}

/// How Prometheus scrapes the agents.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrape {
    /// Further labels.
    pub labels: BTreeMap<String, String>,
    /// The namespace of the ServiceMonitor.
    pub namespace: String,
    /// How often.
    pub interval: Option<String>,
    /// How long a scrape may take.
    pub timeout: Option<String>,
    /// Further relabelings of the target.
    pub relabelings: Vec<Value>,
    /// Further relabelings of the metrics.
    pub metric_relabelings: Vec<Value>,
    /// How the certificate is checked, where the user says it.
    pub tls_config: Option<Value>,
}

/// The alerts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alerts {
    /// Further labels of the PrometheusRule.
    pub labels: BTreeMap<String, String>,
    /// Its namespace.
    pub namespace: String,
    /// Other thresholds by alert.
    pub thresholds: BTreeMap<String, String>,
    /// Other times until they fire, by alert.
    pub waits: BTreeMap<String, String>,
    /// Alerts to leave out.
    pub disabled: Vec<String>,
}

/// The dashboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dashboard {
    /// Further labels of the ConfigMap.
    pub labels: BTreeMap<String, String>,
    /// Its namespace.
    pub namespace: String,
    /// Grafana's folder.
    pub folder: String,
}

/// Who may connect.
#[derive(Debug, Clone, PartialEq)]
pub struct Peers {
    /// To the listeners for clients; everybody in the namespace when empty.
    pub clients: Vec<Value>,
    /// To metrics; everybody when empty.
    pub monitoring: Vec<Value>,
}

/// A Secret that the cluster needs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeededSecret {
    /// Its name.
    pub name: String,
    /// The keys that must be in it.
    pub keys: Vec<String>,
    /// Whether agents read it only when they start, so that another content restarts them. Listeners' certificates they read again.
    pub restarts: bool,
}

impl Desired {
    /// The Secrets without which agents cannot start, each once and in a fixed order.
    pub fn secrets(&self) -> Vec<NeededSecret> {
        let mut needed: BTreeMap<&str, NeededSecret> = BTreeMap::new();
        let mut need = |name, key: &str, restarts| {
            let secret = needed.entry(name).or_insert_with(|| NeededSecret {
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
            credentials.map(|credentials| &credentials.access_key_id),
            credentials.map(|credentials| &credentials.secret_access_key),
        ];
        for secret in read_at_start.into_iter().flatten() {
            need(secret.name.as_str(), &secret.key, true);
        }
        for certificate in [&self.grpc, &self.http]
            .into_iter()
            .filter_map(|port| port.certificate.as_ref())
        {
            need(&certificate.secret, "tls.crt", false);
            need(&certificate.secret, "tls.key", false);
        }
        needed.into_values().collect()
    }

    /// The Service that clients connect to.
    pub fn service(&self) -> String {
        format!("{}-agents", self.name)
    }

    /// The Deployment, and whatever else there is one of for all agents.
    pub fn agent(&self) -> String {
        format!("{}-agent", self.name)
    }

    /// The host and port that clients in the Kubernetes cluster connect to.
    pub fn bootstrap(&self) -> String {
        format!("{}.{}.svc:{}", self.service(), self.namespace, self.grpc.number)
    }

    /// The APIs that may be absent and that this cluster wants.
    pub fn optional_apis(&self) -> Vec<crate::apis::OptionalApi> {
        use crate::apis::OptionalApi;
        let signs = |port: &Port| {
            port.certificate
                .as_ref()
                .is_some_and(|certificate| certificate.issuer.is_some())
        };
        let mut wanted = Vec::new();
        if self.service_monitor.is_some() || self.alerts.is_some() {
            wanted.push(OptionalApi::Monitoring);
        }
        if signs(&self.grpc) || signs(&self.http) {
            wanted.push(OptionalApi::CertManager);
        }
        wanted
    }
}
