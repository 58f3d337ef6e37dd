//! The part `listeners` of a cluster's spec: the ports that agents listen on.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{AdditionalListener, ListenerTls};

/// Ports and TLS of the agents.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.grpc) || !has(self.http) || !has(self.grpc.port) || !has(self.http.port) || self.grpc.port != self.http.port").message("grpc and http must have different ports"),
    validation = Rule::new("!(has(self.kafka) && has(self.kafka.enabled) && self.kafka.enabled) || ((has(self.kafka.port) ? self.kafka.port : 9092) != (has(self.grpc) && has(self.grpc.port) ? self.grpc.port : 50051) && (has(self.kafka.port) ? self.kafka.port : 9092) != (has(self.http) && has(self.http.port) ? self.http.port : 8080))").message("kafka must have a port other than those of grpc and http"),
    validation = Rule::new("!has(self.additional) || self.additional.all(a, self.additional.exists_one(b, b.port == a.port))").message("additional listeners must have different ports"),
    validation = Rule::new("!has(self.additional) || self.additional.all(a, a.port != (has(self.grpc) && has(self.grpc.port) ? self.grpc.port : 50051) && a.port != (has(self.http) && has(self.http.port) ? self.http.port : 8080))").message("additional listeners must have ports other than those of grpc and http"),
    validation = Rule::new("!has(self.additional) || !(has(self.kafka) && has(self.kafka.enabled) && self.kafka.enabled) || self.additional.all(a, a.port != (has(self.kafka.port) ? self.kafka.port : 9092))").message("additional listeners must have ports other than that of kafka")
)]
#[serde(rename_all = "camelCase")]
pub struct ListenersSpec {
    /// Listener for StreamHouse clients. The port defaults to 50051.
    #[serde(default)]
    pub grpc: ListenerSpec,
    /// Listener for `/health`, `/ready` and `/metrics`. The port defaults to 8080.
    #[serde(default)]
    pub http: ListenerSpec,
    /// Listener for Kafka clients inside of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaListenerSpec>,
    /// Further listeners for StreamHouse or Kafka clients, each with addresses of its own: for
    /// clients outside of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub additional: Vec<AdditionalListener>,
    /// DNS domain of the Kubernetes cluster, used in certificates. Defaults to the operator's
    /// `--cluster-domain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 100),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub cluster_domain: Option<String>,
}

/// Port and TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ListenerSpec {
    /// Port number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,
    /// TLS certificate of the listener. By default it does not use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// Listener for Kafka clients inside of the Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaListenerSpec {
    /// Whether agents have this listener. Defaults to false.
    #[serde(default)]
    pub enabled: bool,
    /// Port number. Defaults to 9092.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<i32>,
    /// TLS certificate of the listener. By default it does not use TLS. With TLS, agents are
    /// advertised by names below the headless Service `NAME-kafka`, which the certificate of a
    /// Secret must have as `*.NAME-kafka.NAMESPACE.svc.DOMAIN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Number of partitions of a topic that is created because a Kafka client asks for it, by this
    /// listener or an additional one. 0, the default, creates no topics so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub auto_create_partitions: Option<i32>,
}
