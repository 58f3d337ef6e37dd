//! Builds the objects of the additional listeners: the Services, the routes or Ingresses to them,
//! and the ConfigMap from which agents read the listeners and their addresses.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{
    CONTAINER_NAME, ChildObject,
    object::{ObjectBuilder, short_hash},
};
use crate::{
    cluster::{
        children::{LABEL_AGENT_SLOT, LABEL_LISTENER, ManagedKind},
        desired::{DesiredCluster, DesiredListener, DesiredRoute, EndpointOptions, with_slot},
        inputs::BuildInputs,
        labels, listeners,
        merge::merge,
        names, paths,
    },
    crd::{ListenerProtocol, ListenerType, RouteKind},
};

/// File of the listeners in the ConfigMap.
const LISTENERS_FILE: &str = "listeners.yaml";
/// Volume of the ConfigMap.
const LISTENERS_VOLUME: &str = "listeners";

/// Builds the ConfigMap of the listeners, if there are any. Agents read the addresses again when
/// they change; everything else in it is also part of the pod template's hash.
pub(super) fn listeners_config(desired: &DesiredCluster, inputs: &BuildInputs) -> Option<ChildObject> {
    if desired.listeners.is_empty() {
        return None;
    }
    let draft = ObjectBuilder::new(desired, ManagedKind::ConfigMap, listeners_config_name(desired))
        .component(labels::LISTENER_COMPONENT);
    let file = listeners_file(desired, inputs);
    Some(draft.build(json!({ "data": { LISTENERS_FILE: file } })))
}

/// Returns the hash of the agents' file, if clients of a listener depend on its addresses: those of
/// others are served through any agent.
pub(in crate::cluster) fn listeners_hash(desired: &DesiredCluster, inputs: &BuildInputs) -> Option<String> {
    let mut listeners = desired.listeners.iter();
    listeners
        .any(|listener| listener.protocol == ListenerProtocol::Kafka)
        .then(|| short_hash(&listeners_file(desired, inputs)))
}

fn listeners_file(desired: &DesiredCluster, inputs: &BuildInputs) -> String {
    let facts = &inputs.listeners;
    let entry = |listener: &DesiredListener| {
        let mut entry = structure(listener);
        if let Some(address) = listeners::shared_address(desired, listener, facts) {
            entry["address"] = json!(address);
        }
        let agents = listeners::agent_addresses(desired, listener, facts);
        if !agents.is_empty() {
            entry["agents"] = json!(agents);
        }
        entry
    };
    let file = json!({ "listeners": desired.listeners.iter().map(entry).collect::<Vec<_>>() });
    // JSON is YAML too.
    format!("{file:#}\n")
}

/// Adds the listeners to the agents' pods: their ports, and the directory of the ConfigMap. The
/// file alone cannot be mounted, since Kubernetes does not update it then.
pub(super) fn add_to_pod(desired: &DesiredCluster, spec: &mut Value) {
    if desired.listeners.is_empty() {
        return;
    }
    let port =
        |listener: &DesiredListener| json!({ "containerPort": listener.port.number, "protocol": "TCP" });
    let ports: Vec<Value> = desired.listeners.iter().map(port).collect();
    let mount = json!({ "name": LISTENERS_VOLUME, "mountPath": paths::LISTENERS_DIR, "readOnly": true });
    let config = json!({ "name": listeners_config_name(desired) });
    let further = json!({
        "containers": [{ "name": CONTAINER_NAME, "ports": ports, "volumeMounts": [mount] }],
        "volumes": [{ "name": LISTENERS_VOLUME, "configMap": config }],
    });
    merge(spec, &further);
}

/// Returns the name of the ConfigMap of the listeners.
pub(in crate::cluster) fn listeners_config_name(desired: &DesiredCluster) -> String {
    format!("{}-listeners", desired.name)
}

/// Returns what agents read only at start of the listeners in the spec.
pub(in crate::cluster) fn desired_listeners(desired: &DesiredCluster) -> Vec<Value> {
    desired.listeners.iter().map(structure).collect()
}

/// Returns what agents read only at start of the listeners in the data of a stored ConfigMap; empty
/// if there are none.
pub(in crate::cluster) fn stored_listeners(data: Option<&BTreeMap<String, String>>) -> Vec<Value> {
    let file = data.and_then(|data| data.get(LISTENERS_FILE));
    let file: Option<Value> = file.and_then(|text| serde_json::from_str(text).ok());
    let listeners = file.as_ref().and_then(|file| file.get("listeners")?.as_array());
    let mut listeners = listeners.cloned().unwrap_or_default();
    for fields in listeners.iter_mut().filter_map(Value::as_object_mut) {
        fields.retain(|name, _| STRUCTURE.contains(&name.as_str()));
    }
    listeners
}

/// The fields of a listener that agents read only at start.
const STRUCTURE: [&str; 4] = ["name", "listen", "protocol", "tls"];

/// Returns what agents read of a listener only at start.
fn structure(listener: &DesiredListener) -> Value {
    let mut structure = json!({
        "name": listener.name,
        "listen": format!("[::]:{}", listener.port.number),
        "tls": listener.port.has_tls(),
    });
    // The agents' default is left out, so that they are not restarted by an operator that knows
    // protocols.
    if listener.protocol != ListenerProtocol::default() {
        structure["protocol"] = json!(listener.protocol);
    }
    structure
}

/// Builds the Services and routes of all listeners.
pub(super) fn endpoints(desired: &DesiredCluster, inputs: &BuildInputs) -> Vec<ChildObject> {
    let of_listener = |listener| {
        let slots = (0..inputs.listeners.slots).filter(move |_| DesiredListener::has_slots(listener));
        let slots = std::iter::once(None).chain(slots.map(Some));
        slots.flat_map(move |slot| {
            let endpoint = ListenerEndpoint::new(desired, listener, slot);
            [Some(endpoint.service()), endpoint.route()]
        })
    };
    desired.listeners.iter().flat_map(of_listener).flatten().collect()
}

/// A Service and the route to it: of one slot, or for the first contact.
struct ListenerEndpoint<'a> {
    desired: &'a DesiredCluster,
    listener: &'a DesiredListener,
    slot: Option<u16>,
    options: &'a EndpointOptions,
}

impl<'a> ListenerEndpoint<'a> {
    fn new(desired: &'a DesiredCluster, listener: &'a DesiredListener, slot: Option<u16>) -> Self {
        let options = match slot {
            Some(_) => &listener.agents,
            None => &listener.bootstrap,
        };
        Self {
            desired,
            listener,
            slot,
            options,
        }
    }

    fn name(&self) -> String {
        names::listener_service(&self.desired.name, &self.listener.name, self.slot)
    }

    /// Starts an object; the user's labels and annotations are for what faces the clients.
    fn draft(&self, kind: ManagedKind, faces_clients: bool) -> ObjectBuilder<'a> {
        let mut labels = BTreeMap::new();
        let mut annotations = BTreeMap::new();
        if faces_clients {
            let insert = |(name, value): (&String, &String)| match self.slot {
                Some(slot) => (name.clone(), with_slot(value, slot)),
                None => (name.clone(), value.clone()),
            };
            labels.extend(self.options.labels.iter().map(insert));
            annotations.extend(self.options.annotations.iter().map(insert));
        }
        labels.insert(LABEL_LISTENER.to_owned(), self.listener.name.clone());
        if let Some(slot) = self.slot {
            labels.insert(LABEL_AGENT_SLOT.to_owned(), slot.to_string());
        }
        ObjectBuilder::new(self.desired, kind, self.name())
            .component(labels::LISTENER_COMPONENT)
            .labels(&labels)
            .annotations(annotations)
    }

    fn service(&self) -> ChildObject {
        let listener = self.listener;
        let mut selector = labels::agent_selector(&self.desired.name);
        if let Some(slot) = self.slot {
            selector.insert(LABEL_AGENT_SLOT.to_owned(), slot.to_string());
        }
        let number = listener.port.number;
        let mut port = json!({
            "name": listener.name, "port": number, "targetPort": number, "protocol": "TCP",
        });
        match listener.protocol {
            ListenerProtocol::Grpc if listener.port.has_tls() => port["appProtocol"] = json!("https"),
            ListenerProtocol::Grpc => port["appProtocol"] = json!("kubernetes.io/h2c"),
            // There is no name for Kafka's protocol.
            ListenerProtocol::Kafka => {}
        }
        let node_port = self
            .options
            .node_port
            .and_then(|first| first.checked_add(self.slot.unwrap_or(0)));
        if let Some(node_port) = node_port {
            port["nodePort"] = json!(node_port);
        }
        let kind = match listener.kind {
            ListenerType::Nodeport => "NodePort",
            ListenerType::Loadbalancer => "LoadBalancer",
            ListenerType::Internal | ListenerType::Gateway | ListenerType::Ingress => "ClusterIP",
        };
        let mut spec = self.service_options();
        spec.insert("type".to_owned(), json!(kind));
        spec.insert("selector".to_owned(), json!(selector));
        spec.insert("ports".to_owned(), json!([port]));
        self.draft(ManagedKind::Service, listener.route.is_none())
            .build(json!({ "spec": spec }))
    }

    fn service_options(&self) -> Map<String, Value> {
        let options = &self.listener.service;
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| {
            if !value.is_null() && value != json!([]) {
                fields.insert(name.to_owned(), value);
            }
        };
        set("loadBalancerClass", json!(options.load_balancer_class));
        set("loadBalancerSourceRanges", json!(options.source_ranges));
        set("externalTrafficPolicy", json!(options.external_traffic_policy));
        set("ipFamilies", json!(options.ip_families));
        set("ipFamilyPolicy", json!(options.ip_family_policy));
        // A Service of one agent has nothing to choose from.
        if self.slot.is_none() {
            set("trafficDistribution", json!(options.traffic_distribution));
        }
        fields
    }

    /// Builds the route to the Service, for types that have one.
    fn route(&self) -> Option<ChildObject> {
        let host = self.options.host.as_deref()?;
        let host = match self.slot {
            Some(slot) => with_slot(host, slot),
            None => host.to_owned(),
        };
        Some(match self.listener.route.as_ref()? {
            DesiredRoute::Gateway { kind, parent_refs } => {
                let kind = match kind {
                    RouteKind::Grpc => ManagedKind::GRPCRoute,
                    RouteKind::Tls => ManagedKind::TLSRoute,
                };
                let backend = json!({ "name": self.name(), "port": self.listener.port.number });
                self.draft(kind, true).build(json!({ "spec": {
                    "parentRefs": parent_refs,
                    "hostnames": [host],
                    "rules": [{ "backendRefs": [backend] }],
                } }))
            }
            DesiredRoute::Ingress { class, tls_secret } => self.ingress(&host, class, tls_secret),
        })
    }

    fn ingress(&self, host: &str, class: &Option<String>, tls_secret: &Option<String>) -> ChildObject {
        let backend =
            json!({ "service": { "name": self.name(), "port": { "number": self.listener.port.number } } });
        let path = json!({ "path": "/", "pathType": "Prefix", "backend": backend });
        let mut spec = json!({ "rules": [{ "host": host, "http": { "paths": [path] } }] });
        if let Some(class) = class {
            spec["ingressClassName"] = json!(class);
        }
        if let Some(secret) = tls_secret {
            spec["tls"] = json!([{ "hosts": [host], "secretName": secret }]);
        } else if self.listener.port.has_tls() {
            spec["tls"] = json!([{ "hosts": [host] }]);
        }
        self.draft(ManagedKind::Ingress, true)
            .build(json!({ "spec": spec }))
    }
}
