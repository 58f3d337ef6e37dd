//! Inputs of a cluster's objects besides its spec: facts that `dereference` reads from the API
//! server and that `build` takes as arguments. Contains hashes of Secrets, never their contents.

use std::collections::BTreeMap;

use crate::apis::OptionalApi;

/// The inputs of `build`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BuildInputs {
    /// Hash of the Secrets that agents read only at start: a different hash restarts them.
    pub secret_hash: String,
    /// Whether the API of the Prometheus operator is installed.
    pub monitoring_api: bool,
    /// Whether the API of cert-manager is installed.
    pub cert_manager_api: bool,
    /// Whether the Secret of the HTTP listener also contains a CA certificate (`ca.crt`).
    pub http_authority: bool,
    /// Whether pods are for OpenShift, whose security context constraints choose the ids of users
    /// and groups.
    pub openshift: bool,
    /// Whether the check of the bucket is desired. The Job of a finished check is kept as its
    /// result while this is set.
    pub preflight: bool,
    /// Versions in which the routes of the Gateway API are served.
    pub route_versions: BTreeMap<OptionalApi, String>,
    /// Facts about the additional listeners.
    pub listeners: ListenerFacts,
}

/// What is known about the addresses of the additional listeners.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListenerFacts {
    /// Number of slots that have Services.
    pub slots: u16,
    /// The agents' pods that have not ended, by name.
    pub agents: BTreeMap<String, AgentFacts>,
    /// The existing Services of the listeners, by listener and slot.
    pub services: BTreeMap<ServiceKey, ServiceFacts>,
    /// Addresses of the nodes on which agents run, each with its type.
    pub nodes: BTreeMap<String, Vec<(String, String)>>,
    /// Whether the API server refused to show a node.
    pub nodes_forbidden: bool,
    /// Answer of the API server that refused to label a pod with its slot.
    pub label_refusal: Option<String>,
    /// Routes that a Gateway does not accept, by listener, with its answer.
    pub rejected_routes: BTreeMap<String, String>,
}

/// Listener and slot of a Service; without a slot it is that for the first contact.
pub type ServiceKey = (String, Option<u16>);

/// What is known about a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgentFacts {
    /// Slot of the agent.
    pub slot: Option<u16>,
    /// IP addresses of the pod, one per family.
    pub ips: Vec<String>,
    /// Node of the pod.
    pub node: Option<String>,
    /// Hash of the file of the listeners of which the pod's kubelet has heard.
    pub listeners_hash: Option<String>,
}

/// What is known about a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceFacts {
    /// Node port.
    pub node_port: Option<u16>,
    /// Host names and IP addresses of the load balancer.
    pub balancer_hosts: Vec<String>,
}

impl BuildInputs {
    /// Returns whether an optional API is installed.
    pub fn has(&self, api: OptionalApi) -> bool {
        match api {
            OptionalApi::Monitoring => self.monitoring_api,
            OptionalApi::CertManager => self.cert_manager_api,
            OptionalApi::GrpcRoute | OptionalApi::TlsRoute => self.route_versions.contains_key(&api),
        }
    }
}
