//! The ports of an agent: gRPC and Kafka for clients, by built-in listeners and further ones, and
//! HTTP.
//! All are bound before any is served, so that a port in use ends the start.

use std::{io, net::SocketAddr};

use streamhouse_core::listen::ipv4_fallback;
use tokio::net::TcpListener;

use crate::listeners::{AddressAnswers, ListenerProtocol};

/// TLS of a further listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FurtherListenerTls {
    /// Plain text.
    Off,
    /// The listener's own certificate.
    Own,
    /// That of the built-in listener of the same protocol, if it has one.
    AsBuiltIn,
}

/// A further listener.
#[derive(Debug, Clone)]
pub struct FurtherListener {
    /// Its name in metrics and logs.
    pub name: String,
    /// The protocol of its clients.
    pub protocol: ListenerProtocol,
    /// The address to listen on.
    pub listen: String,
    /// Its TLS.
    pub tls: FurtherListenerTls,
    /// The addresses that it answers with.
    pub answers: AddressAnswers,
}

/// All ports, bound.
#[derive(Debug)]
pub struct ServerPorts {
    pub(super) grpc: TcpListener,
    pub(super) http: TcpListener,
    pub(super) kafka: Option<TcpListener>,
    pub(super) further: Vec<(FurtherListener, TcpListener)>,
}

impl ServerPorts {
    /// Binds all ports; `kafka` is empty if there is no Kafka listener.
    ///
    /// # Errors
    /// If an address cannot be bound.
    pub async fn bind(
        grpc: &str,
        http: &str,
        kafka: &str,
        further: Vec<FurtherListener>,
    ) -> io::Result<Self> {
        let mut ports = Self {
            grpc: bind_listener("gRPC", grpc).await?,
            http: bind_listener("HTTP", http).await?,
            kafka: match kafka {
                "" => None,
                address => Some(bind_listener("Kafka", address).await?),
            },
            further: Vec::with_capacity(further.len()),
        };
        for listener in further {
            let what = format!("the listener {}", listener.name);
            let socket = bind_listener(&what, &listener.listen).await?;
            ports.further.push((listener, socket));
        }
        Ok(ports)
    }

    /// Returns the bound addresses of the built-in listeners, gRPC first.
    ///
    /// # Errors
    /// If the operating system does not return a local address.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.grpc.local_addr()?, self.http.local_addr()?))
    }

    /// Returns the bound address of the Kafka listener, if there is one.
    ///
    /// # Errors
    /// If the operating system does not return a local address.
    pub fn kafka_address(&self) -> io::Result<Option<SocketAddr>> {
        self.kafka.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// Returns the names of the further listeners and their bound addresses.
    ///
    /// # Errors
    /// If the operating system does not return a local address.
    pub fn further_addresses(&self) -> io::Result<Vec<(String, SocketAddr)>> {
        let further = self.further.iter();
        further
            .map(|(listener, socket)| Ok((listener.name.clone(), socket.local_addr()?)))
            .collect()
    }
}

async fn bind_listener(what: &str, address: &str) -> io::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(error) => match ipv4_fallback(address, &error) {
            Some(address) => TcpListener::bind(address).await,
            None => Err(error),
        },
        bound => bound,
    };
    bound.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address} for {what}: {error}; choose another address"),
        )
    })
}
