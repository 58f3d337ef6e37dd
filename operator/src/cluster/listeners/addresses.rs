//! Determines the addresses by which clients reach a listener from what was observed, without side
//! effects. Used by the builders, the certificates and the report.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use crate::{
    cluster::{
        desired::{DesiredCluster, DesiredListener, DesiredRoute, SLOT_PLACEHOLDER, with_slot},
        inputs::{AgentFacts, ListenerFacts, ServiceFacts},
        names,
    },
    crd::{IpFamily, ListenerProtocol, ListenerType, NodeAddressType},
};

/// Maximum number of nodes that are listed for the first contact.
const MAX_BOOTSTRAP_NODES: usize = 3;

/// Returns the address of each agent in mode `perAgent`, by pod, as far as known.
pub(in crate::cluster) fn agent_addresses(
    desired: &DesiredCluster,
    listener: &DesiredListener,
    facts: &ListenerFacts,
) -> BTreeMap<String, String> {
    if !listener.per_agent {
        return BTreeMap::new();
    }
    let address = |(name, agent): (&String, &AgentFacts)| {
        let address = agent_address(desired, listener, agent, facts)?;
        Some((name.clone(), address))
    };
    facts.agents.iter().filter_map(address).collect()
}

fn agent_address(
    desired: &DesiredCluster,
    listener: &DesiredListener,
    agent: &AgentFacts,
    facts: &ListenerFacts,
) -> Option<String> {
    let options = &listener.agents;
    if listener.kind == ListenerType::Internal && options.advertised_host.is_none() {
        let port = options.advertised_port.unwrap_or(listener.port.number);
        let ip = of_wanted_family(listener, agent.ips.iter().map(String::as_str))?;
        if listener.uses_pod_names() {
            // The name that a cluster's DNS server gives to a pod of a headless Service.
            let label = ip.replace(['.', ':'], "-");
            return Some(format!("{label}.{}:{port}", desired.kafka_pods_domain()));
        }
        return Some(join_host_port(ip, port));
    }
    let slot = agent.slot?;
    let service = facts.services.get(&(listener.name.clone(), Some(slot)));
    let host = match listener.advertised_agents() {
        Some(host) => with_slot(host, slot),
        None => match listener.kind {
            ListenerType::Nodeport => {
                node_host(listener, facts.nodes.get(agent.node.as_deref()?)?)?.to_owned()
            }
            _ => service?.balancer_hosts.first()?.clone(),
        },
    };
    let port = match (options.advertised_port, &options.advertised_host) {
        (Some(port), Some(host)) if !host.contains(SLOT_PLACEHOLDER) => port.checked_add(slot)?,
        (Some(port), _) => port,
        (None, _) => found_port(listener, service)?,
    };
    Some(join_host_port(&host, port))
}

/// Returns the addresses for the first contact, as far as known.
pub(in crate::cluster) fn bootstrap_addresses(
    desired: &DesiredCluster,
    listener: &DesiredListener,
    facts: &ListenerFacts,
) -> Vec<String> {
    let options = &listener.bootstrap;
    let service = facts.services.get(&(listener.name.clone(), None));
    let Some(port) = options.advertised_port.or_else(|| found_port(listener, service)) else {
        return Vec::new();
    };
    let hosts = match listener.advertised_bootstrap() {
        Some(host) => vec![host.to_owned()],
        None => match listener.kind {
            ListenerType::Internal => vec![format!(
                "{}.{}.svc",
                names::listener_service(&desired.name, &listener.name, None),
                desired.namespace
            )],
            ListenerType::Nodeport => {
                let nodes = facts.nodes.values();
                let hosts: BTreeSet<&str> = nodes.filter_map(|node| node_host(listener, node)).collect();
                hosts
                    .into_iter()
                    .take(MAX_BOOTSTRAP_NODES)
                    .map(str::to_owned)
                    .collect()
            }
            _ => service
                .into_iter()
                .flat_map(|service| service.balancer_hosts.first())
                .cloned()
                .collect(),
        },
    };
    hosts.iter().map(|host| join_host_port(host, port)).collect()
}

/// Returns the address that every agent advertises in mode `shared`. Without one, an agent answers
/// with the address that the client used, which is right for every name of a load balancer and for
/// every node.
pub(in crate::cluster) fn shared_address(
    desired: &DesiredCluster,
    listener: &DesiredListener,
    facts: &ListenerFacts,
) -> Option<String> {
    let options = &listener.bootstrap;
    if listener.per_agent || (listener.advertised_bootstrap().is_none() && options.advertised_port.is_none())
    {
        return None;
    }
    bootstrap_addresses(desired, listener, facts).into_iter().next()
}

/// Returns the host names and IP addresses of the listener's load balancers that are advertised.
pub(in crate::cluster) fn balancer_hosts<'a>(
    listener: &DesiredListener,
    facts: &'a ListenerFacts,
) -> impl Iterator<Item = &'a str> {
    let used = |slot: Option<u16>| match slot {
        None => listener.advertised_bootstrap().is_none(),
        Some(_) => listener.advertised_agents().is_none(),
    };
    let services = facts.services.iter();
    services
        .filter(move |((name, slot), _)| *name == listener.name && used(*slot))
        .flat_map(|(_, service)| &service.balancer_hosts)
        .map(String::as_str)
}

/// Returns the host names and IP addresses of nodes that clients verify: Kafka clients verify those
/// of the agents, and StreamHouse clients that of the first contact.
pub(in crate::cluster) fn verified_node_hosts<'a>(
    listener: &'a DesiredListener,
    facts: &'a ListenerFacts,
) -> impl Iterator<Item = &'a str> {
    let verifies = listener.uses_nodes() && listener.protocol == ListenerProtocol::Kafka;
    let nodes = facts.nodes.values().filter(move |_| verifies);
    nodes.filter_map(|node| node_host(listener, node))
}

/// Returns the port by which a Service, or the proxy in front of it, is reached.
fn found_port(listener: &DesiredListener, service: Option<&ServiceFacts>) -> Option<u16> {
    match (listener.kind, &listener.route) {
        (ListenerType::Nodeport, _) => service?.node_port,
        (ListenerType::Ingress, Some(DesiredRoute::Ingress { tls_secret: None, .. }))
            if !listener.port.has_tls() =>
        {
            Some(80)
        }
        (ListenerType::Gateway | ListenerType::Ingress, _) => Some(443),
        (ListenerType::Internal | ListenerType::Loadbalancer, _) => Some(listener.port.number),
    }
}

/// Returns the address of a node by the preferred type.
pub(super) fn node_host<'a>(
    listener: &DesiredListener,
    addresses: &'a [(String, String)],
) -> Option<&'a str> {
    let mut preferred = listener.node_address_type.into_iter().chain(NodeAddressType::ALL);
    preferred.find_map(|kind| {
        let of_kind = addresses.iter().filter(|(name, _)| name == kind.as_str());
        of_wanted_family(listener, of_kind.map(|(_, host)| host.as_str()))
    })
}

/// Returns the first address of the listener's first IP family, otherwise the first address: nodes
/// and pods of a dual-stack cluster have one of each family.
fn of_wanted_family<'a>(
    listener: &DesiredListener,
    hosts: impl Iterator<Item = &'a str> + Clone,
) -> Option<&'a str> {
    let wanted = listener.service.ip_families.first();
    let is_wanted = |host: &&str| match host.parse() {
        Ok(IpAddr::V4(_)) => wanted == Some(&IpFamily::IPv4),
        Ok(IpAddr::V6(_)) => wanted == Some(&IpFamily::IPv6),
        Err(_) => false,
    };
    hosts.clone().find(is_wanted).or_else(|| hosts.clone().next())
}

fn join_host_port(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests;
