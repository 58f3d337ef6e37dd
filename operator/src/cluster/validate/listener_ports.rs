//! Validates the ports and certificates of listeners, and the built-in listeners as a whole.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    cluster::{
        desired::{DesiredListener, KAFKA_LISTENER, ListenerCertificate, ListenerPort},
        problem::ClusterProblem,
    },
    context::ClusterDefaults,
    crd::{ClusterSpec, ListenerTls},
};

const DEFAULT_GRPC_PORT: u16 = 50051;
const DEFAULT_HTTP_PORT: u16 = 8080;
const DEFAULT_KAFKA_PORT: u16 = 9092;
/// Largest number of partitions with which agents create a topic for a Kafka client.
const MAX_PARTITIONS: i32 = 10_000;
/// Port of the listener that serves every client by one address, if no other listener has it.
const FORWARD_PORT: u16 = 50052;

/// Returns the DNS domain of the Kubernetes cluster.
pub(super) fn cluster_domain(spec: &ClusterSpec, defaults: &ClusterDefaults) -> String {
    let domain = spec.listeners.cluster_domain.as_ref();
    domain.unwrap_or(&defaults.cluster_domain).to_owned()
}

/// The built-in listeners of the agents.
pub(super) struct OwnListeners {
    /// For StreamHouse clients.
    pub(super) grpc: ListenerPort,
    /// For HTTP.
    pub(super) http: ListenerPort,
    /// For Kafka clients, if enabled.
    pub(super) kafka: Option<ListenerPort>,
}

impl OwnListeners {
    /// Returns the ports with the listeners' names.
    pub(super) fn ports(&self) -> impl Iterator<Item = (u16, &'static str)> {
        let kafka = self.kafka.iter().map(|port| (port.number, KAFKA_LISTENER));
        [(self.grpc.number, "grpc"), (self.http.number, "http")]
            .into_iter()
            .chain(kafka)
    }

    /// Returns whether one of them uses TLS.
    pub(super) fn has_tls(&self) -> bool {
        let kafka = self.kafka.as_ref();
        self.grpc.has_tls() || self.http.has_tls() || kafka.is_some_and(ListenerPort::has_tls)
    }
}

/// Returns the built-in listeners.
pub(super) fn own_listeners(cluster: &str, spec: &ClusterSpec) -> Result<OwnListeners, ClusterProblem> {
    let listeners = &spec.listeners;
    let own = |name: &str, port: Option<i32>, tls: Option<&ListenerTls>, usual: u16| {
        let field = format!("spec.listeners.{name}");
        let number = port.map_or(Ok(usual), |number| port_number(&field, number))?;
        listener_port(cluster, name, &field, number, tls)
    };
    let (grpc, http) = (&listeners.grpc, &listeners.http);
    let kafka = listeners.kafka.as_ref().filter(|kafka| kafka.enabled);
    let kafka = kafka.map(|kafka| own(KAFKA_LISTENER, kafka.port, kafka.tls.as_ref(), DEFAULT_KAFKA_PORT));
    let listeners = OwnListeners {
        grpc: own("grpc", grpc.port, grpc.tls.as_ref(), DEFAULT_GRPC_PORT)?,
        http: own("http", http.port, http.tls.as_ref(), DEFAULT_HTTP_PORT)?,
        kafka: kafka.transpose()?,
    };
    let mut names = BTreeMap::new();
    for (port, name) in listeners.ports() {
        if let Some(other) = names.insert(port, name) {
            return Err(ClusterProblem::invalid_spec(format!(
                "spec.listeners.{other} and spec.listeners.{name} both have port {port}: set different ports"
            )));
        }
    }
    Ok(listeners)
}

/// Returns the number of partitions of topics that are created for Kafka clients; `None` for the
/// agents' default.
pub(super) fn auto_create_partitions(spec: &ClusterSpec) -> Result<Option<i32>, ClusterProblem> {
    let kafka = spec.listeners.kafka.as_ref();
    match kafka.and_then(|kafka| kafka.auto_create_partitions) {
        Some(count) if !(0..=MAX_PARTITIONS).contains(&count) => refuse(
            "spec.listeners.kafka.autoCreatePartitions",
            &format!("{count} is not between 0 and {MAX_PARTITIONS}"),
        ),
        count => Ok(count),
    }
}

/// Returns the port of the listener that serves every client by one address: the usual one, or the
/// next that no other listener has.
pub(super) fn forward_port(own: &OwnListeners, further: &[DesiredListener]) -> u16 {
    let further = further.iter().map(|listener| listener.port.number);
    let used: Vec<u16> = own.ports().map(|(port, _)| port).chain(further).collect();
    let mut ports = FORWARD_PORT..=u16::MAX;
    ports.find(|port| !used.contains(port)).unwrap_or(FORWARD_PORT)
}

/// Checks a port that need not be given.
pub(super) fn optional_port(field: &str, number: Option<i32>) -> Result<Option<u16>, ClusterProblem> {
    match number.map(u16::try_from) {
        None => Ok(None),
        Some(Ok(number)) if number > 0 => Ok(Some(number)),
        Some(_) => refuse(field, "a port is between 1 and 65535"),
    }
}

/// Checks a port on which agents can listen without privileges.
pub(super) fn port_number(field: &str, number: i32) -> Result<u16, ClusterProblem> {
    let number_in_range = u16::try_from(number).ok().filter(|number| *number >= 1024);
    number_in_range.ok_or_else(|| {
        ClusterProblem::invalid_spec(format!("{field}.port {number} is not between 1024 and 65535"))
    })
}

/// Returns a listener's port and certificate.
pub(super) fn listener_port(
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
    let secret = tls.certificate_secret(cluster, name);
    let issuer = match (&tls.secret_name, &tls.issuer_ref) {
        (Some(_), None) => None,
        (None, Some(issuer)) => Some(issuer.clone()),
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

/// Refuses a field.
pub(super) fn refuse<T>(field: &str, why: &str) -> Result<T, ClusterProblem> {
    Err(ClusterProblem::invalid_spec(format!("{field}: {why}")))
}
