//! The Kafka listener: serves Kafka's protocol on the code that serves gRPC. Batches pass
//! unchanged.
//!
//! `connection` reads frames and writes answers in the order of the requests, `dispatch` finds what
//! serves a request, and one module for each kind of request translates between Kafka's messages
//! and this agent's. Guarantees: a connection holds a bounded number of requests, each of bounded
//! size, and takes memory for a request before it reads it; a request that cannot be decoded ends
//! its connection and nothing else. `limits` has the numbers.

mod access;
mod acls;
mod admin;
mod alter_configs;
mod api;
mod assignment;
mod broker_settings;
mod brokers;
mod client_quotas;
mod configs;
mod connection;
mod consumer_groups;
mod coordinator;
mod create_topics;
mod dispatch;
mod error;
mod fetch;
mod frame;
mod groups;
mod limits;
mod log_dirs;
mod metadata;
mod offset_delete;
mod offsets;
mod produce;
mod producers;
mod refusal;
mod request;
mod request_memory;
mod sasl;
mod sasl_stage;
mod scram_credentials;
mod security_admin;
mod topic_partitions;

#[cfg(test)]
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{future::Future, io, sync::Arc};

use futures::{Stream, StreamExt, pin_mut};
use streamhouse_metadata::MetadataStore;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{JoinError, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::{
    directory::ClusterDirectory, fetch::FetchDeps, groups::GroupCoordinator, memory::ByteBudget,
    metrics::AgentMetrics, produce::ProduceDeps, security::ClientSecurity, topics::TopicDeps,
};

pub use self::{api::reference_markdown, brokers::BrokerAddresses};

/// Dependencies of the Kafka listener.
#[derive(Debug, Clone)]
pub struct KafkaDeps {
    /// Handles produce requests.
    pub produce: ProduceDeps,
    /// Handles fetches.
    pub fetch: FetchDeps,
    /// Handles what concerns topics.
    pub topics: TopicDeps,
    /// Handles what concerns groups.
    pub groups: Arc<GroupCoordinator>,
    /// Producer ids and log bounds.
    pub metadata: Arc<dyn MetadataStore>,
    /// The cluster as of the newest snapshot.
    pub directory: Arc<ClusterDirectory>,
    /// Metrics of this agent.
    pub metrics: Arc<AgentMetrics>,
    /// Memory of requests that are arriving or being served.
    pub request_memory: ByteBudget,
    /// What Produce requests may have of it.
    pub produce_request_memory: ByteBudget,
    /// What clients that have not authenticated may have of it.
    pub unauthenticated_request_memory: ByteBudget,
    /// Maximum size of one request, in bytes.
    pub max_request_bytes: usize,
    /// Number of partitions of a topic that is created because a client asks for it; `None` if
    /// topics are not created so.
    pub auto_create_partitions: Option<i32>,
    /// Authenticates clients, and decides what they may do.
    pub security: Arc<ClientSecurity>,
}

/// A connection of a client.
pub trait KafkaConnection:
    AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static
{
}

impl<C> KafkaConnection for C where
    C: AsyncRead + AsyncWrite + Connected<ConnectInfo = TcpConnectInfo> + Unpin + Send + 'static
{
}

/// Serves the connections of one listener until `stop` resolves, and then the requests that are
/// being served. Its clients are given `addresses`.
pub async fn serve<C: KafkaConnection>(
    connections: impl Stream<Item = io::Result<C>>,
    deps: Arc<KafkaDeps>,
    addresses: BrokerAddresses,
    stop: impl Future<Output = ()>,
) {
    pin_mut!(connections, stop);
    deps.metrics.kafka.register();
    let (mut served, stopping) = (JoinSet::new(), CancellationToken::new());
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = served.join_next() => report_failure(ended),
            accepted = connections.next() => match accepted {
                Some(Ok(connection)) => {
                    let (deps, addresses) = (deps.clone(), addresses.clone());
                    served.spawn(connection::serve(connection, deps, addresses, stopping.clone()));
                }
                Some(Err(error)) => tracing::debug!(%error, "a Kafka connection failed"),
                None => break,
            },
        }
    }
    // Clients find the agents that take over when their connections end.
    stopping.cancel();
    let finished = async {
        while let Some(ended) = served.join_next().await {
            report_failure(ended);
        }
    };
    if timeout(limits::STOP_GRACE, finished).await.is_err() {
        served.shutdown().await;
    }
}

/// Connections whose task failed.
#[cfg(test)]
pub(crate) static FAILED_CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// Reports a connection whose task failed, which only a bug can cause.
fn report_failure(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        #[cfg(test)]
        FAILED_CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        tracing::error!(%error, "serving a Kafka connection failed");
    }
}
