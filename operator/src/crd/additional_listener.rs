//! An element of `listeners.additional`: a listener for clients with addresses of its own, and how
//! it is reached.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ListenerTls, schema};

/// A listener for StreamHouse or Kafka clients with addresses of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!(self.name in ['forward', 'grpc', 'grpc-forward', 'http', 'kafka'])").message("forward, grpc, grpc-forward, http and kafka are names of other listeners: choose another name"),
    validation = Rule::new("(self.type == 'gateway') == has(self.gateway)").message("gateway is required for type gateway, and for no other type"),
    validation = Rule::new("self.type == 'ingress' || !has(self.ingress)").message("ingress applies to type ingress only"),
    validation = Rule::new("!(self.type in ['gateway', 'ingress']) || (has(self.bootstrap) && has(self.bootstrap.host))").message("types gateway and ingress need bootstrap.host"),
    validation = Rule::new("self.type in ['gateway', 'ingress'] || !((has(self.bootstrap) && has(self.bootstrap.host)) || (has(self.agents) && has(self.agents.host)))").message("host applies to types gateway and ingress: set advertisedHost"),
    validation = Rule::new("!(self.type in ['gateway', 'ingress'] && ((has(self.mode) && self.mode == 'perAgent') || (has(self.protocol) && self.protocol == 'kafka'))) || (has(self.agents) && has(self.agents.host))").message("mode perAgent of types gateway and ingress needs agents.host"),
    validation = Rule::new("!has(self.agents) || (has(self.mode) ? self.mode == 'perAgent' : !(self.type in ['gateway', 'ingress']) || (has(self.protocol) && self.protocol == 'kafka'))").message("agents applies to mode perAgent only: set mode"),
    validation = Rule::new("!(has(self.protocol) && self.protocol == 'kafka' && has(self.mode) && self.mode == 'shared')").message("Kafka clients connect to each agent: protocol kafka has mode perAgent only"),
    validation = Rule::new("!(has(self.protocol) && self.protocol == 'kafka' && self.type in ['gateway', 'ingress']) || has(self.tls)").message("Kafka clients reach agents behind a gateway or an ingress by TLS that is passed through: set tls"),
    validation = Rule::new("!(has(self.protocol) && self.protocol == 'kafka' && has(self.gateway) && has(self.gateway.routeKind) && self.gateway.routeKind == 'GRPCRoute')").message("a GRPCRoute does not route Kafka clients: set routeKind TLSRoute"),
    validation = Rule::new("!(has(self.protocol) && self.protocol == 'kafka' && has(self.ingress) && has(self.ingress.tlsSecretName))").message("an ingress passes the TLS of Kafka clients through to the agents: remove ingress.tlsSecretName"),
    validation = Rule::new("self.type == 'loadbalancer' || !(has(self.loadBalancerClass) || has(self.loadBalancerSourceRanges))").message("loadBalancerClass and loadBalancerSourceRanges apply to type loadbalancer only"),
    validation = Rule::new("self.type in ['nodeport', 'loadbalancer'] || !(has(self.externalTrafficPolicy) || (has(self.bootstrap) && has(self.bootstrap.nodePort)) || (has(self.agents) && has(self.agents.nodePort)))").message("externalTrafficPolicy and nodePort apply to types nodeport and loadbalancer only"),
    validation = Rule::new("self.type != 'internal' || !has(self.agents) || !has(self.agents.advertisedHost)").message("agents.advertisedHost does not apply to type internal, whose agents are reached at the addresses of their pods"),
    validation = Rule::new("self.type == 'nodeport' || !has(self.nodeAddressType)").message("nodeAddressType applies to type nodeport only"),
    validation = Rule::new("!has(self.gateway) || !has(self.gateway.routeKind) || self.gateway.routeKind != 'TLSRoute' || has(self.tls)").message("a TLSRoute passes TLS through to the agents: set tls")
)]
#[serde(rename_all = "camelCase")]
pub struct AdditionalListener {
    /// Name of the listener, part of the names of its Services.
    #[schemars(length(min = 1, max = 25), regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// How clients reach the listener: `internal` by pods' addresses, `nodeport` by a port of the
    /// nodes, `loadbalancer` by load balancers, `gateway` by routes of the Gateway API, `ingress`
    /// by Ingresses.
    #[serde(rename = "type")]
    pub type_: ListenerType,
    /// Protocol of the listener's clients: `grpc`, the default, for StreamHouse clients, or
    /// `kafka`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ListenerProtocol>,
    /// Port of the listener in the agents' pods and of its Services.
    #[schemars(range(min = 1024, max = 65535))]
    pub port: i32,
    /// `perAgent` gives each agent an address, and clients connect to the leaders of their
    /// partitions directly. `shared` gives all agents one address, and agents forward requests to
    /// each other, which those of Kafka clients do not. Defaults to `shared` for `gateway` and
    /// `ingress` with protocol `grpc`, otherwise to `perAgent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<ListenerMode>,
    /// TLS certificate of the listener. By default it does not use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// Whether the cluster may have this listener without `authentication`, although clients reach
    /// it from outside of the Kubernetes cluster: everybody who does may read, write and delete
    /// everything. Defaults to false. Does not apply to type `internal`.
    #[serde(default)]
    pub unsafe_without_authentication: bool,
    /// The address for the first contact; in mode `shared` the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<ListenerBootstrap>,
    /// The addresses of the agents in mode `perAgent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<ListenerAgents>,
    /// Class of the load balancers (`spec.loadBalancerClass` of the Services).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Networks (CIDR) that may connect to the load balancers. By default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 4, max = 49), regex(pattern = r"^[0-9a-fA-F.:]+/[0-9]{1,3}$"))
    )]
    pub load_balancer_source_ranges: Vec<String>,
    /// Whether nodes forward external connections to agents on other nodes (`Cluster`) or only to
    /// their own (`Local`), which keeps the client's address. Defaults to `Cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// Type of node address to advertise. By default, and where a node has no address of this type,
    /// the first of `ExternalDNS`, `ExternalIP`, `InternalDNS`, `InternalIP` and `Hostname`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address_type: Option<NodeAddressType>,
    /// IP families of the Services, in order of preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub ip_families: Vec<IpFamily>,
    /// Whether the Services have addresses of one IP family or both. Defaults to `SingleStack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// Preference for nearby agents (`spec.trafficDistribution` of the Service for the first
    /// contact), such as `PreferClose`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z]+$"))]
    pub traffic_distribution: Option<String>,
    /// Gateways and kind of the routes, for type `gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<ListenerGateway>,
    /// Class and certificate of the Ingresses, for type `ingress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<ListenerIngress>,
    /// Peers that the NetworkPolicy admits to this listener, in the form of a NetworkPolicy's
    /// `from`. By default `networkPolicy.clients` for type `internal`, otherwise all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::free_form_list")]
    pub network_policy_peers: Vec<Value>,
}

/// How clients reach a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ListenerType {
    Internal,
    Nodeport,
    Loadbalancer,
    Gateway,
    Ingress,
}

impl ListenerType {
    /// Returns whether requests pass a proxy that routes by host name.
    pub fn is_routed(self) -> bool {
        matches!(self, Self::Gateway | Self::Ingress)
    }
}

/// Protocol of a listener's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum ListenerProtocol {
    #[default]
    Grpc,
    Kafka,
}

/// Whether each agent has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs)]
pub enum ListenerMode {
    Shared,
    PerAgent,
}

/// Where nodes forward external connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum ExternalTrafficPolicy {
    Cluster,
    Local,
}

/// Type of a node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum NodeAddressType {
    #[serde(rename = "ExternalDNS")]
    ExternalDns,
    #[serde(rename = "ExternalIP")]
    ExternalIp,
    #[serde(rename = "InternalDNS")]
    InternalDns,
    #[serde(rename = "InternalIP")]
    InternalIp,
    Hostname,
}

impl NodeAddressType {
    /// All types, the preferred first.
    pub const ALL: [Self; 5] = [
        Self::ExternalDns,
        Self::ExternalIp,
        Self::InternalDns,
        Self::InternalIp,
        Self::Hostname,
    ];

    /// Returns the type in a node's status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ExternalDns => "ExternalDNS",
            Self::ExternalIp => "ExternalIP",
            Self::InternalDns => "InternalDNS",
            Self::InternalIp => "InternalIP",
            Self::Hostname => "Hostname",
        }
    }
}

/// IP family of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum IpFamily {
    IPv4,
    IPv6,
}

/// Whether a Service has addresses of one IP family or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum IpFamilyPolicy {
    SingleStack,
    PreferDualStack,
    RequireDualStack,
}

/// The address for the first contact with a listener.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerBootstrap {
    /// Host name of the route or Ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub host: Option<String>,
    /// Host name or IP address for clients, instead of the one that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-zA-Z0-9:]([-a-zA-Z0-9.:]*[a-zA-Z0-9:])?$")
    )]
    pub advertised_host: Option<String>,
    /// Port for clients, instead of the one that was found. It is 443 for types `gateway` and
    /// `ingress`, and 80 for an Ingress without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub advertised_port: Option<i32>,
    /// Node port of the Service. By default Kubernetes assigns one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Annotations of the Service, route or Ingress.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the Service, route or Ingress.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
}

/// The addresses of the agents. Agents are numbered from 0; a number is used again when its agent
/// is gone. `{slot}` stands for the number.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerAgents {
    /// Host name of each agent's route or Ingress, with `{slot}`, such as
    /// `agent-{slot}.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 6, max = 253),
        regex(pattern = r"^([a-z0-9][-a-z0-9.]*)?\{slot\}([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub host: Option<String>,
    /// Host name or IP address of each agent for clients, instead of the one that was found; may
    /// contain `{slot}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^([-a-zA-Z0-9.:]|\{slot\})+$"))]
    pub advertised_host: Option<String>,
    /// Port of each agent for clients, instead of the one that was found. If `advertisedHost` is
    /// the same for all agents, the port of agent 0; each further agent has the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub advertised_port: Option<i32>,
    /// Node port of agent 0; each further agent has the next one. By default Kubernetes assigns
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,
    /// Annotations of each Service, route or Ingress; values may contain `{slot}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of each Service, route or Ingress; values may contain `{slot}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::text_map")]
    pub labels: BTreeMap<String, String>,
}

/// Gateways and kind of a listener's routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerGateway {
    /// Gateways that the routes attach to, in the form of a route's `parentRefs`.
    #[schemars(schema_with = "schema::parent_refs")]
    pub parent_refs: Vec<Value>,
    /// Kind of the routes. `TLSRoute` passes TLS through to the agents, `GRPCRoute` routes requests
    /// of StreamHouse clients. Defaults to `TLSRoute` with `tls`, otherwise to `GRPCRoute`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_kind: Option<RouteKind>,
}

/// Kind of a route of the Gateway API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs)]
pub enum RouteKind {
    #[serde(rename = "GRPCRoute")]
    Grpc,
    #[serde(rename = "TLSRoute")]
    Tls,
}

/// Class and certificate of a listener's Ingresses.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerIngress {
    /// Class of the Ingresses. By default that of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Secret with the certificate with which the ingress controller ends TLS. Without it, and with
    /// `tls`, the controller must pass TLS through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
}

/// Observed state of the Kafka listener or of an additional one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerStatus {
    /// Name of the listener.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Type of the listener.
    #[serde(rename = "type")]
    pub type_: ListenerType,
    /// Protocol of the listener's clients.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// Addresses for the first contact, as `host:port,host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<String>,
    /// Addresses of the agents of an additional listener in mode `perAgent`, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub addresses: Vec<String>,
}
