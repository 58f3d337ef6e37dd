//! Group calls reach the coordinator through any agent.

use super::*;

/// Joins a group as its only member. Returns generation and member id.
async fn join_alone(groups: &mut GroupServiceClient<Channel>, group_id: &str) -> (i32, String) {
    let joined = groups
        .join_group(v1::JoinGroupRequest {
            group_id: group_id.to_owned(),
            client_id: "test".to_owned(),
            protocol_type: "consumer".to_owned(),
            protocols: vec![v1::GroupProtocol {
                name: "range".to_owned(),
                metadata: vec![1].into(),
            }],
            session_timeout_ms: 30_000,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let (generation, member_id) = (joined.generation, joined.member_id.clone());
    let synced = groups.sync_group(v1::SyncGroupRequest {
        group_id: group_id.to_owned(),
        generation,
        member_id: member_id.clone(),
        assignments: vec![v1::MemberAssignment {
            member_id: member_id.clone(),
            assignment: vec![7].into(),
        }],
        ..Default::default()
    });
    assert_eq!(synced.await.unwrap().into_inner().assignment, vec![7]);
    (generation, member_id)
}

/// In an outage of the object store, records fill the memory; no member may lose its partitions.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_works_while_forwarded_records_find_no_memory() {
    let both = TwoAgents::start(&[], &[]).await;
    let group_id = group_of(&both, &both.one);
    let channel = connect(&both.two, "forward").await;
    let mut stream = ProducerStream::open(channel.clone()).await;
    let theirs = both.partition_of(&both.one);
    // What is left is enough for a message to arrive, and not to forward a record.
    let memory = &both.two.node.request_memory;
    let held = memory.acquire(memory.capacity() - 1000).await.unwrap();
    let refused = stream.produce(part(theirs, "x", None)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ResourceExhausted);
    let mut groups = GroupServiceClient::new(channel);
    let (generation, member_id) = join_alone(&mut groups, &group_id).await;
    let beat = v1::HeartbeatRequest {
        group_id: group_id.clone(),
        generation,
        member_id: member_id.clone(),
        ..Default::default()
    };
    groups.heartbeat(beat).await.unwrap();
    let committed = groups.commit_offsets(v1::CommitOffsetsRequest {
        group_id: group_id.clone(),
        generation,
        member_id,
        offsets: vec![v1::CommitOffset {
            topic: "orders".to_owned(),
            partition: 1,
            offset: 0,
            ..Default::default()
        }],
        ..Default::default()
    });
    assert_eq!(committed.await.unwrap().into_inner().offsets[0].error, None);
    drop(held);
    assert_eq!(stream.produce(part(theirs, "x", None)).await, Ok(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_works_through_an_agent_that_does_not_coordinate_it() {
    let both = TwoAgents::start(&[], &[]).await;
    let group_id = group_of(&both, &both.one);
    let mut groups = GroupServiceClient::new(connect(&both.two, "forward").await);
    let (generation, member_id) = join_alone(&mut groups, &group_id).await;
    let beat = v1::HeartbeatRequest {
        group_id: group_id.clone(),
        generation,
        member_id: member_id.clone(),
        ..Default::default()
    };
    groups.heartbeat(beat.clone()).await.unwrap();
    let committed = groups.commit_offsets(v1::CommitOffsetsRequest {
        group_id: group_id.clone(),
        generation,
        member_id: member_id.clone(),
        offsets: vec![v1::CommitOffset {
            topic: "orders".to_owned(),
            partition: 1,
            offset: 0,
            ..Default::default()
        }],
        ..Default::default()
    });
    assert_eq!(committed.await.unwrap().into_inner().offsets[0].error, None);
    let fetched = groups.fetch_offsets(v1::FetchOffsetsRequest {
        group_id: group_id.clone(),
        ..Default::default()
    });
    let fetched = fetched.await.unwrap().into_inner().offsets;
    assert_eq!(
        (fetched.len(), fetched[0].partition, fetched[0].offset),
        (1, 1, 0)
    );
    let described = groups.describe_group(v1::DescribeGroupRequest {
        group_id: group_id.clone(),
    });
    let described = described.await.unwrap().into_inner();
    assert_eq!(described.state, "Stable");
    assert_eq!(described.members[0].client_host, "127.0.0.1", "of the client");
    let coordinator = described.coordinator.unwrap();
    assert_eq!(
        (coordinator.agent_id.as_str(), coordinator.address.as_str()),
        ("one", CLIENT_ADDRESS)
    );
    // The coordinator's errors keep their codes.
    let deleted = groups.delete_group(v1::DeleteGroupRequest {
        group_id: group_id.clone(),
    });
    let error = streamhouse_core::Error::from(deleted.await.unwrap_err());
    assert_eq!(error.code(), ErrorCode::NonEmptyGroup);
    let left = groups.leave_group(v1::LeaveGroupRequest {
        group_id: group_id.clone(),
        member_id: member_id.clone(),
        ..Default::default()
    });
    left.await.unwrap();
    let error = streamhouse_core::Error::from(groups.heartbeat(beat).await.unwrap_err());
    assert_eq!(error.code(), ErrorCode::UnknownMemberId);
    let deleted = groups.delete_group(v1::DeleteGroupRequest { group_id });
    deleted.await.unwrap();
    let [calls] = scrape_values(&both.two, ["forwarded_requests_total{kind=\"call\"}"]);
    assert_eq!(calls, 9.0, "any agent can answer which offsets are committed");
    let used = || both.two.node.request_memory.used();
    wait_until("the memory is free again", || used() == 0).await;
}
