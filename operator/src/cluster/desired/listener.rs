//! The listeners of the agents: their ports, certificates and the ways to reach them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::crd::{
    ExternalTrafficPolicy, IpFamily, IpFamilyPolicy, IssuerRef, ListenerProtocol, ListenerType,
    NodeAddressType, RouteKind,
};

/// The placeholder of an agent's slot in host names, labels and annotations.
pub const SLOT_PLACEHOLDER: &str = "{slot}";

/// The name of the built-in listener for Kafka clients.
pub const KAFKA_LISTENER: &str = "kafka";

/// A listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerPort {
    /// Port number.
    pub number: u16,
    /// TLS certificate; `None` for plain text.
    pub certificate: Option<ListenerCertificate>,
}

impl ListenerPort {
    /// Returns whether the listener uses TLS.
    pub fn has_tls(&self) -> bool {
        self.certificate.is_some()
    }
}

/// TLS certificate of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerCertificate {
    /// Secret that contains the certificate.
    pub secret: String,
    /// Issuer that signs the certificate; `None` if the Secret is provided by the user.
    pub issuer: Option<IssuerRef>,
    /// Further DNS names of the certificate.
    pub dns_names: Vec<String>,
    /// Further IP addresses of the certificate.
    pub ip_addresses: Vec<String>,
}

/// A listener for clients with addresses of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct DesiredListener {
    /// Name of the listener.
    pub name: String,
    /// How clients reach it.
    pub kind: ListenerType,
    /// Protocol of its clients.
    pub protocol: ListenerProtocol,
    /// Whether each agent has an address.
    pub per_agent: bool,
    /// Port and TLS.
    pub port: ListenerPort,
    /// The address for the first contact.
    pub bootstrap: EndpointOptions,
    /// The addresses of the agents.
    pub agents: EndpointOptions,
    /// Fields of the Services.
    pub service: ServiceOptions,
    /// Preferred type of node address.
    pub node_address_type: Option<NodeAddressType>,
    /// The proxy that routes to the Services, for types that have one.
    pub route: Option<DesiredRoute>,
    /// Peers that the NetworkPolicy admits, if specified.
    pub peers: Vec<Value>,
}

impl DesiredListener {
    /// Returns whether each agent has a Service.
    pub fn has_slots(&self) -> bool {
        self.per_agent && self.kind != ListenerType::Internal
    }

    /// Returns whether agents are reached by names below the headless Service for Kafka clients:
    /// a certificate cannot have the addresses of pods.
    pub fn uses_pod_names(&self) -> bool {
        self.is_internal_kafka() && self.port.has_tls()
    }

    /// Returns whether Kafka clients reach the pods themselves.
    pub fn is_internal_kafka(&self) -> bool {
        self.protocol == ListenerProtocol::Kafka && self.kind == ListenerType::Internal
    }

    /// Returns whether addresses of nodes are advertised.
    pub fn uses_nodes(&self) -> bool {
        let discovers =
            self.advertised_bootstrap().is_none() || (self.per_agent && self.advertised_agents().is_none());
        self.kind == ListenerType::Nodeport && discovers
    }

    /// Returns the specified host for the first contact.
    pub fn advertised_bootstrap(&self) -> Option<&str> {
        self.bootstrap.advertised()
    }

    /// Returns the specified host of the agents, which may contain [`SLOT_PLACEHOLDER`].
    pub fn advertised_agents(&self) -> Option<&str> {
        self.agents.advertised()
    }
}

/// How a Service, or the route to it, is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointOptions {
    /// Host name of the route.
    pub host: Option<String>,
    /// Host for clients instead of the one that was found.
    pub advertised_host: Option<String>,
    /// Port for clients instead of the one that was found.
    pub advertised_port: Option<u16>,
    /// Node port of the (first) Service.
    pub node_port: Option<u16>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

impl EndpointOptions {
    /// Returns the host that was specified.
    fn advertised(&self) -> Option<&str> {
        self.advertised_host.as_deref().or(self.host.as_deref())
    }
}

/// Fields of a listener's Services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceOptions {
    /// `loadBalancerClass`.
    pub load_balancer_class: Option<String>,
    /// `loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// `externalTrafficPolicy`.
    pub external_traffic_policy: Option<ExternalTrafficPolicy>,
    /// `ipFamilies`.
    pub ip_families: Vec<IpFamily>,
    /// `ipFamilyPolicy`.
    pub ip_family_policy: Option<IpFamilyPolicy>,
    /// `trafficDistribution`.
    pub traffic_distribution: Option<String>,
}

/// A proxy that routes to the Services of a listener by host name.
#[derive(Debug, Clone, PartialEq)]
pub enum DesiredRoute {
    /// Routes of the Gateway API.
    Gateway {
        /// Kind of the routes.
        kind: RouteKind,
        /// Gateways that they attach to.
        parent_refs: Vec<Value>,
    },
    /// Ingresses.
    Ingress {
        /// Class of the Ingresses.
        class: Option<String>,
        /// Secret with which the controller ends TLS.
        tls_secret: Option<String>,
    },
}

/// Returns the text with an agent's slot inserted.
pub fn with_slot(text: &str, slot: u16) -> String {
    text.replace(SLOT_PLACEHOLDER, &slot.to_string())
}
