//! The bounds of connections to other agents.

use streamhouse_core::{
    ErrorCode,
    protocol::v1::{self, group_service_client::GroupServiceClient},
    settings::AgentSettings,
    time::{system_clock, system_entropy},
};
use streamhouse_metadata::ClusterSnapshot;
use tokio::time::Duration;

use super::{pool::ConnectionLease, *};
use crate::metrics::ForwardKind;

fn agent(incarnation: i64) -> AgentEntry {
    AgentEntry {
        incarnation: Incarnation(incarnation),
        node_id: 1,
        agent_id: format!("agent-{incarnation}"),
        grpc_address: "127.0.0.1:1".to_owned(),
        http_address: String::new(),
        kafka_address: String::new(),
        zone: String::new(),
        version: String::new(),
        draining: false,
    }
}

/// Returns a view with these agents.
fn view_of(agents: &[AgentEntry]) -> Arc<ClusterView> {
    let directory = ClusterDirectory::default();
    directory.replace(ClusterSnapshot {
        version: 1,
        agents: agents.to_vec(),
        ..ClusterSnapshot::default()
    });
    directory.view()
}

fn pool(limits: ForwardLimits) -> (Arc<PeerPool>, Arc<AgentMetrics>) {
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    (PeerPool::new(None, metrics.clone(), limits), metrics)
}

fn open_connections(metrics: &AgentMetrics, kind: ForwardKind) -> String {
    let series = format!(
        "streamhouse_agent_forward_connections{{kind=\"{}\"}} ",
        kind.name()
    );
    let text = metrics.render().unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix(&series))
        .unwrap()
        .to_owned()
}

#[test]
fn an_agent_has_sixteen_connections_for_streams_and_four_for_calls() {
    let limits = ForwardLimits::default();
    assert_eq!((limits.produce_connections, limits.call_connections), (16, 4));
}

#[tokio::test]
async fn streams_share_connections_and_are_refused_beyond_the_last() {
    let limits = ForwardLimits {
        produce_connections: 3,
        streams_per_connection: 2,
        call_connections: 1,
        calls_per_connection: 1,
    };
    let (pool, metrics) = pool(limits);
    let (peer, view) = (agent(1), view_of(&[agent(1), agent(2)]));
    let lease = |kind| pool.lease(&view, &peer, kind);
    let mut streams: Vec<ConnectionLease> = (0..6).map(|_| lease(ForwardKind::Produce).unwrap()).collect();
    assert_eq!(open_connections(&metrics, ForwardKind::Produce), "3");
    let refused = lease(ForwardKind::Produce).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    assert!(refused.retry_after_ms() > 0);
    let call = lease(ForwardKind::Call).unwrap();
    assert_eq!(
        lease(ForwardKind::Call).unwrap_err().code(),
        ErrorCode::ResourceExhausted
    );
    assert!(
        pool.lease(&view, &agent(2), ForwardKind::Call).is_ok(),
        "another agent"
    );
    drop(streams.pop());
    streams.push(lease(ForwardKind::Produce).unwrap());
    assert_eq!(open_connections(&metrics, ForwardKind::Produce), "3");
    drop(call);
    lease(ForwardKind::Call).unwrap();
    streams.clear();
    assert_eq!(open_connections(&metrics, ForwardKind::Produce), "1", "one stays");
}

#[tokio::test]
async fn connections_to_agents_that_are_gone_are_dropped() {
    let (pool, metrics) = pool(ForwardLimits::default());
    let before = view_of(&[agent(1), agent(2)]);
    let kept = pool.lease(&before, &agent(1), ForwardKind::Produce).unwrap();
    let gone = pool.lease(&before, &agent(2), ForwardKind::Produce).unwrap();
    let after = view_of(&[agent(1), agent(3)]);
    let new = pool.lease(&after, &agent(3), ForwardKind::Produce).unwrap();
    assert_eq!(open_connections(&metrics, ForwardKind::Produce), "2");
    drop((kept, gone, new));
    assert_eq!(open_connections(&metrics, ForwardKind::Produce), "2");
}

/// A request that was taken up before an agent registered looks at a cluster without that agent.
#[tokio::test]
async fn a_connection_that_was_dropped_is_not_returned_in_place_of_another() {
    let limits = ForwardLimits {
        call_connections: 1,
        calls_per_connection: 2,
        ..ForwardLimits::default()
    };
    let (pool, _) = pool(limits);
    let (older, newer) = (view_of(&[agent(1)]), view_of(&[agent(1), agent(2)]));
    let first = pool.lease(&newer, &agent(2), ForwardKind::Call).unwrap();
    let _other = pool.lease(&older, &agent(1), ForwardKind::Call).unwrap();
    let second = pool.lease(&newer, &agent(2), ForwardKind::Call).unwrap();
    drop(first);
    let third = pool.lease(&newer, &agent(2), ForwardKind::Call).unwrap();
    let refused = pool.lease(&newer, &agent(2), ForwardKind::Call).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    drop((second, third));
    for _ in 0..2 {
        pool.lease(&newer, &agent(2), ForwardKind::Call).unwrap();
    }
}

#[tokio::test]
async fn a_call_without_a_deadline_ends_after_its_limit() {
    // Accepts connections, and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = AgentEntry {
        grpc_address: silent.local_addr().unwrap().to_string(),
        ..agent(1)
    };
    let directory = Arc::new(ClusterDirectory::default());
    directory.replace(ClusterSnapshot {
        version: 1,
        agents: vec![peer.clone()],
        ..ClusterSnapshot::default()
    });
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    let settings = AgentSettings::defaults(true);
    let security = ClientSecurity::new(&settings, system_entropy(), metrics.clone());
    let security = Arc::new(security);
    let forwarder = PeerForwarder::new(ForwardDeps {
        directory,
        session: Arc::default(),
        security: security.clone(),
        clock: system_clock(),
        request_memory: ByteBudget::new(1 << 20),
        call_memory: 1 << 20,
        tls: None,
        metrics,
        max_answer_bytes: 1 << 20,
        limits: ForwardLimits::default(),
    });
    let mut join = tonic::Request::new(v1::JoinGroupRequest::default());
    join.extensions_mut().insert(security.anonymous(None));
    let call = async |channel, request| GroupServiceClient::new(channel).join_group(request).await;
    let status = forwarder
        .call(&peer, join, Duration::from_millis(50), call)
        .await
        .unwrap_err();
    let error = streamhouse_core::Error::from(status);
    assert_eq!(error.code(), ErrorCode::RequestTimedOut, "{error}");
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_an_error_of_the_request() {
    let (pool, _) = pool(ForwardLimits::default());
    let peer = AgentEntry {
        grpc_address: "not an address".to_owned(),
        ..agent(1)
    };
    let error = pool
        .lease(&view_of(std::slice::from_ref(&peer)), &peer, ForwardKind::Call)
        .unwrap_err();
    assert!(
        error.is_retryable() && error.code().has_no_side_effects(),
        "{error}"
    );
}
