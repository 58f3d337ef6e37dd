//! Clients that authenticate at an agent which forwards: the leader knows who they are.

use super::{
    super::grpc_auth::{AuthenticatedClient, PASSWORD, SECURED, allow, put_user, wait_for_users},
    *,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_decides_by_the_client_that_another_agent_forwards_for() {
    let both = TwoAgents::start(&SECURED, &SECURED).await;
    for user in ["alice", "bob"] {
        put_user(&both.stores, user, PASSWORD).await;
    }
    allow(&both.stores, "alice", ("TOPIC", "orders"), "WRITE").await;
    allow(&both.stores, "alice", ("GROUP", "*"), "READ").await;
    for agent in [&both.one, &both.two] {
        wait_for_users(&both.stores, agent).await;
    }
    let channel = connect(&both.one, "forward").await;
    let client = |user: &str| AuthenticatedClient::new(channel.clone()).with_password(user, PASSWORD);
    let parts: Vec<_> = (0..PARTITIONS)
        .map(|partition| part(partition, "x", None))
        .collect();
    let produce = v1::ProduceRequest {
        request_id: 1,
        partitions: parts,
        ..Default::default()
    };
    for (user, expected) in [
        ("alice", ErrorCode::None),
        ("bob", ErrorCode::TopicAuthorizationFailed),
    ] {
        // The secret of the agents is read on its own.
        let deadline = Instant::now() + EVENT_TIMEOUT;
        loop {
            let requests = tokio_stream::iter([produce.clone()]);
            let answers = client(user).data().produce(requests).await.unwrap();
            let answer = answers.into_inner().message().await.unwrap().unwrap();
            let codes: Vec<ErrorCode> = answer.partitions.iter().map(error_of).collect();
            if codes == vec![expected; PARTITIONS as usize] {
                break;
            }
            let retryable = codes
                .iter()
                .all(|code| [expected, ErrorCode::LeaderNotAvailable].contains(code));
            assert!(retryable && Instant::now() < deadline, "{user}: {codes:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }
    for group in 0..8 {
        let join = |user: &str| {
            let join = v1::JoinGroupRequest {
                group_id: format!("group-{group}"),
                protocol_type: "consumer".to_owned(),
                protocols: vec![v1::GroupProtocol {
                    name: "range".to_owned(),
                    ..Default::default()
                }],
                session_timeout_ms: 10_000,
                rebalance_timeout_ms: 10_000,
                require_known_member_id: true,
                ..Default::default()
            };
            let mut groups = client(user).groups();
            async move { groups.join_group(join).await }
        };
        join("alice").await.unwrap();
        let refused = streamhouse_core::Error::from(join("bob").await.unwrap_err());
        assert_eq!(refused.code(), ErrorCode::GroupAuthorizationFailed);
    }
}
