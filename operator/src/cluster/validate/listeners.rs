//! Validates the additional listeners in `spec.listeners`: how clients outside of the Kubernetes
//! cluster reach the agents.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{
    api_shapes,
    listener_ports::{OwnListeners, listener_port, optional_port, port_number, refuse},
};
use crate::{
    cluster::{
        desired::{
            DesiredListener, DesiredRoute, EndpointOptions, SLOT_PLACEHOLDER, ServiceOptions, with_slot,
        },
        labels, names,
        problem::ClusterProblem,
    },
    crd::{
        AdditionalListener, ClusterSpec, ListenerAgents, ListenerBootstrap, ListenerMode, ListenerProtocol,
        ListenerType, RouteKind,
    },
};

/// Names of listeners that every cluster has or may have.
const RESERVED_NAMES: [&str; 5] = ["forward", "grpc", "grpc-forward", "http", "kafka"];
const MAX_NAME_LENGTH: usize = 25;

/// A parent of a route, whose type is not part of the Kubernetes API library.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ParentReference {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    section_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

/// Returns the additional listeners.
pub(super) fn additional_listeners(
    cluster: &str,
    spec: &ClusterSpec,
    own: &OwnListeners,
) -> Result<Vec<DesiredListener>, ClusterProblem> {
    let mut ports: BTreeMap<u16, &str> = own.ports().collect();
    let mut listeners = Vec::new();
    for given in &spec.listeners.additional {
        let field = format!("spec.listeners.additional[{}]", given.name);
        let listener = additional_listener(cluster, &field, given)?;
        if let Some(other) = ports.insert(listener.port.number, &given.name) {
            return Err(ClusterProblem::invalid_spec(format!(
                "{field}.port {} is also that of listener {other}: set different ports",
                given.port
            )));
        }
        if listeners
            .iter()
            .any(|other: &DesiredListener| other.name == listener.name)
        {
            return Err(ClusterProblem::invalid_spec(format!(
                "{field} exists twice: rename one"
            )));
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

fn additional_listener(
    cluster: &str,
    field: &str,
    given: &AdditionalListener,
) -> Result<DesiredListener, ClusterProblem> {
    check_name(field, &given.name)?;
    let kind = given.type_;
    let protocol = given.protocol.unwrap_or_default();
    let per_agent = match given.mode {
        Some(mode) => mode == ListenerMode::PerAgent,
        None => !kind.is_routed() || protocol == ListenerProtocol::Kafka,
    };
    if given.agents.is_some() && !per_agent {
        return refuse(field, "agents applies to mode perAgent only: set mode");
    }
    let bootstrap = endpoint_options(
        &format!("{field}.bootstrap"),
        given.bootstrap.clone().unwrap_or_default(),
    )?;
    let agents = agents_options(
        &format!("{field}.agents"),
        given.agents.clone().unwrap_or_default(),
    )?;
    check_hosts(field, kind, per_agent, &bootstrap, &agents)?;
    check_fields_of_type(field, given, &bootstrap, &agents)?;
    if protocol == ListenerProtocol::Kafka {
        check_kafka(field, given, per_agent)?;
    }
    if given
        .gateway
        .as_ref()
        .is_some_and(|gateway| gateway.route_kind == Some(RouteKind::Tls))
        && given.tls.is_none()
    {
        return refuse(field, "a TLSRoute passes TLS through to the agents: set tls");
    }
    let peers = format!("{field}.networkPolicyPeers");
    api_shapes::check_each_shape::<k8s_openapi::api::networking::v1::NetworkPolicyPeer>(
        &peers,
        &given.network_policy_peers,
    )?;
    let number = port_number(field, given.port)?;
    Ok(DesiredListener {
        name: given.name.clone(),
        kind,
        protocol,
        per_agent,
        port: listener_port(cluster, &given.name, field, number, given.tls.as_ref())?,
        bootstrap,
        agents,
        service: ServiceOptions {
            load_balancer_class: given.load_balancer_class.clone(),
            source_ranges: given.load_balancer_source_ranges.clone(),
            external_traffic_policy: given.external_traffic_policy,
            ip_families: given.ip_families.clone(),
            ip_family_policy: given.ip_family_policy,
            traffic_distribution: given.traffic_distribution.clone(),
        },
        node_address_type: given.node_address_type,
        route: route(field, given)?,
        peers: given.network_policy_peers.clone(),
    })
}

fn check_name(field: &str, name: &str) -> Result<(), ClusterProblem> {
    let starts = name.starts_with(|first: char| first.is_ascii_lowercase());
    if name.len() > MAX_NAME_LENGTH || !starts || !names::is_dns_label(name) {
        return refuse(
            field,
            "a name has at most 25 lower-case letters, digits and '-', and starts with a letter",
        );
    }
    if RESERVED_NAMES.contains(&name) {
        return refuse(field, "this is the name of another listener: choose another name");
    }
    Ok(())
}

/// Checks that proxies have host names to route by, and nothing else has.
fn check_hosts(
    field: &str,
    kind: ListenerType,
    per_agent: bool,
    bootstrap: &EndpointOptions,
    agents: &EndpointOptions,
) -> Result<(), ClusterProblem> {
    if !kind.is_routed() {
        return match bootstrap.host.is_some() || agents.host.is_some() {
            true => refuse(
                field,
                "host applies to types gateway and ingress: set advertisedHost",
            ),
            false => Ok(()),
        };
    }
    if bootstrap.host.is_none() {
        return refuse(field, "types gateway and ingress need bootstrap.host");
    }
    if per_agent && agents.host.is_none() {
        return refuse(
            field,
            "mode perAgent of types gateway and ingress needs agents.host",
        );
    }
    Ok(())
}

/// Checks that Kafka clients can reach each agent: they are not forwarded, and a proxy routes them
/// by the host name in the TLS handshake, which the agents end.
fn check_kafka(field: &str, given: &AdditionalListener, per_agent: bool) -> Result<(), ClusterProblem> {
    if !per_agent {
        return refuse(
            field,
            "Kafka clients connect to each agent: protocol kafka has mode perAgent only",
        );
    }
    if given.type_.is_routed() && given.tls.is_none() {
        return refuse(
            field,
            "Kafka clients reach agents behind a gateway or an ingress by TLS that is passed through: set tls",
        );
    }
    let kind = given.gateway.as_ref().and_then(|gateway| gateway.route_kind);
    if kind == Some(RouteKind::Grpc) {
        return refuse(
            field,
            "a GRPCRoute does not route Kafka clients: set routeKind TLSRoute",
        );
    }
    let ingress = given.ingress.as_ref();
    if ingress.is_some_and(|ingress| ingress.tls_secret_name.is_some()) {
        return refuse(
            field,
            "an ingress passes the TLS of Kafka clients through to the agents: remove ingress.tlsSecretName",
        );
    }
    Ok(())
}

/// Checks that no field is set that another type would use.
fn check_fields_of_type(
    field: &str,
    given: &AdditionalListener,
    bootstrap: &EndpointOptions,
    agents: &EndpointOptions,
) -> Result<(), ClusterProblem> {
    let kind = given.type_;
    let node_port = bootstrap.node_port.is_some() || agents.node_port.is_some();
    let foreign = [
        (
            given.gateway.is_some() && kind != ListenerType::Gateway,
            "gateway",
        ),
        (
            given.ingress.is_some() && kind != ListenerType::Ingress,
            "ingress",
        ),
        (
            given.load_balancer_class.is_some() && kind != ListenerType::Loadbalancer,
            "loadBalancerClass",
        ),
        (
            !given.load_balancer_source_ranges.is_empty() && kind != ListenerType::Loadbalancer,
            "loadBalancerSourceRanges",
        ),
        (
            given.node_address_type.is_some() && kind != ListenerType::Nodeport,
            "nodeAddressType",
        ),
        (
            (node_port || given.external_traffic_policy.is_some())
                && !matches!(kind, ListenerType::Nodeport | ListenerType::Loadbalancer),
            "nodePort or externalTrafficPolicy",
        ),
        (
            agents.advertised_host.is_some() && kind == ListenerType::Internal,
            "agents.advertisedHost",
        ),
    ];
    match foreign.into_iter().find(|(set, _)| *set) {
        Some((_, name)) => refuse(field, &format!("{name} does not apply to this type: remove it")),
        None => Ok(()),
    }
}

fn route(field: &str, given: &AdditionalListener) -> Result<Option<DesiredRoute>, ClusterProblem> {
    Ok(match (given.type_, &given.gateway) {
        (ListenerType::Gateway, Some(gateway)) => {
            let parents = format!("{field}.gateway.parentRefs");
            api_shapes::check_each_shape::<ParentReference>(&parents, &gateway.parent_refs)?;
            let passes = given.tls.is_some();
            let usual = if passes { RouteKind::Tls } else { RouteKind::Grpc };
            Some(DesiredRoute::Gateway {
                kind: gateway.route_kind.unwrap_or(usual),
                parent_refs: gateway.parent_refs.clone(),
            })
        }
        (ListenerType::Gateway, None) => return refuse(field, "type gateway needs gateway"),
        (ListenerType::Ingress, _) => {
            let ingress = given.ingress.clone().unwrap_or_default();
            Some(DesiredRoute::Ingress {
                class: ingress.class_name,
                tls_secret: ingress.tls_secret_name,
            })
        }
        _ => None,
    })
}

fn endpoint_options(field: &str, given: ListenerBootstrap) -> Result<EndpointOptions, ClusterProblem> {
    let options = EndpointOptions {
        host: given.host,
        advertised_host: given.advertised_host,
        advertised_port: optional_port(field, given.advertised_port)?,
        node_port: optional_port(field, given.node_port)?,
        annotations: given.annotations,
        labels: given.labels,
    };
    check_endpoint(field, &options)?;
    Ok(options)
}

fn agents_options(field: &str, given: ListenerAgents) -> Result<EndpointOptions, ClusterProblem> {
    if given
        .host
        .as_ref()
        .is_some_and(|host| !host.contains(SLOT_PLACEHOLDER))
    {
        return refuse(
            field,
            "host must contain {slot}: each agent has a host name of its own",
        );
    }
    let given = ListenerBootstrap {
        host: given.host,
        advertised_host: given.advertised_host,
        advertised_port: given.advertised_port,
        node_port: given.node_port,
        annotations: given.annotations,
        labels: given.labels,
    };
    endpoint_options(field, given)
}

fn check_endpoint(field: &str, options: &EndpointOptions) -> Result<(), ClusterProblem> {
    names::check_annotations(&format!("{field}.annotations"), &options.annotations)?;
    // The placeholder is not a label value; a slot is.
    let filled = |(name, value): (&String, &String)| (name.clone(), with_slot(value, 0));
    let labels_of: BTreeMap<String, String> = options.labels.iter().map(filled).collect();
    names::check_labels(&format!("{field}.labels"), &labels_of)?;
    let mut keys = options.labels.keys().chain(options.annotations.keys());
    if let Some(name) = keys.find(|name| labels::is_reserved(name)) {
        return refuse(field, &format!("{name} is set by the operator: remove it"));
    }
    for (name, host) in [
        ("host", &options.host),
        ("advertisedHost", &options.advertised_host),
    ] {
        if let Some(host) = host
            && !is_host(&with_slot(host, 0))
        {
            return refuse(
                field,
                &format!("{name} {host:?} is neither a host name nor an IP address"),
            );
        }
    }
    Ok(())
}

fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
        || (text.len() <= 253 && text.to_ascii_lowercase().split('.').all(names::is_dns_label))
}
