//! Validates `spec.listeners`: ports, certificates, and how clients outside of the Kubernetes
//! cluster reach the agents.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::api_shapes;
use crate::{
    cluster::{
        desired::{
            DesiredListener, DesiredRoute, EndpointOptions, ListenerCertificate, ListenerPort,
            SLOT_PLACEHOLDER, ServiceOptions, with_slot,
        },
        labels, names,
        problem::ClusterProblem,
    },
    context::ClusterDefaults,
    crd::{
        AdditionalListener, ClusterSpec, ListenerAgents, ListenerBootstrap, ListenerMode, ListenerSpec,
        ListenerTls, ListenerType, RouteKind,
    },
};

const DEFAULT_GRPC_PORT: u16 = 50051;
const DEFAULT_HTTP_PORT: u16 = 8080;
/// Port of the listener that serves every client by one address, if no other listener has it.
const FORWARD_PORT: u16 = 50052;
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

/// Returns the DNS domain of the Kubernetes cluster.
pub(super) fn cluster_domain(spec: &ClusterSpec, defaults: &ClusterDefaults) -> String {
    let domain = spec.listeners.cluster_domain.as_ref();
    domain.unwrap_or(&defaults.cluster_domain).to_owned()
}

/// Returns the listeners that every cluster has: for clients, and for HTTP.
pub(super) fn own_listeners(
    cluster: &str,
    spec: &ClusterSpec,
) -> Result<(ListenerPort, ListenerPort), ClusterProblem> {
    let listeners = &spec.listeners;
    if listeners.kafka.as_ref().is_some_and(|kafka| kafka.enabled) {
        return Err(ClusterProblem::invalid_spec(
            "agents of this version do not serve the Kafka protocol yet: remove spec.listeners.kafka.enabled",
        ));
    }
    let own = |name: &str, listener: &ListenerSpec, usual: u16| {
        let field = format!("spec.listeners.{name}");
        let number = listener
            .port
            .map_or(Ok(usual), |number| port_number(&field, number))?;
        listener_port(cluster, name, &field, number, listener.tls.as_ref())
    };
    let grpc = own("grpc", &listeners.grpc, DEFAULT_GRPC_PORT)?;
    let http = own("http", &listeners.http, DEFAULT_HTTP_PORT)?;
    if grpc.number == http.number {
        return Err(ClusterProblem::invalid_spec(format!(
            "spec.listeners.grpc and spec.listeners.http both have port {}: set different ports",
            grpc.number
        )));
    }
    Ok((grpc, http))
}

/// Returns the port of the listener that serves every client by one address: the usual one, or the
/// next that no other listener has.
pub(super) fn forward_port(grpc: &ListenerPort, http: &ListenerPort, further: &[DesiredListener]) -> u16 {
    let further = further.iter().map(|listener| listener.port.number);
    let used: Vec<u16> = [grpc.number, http.number].into_iter().chain(further).collect();
    let mut ports = FORWARD_PORT..=u16::MAX;
    ports.find(|port| !used.contains(port)).unwrap_or(FORWARD_PORT)
}

/// Returns the additional listeners.
pub(super) fn additional_listeners(
    cluster: &str,
    spec: &ClusterSpec,
    grpc: &ListenerPort,
    http: &ListenerPort,
) -> Result<Vec<DesiredListener>, ClusterProblem> {
    let mut ports = BTreeMap::from([(grpc.number, "grpc"), (http.number, "http")]);
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
    let per_agent = match given.mode {
        Some(mode) => mode == ListenerMode::PerAgent,
        None => !kind.is_routed(),
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

fn refuse<T>(field: &str, why: &str) -> Result<T, ClusterProblem> {
    Err(ClusterProblem::invalid_spec(format!("{field}: {why}")))
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

fn optional_port(field: &str, number: Option<i32>) -> Result<Option<u16>, ClusterProblem> {
    match number.map(u16::try_from) {
        None => Ok(None),
        Some(Ok(number)) if number > 0 => Ok(Some(number)),
        Some(_) => refuse(field, "a port is between 1 and 65535"),
    }
}

fn port_number(field: &str, number: i32) -> Result<u16, ClusterProblem> {
    let number_in_range = u16::try_from(number).ok().filter(|number| *number >= 1024);
    number_in_range.ok_or_else(|| {
        ClusterProblem::invalid_spec(format!("{field}.port {number} is not between 1024 and 65535"))
    })
}

fn listener_port(
    cluster: &str,
    name: &str,
    field: &str,
    number: u16,
    tls: Option<&ListenerTls>,
) -> Result<ListenerPort, ClusterProblem> {
    let certificate = tls
        .map(|tls| certificate(cluster, name, field, tls))
        .transpose()?;
    Ok(ListenerPort { number, certificate })
}

fn certificate(
    cluster: &str,
    name: &str,
    field: &str,
    tls: &ListenerTls,
) -> Result<ListenerCertificate, ClusterProblem> {
    let (secret, issuer) = match (&tls.secret_name, &tls.issuer_ref) {
        (Some(secret), None) => (secret.clone(), None),
        (None, Some(issuer)) => (format!("{cluster}-{name}-tls"), Some(issuer.clone())),
        _ => {
            return Err(ClusterProblem::invalid_spec(format!(
                "{field}.tls needs exactly one of secretName and issuerRef"
            )));
        }
    };
    if issuer.is_none() && !(tls.dns_names.is_empty() && tls.ip_addresses.is_empty()) {
        return refuse(
            field,
            "tls.dnsNames and tls.ipAddresses apply to certificates of an issuerRef only",
        );
    }
    if let Some(address) = tls
        .ip_addresses
        .iter()
        .find(|text| text.parse::<IpAddr>().is_err())
    {
        return refuse(
            field,
            &format!("tls.ipAddresses: {address:?} is not an IP address"),
        );
    }
    Ok(ListenerCertificate {
        secret,
        issuer,
        dns_names: tls.dns_names.clone(),
        ip_addresses: tls.ip_addresses.clone(),
    })
}
