//! What a client without rights learns: nothing that is there, by any method.

use std::collections::BTreeSet;

use super::*;
use crate::server::guard::METHODS;

/// Makes a call and adds how it ends to the list.
macro_rules! call {
    ($ends:ident, $service:ident.$method:ident($request:expr)) => {
        let status = $service.$method($request).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{}", stringify!($method));
        $ends.push((stringify!($method), status.message().to_owned()));
    };
}

/// How calls end, by their method.
type CallEnds = Vec<(&'static str, String)>;

/// Makes every call for a topic and a group, and returns how each ends, with the names replaced.
async fn every_denial(client: &AuthenticatedClient, topic: &str, group: &str) -> CallEnds {
    let mut ends = topic_denials(client, topic).await;
    ends.extend(group_denials(client, group).await);
    ends.extend(security_denials(client).await);
    for (_, told) in &mut ends {
        *told = told.replace(topic, "TOPIC").replace(group, "GROUP");
    }
    ends.extend(item_denials(client, topic).await);
    ends
}

async fn topic_denials(client: &AuthenticatedClient, topic: &str) -> CallEnds {
    let (mut ends, mut admin) = (Vec::new(), client.admin());
    let topic_name = topic.to_owned();
    let name = topic_name.clone();
    call!(
        ends,
        admin.create_topic(v1::CreateTopicRequest {
            name,
            partitions: 1,
            ..Default::default()
        })
    );
    let name = topic_name.clone();
    call!(ends, admin.describe_topic(v1::DescribeTopicRequest { name }));
    let name = topic_name.clone();
    call!(
        ends,
        admin.alter_topic(v1::AlterTopicRequest {
            name,
            partitions: 2,
            ..Default::default()
        })
    );
    let name = topic_name.clone();
    call!(
        ends,
        admin.alter_topic(v1::AlterTopicRequest {
            name,
            reset_config: vec!["retention.ms".to_owned()],
            ..Default::default()
        })
    );
    let name = topic_name.clone();
    call!(ends, admin.delete_topic(v1::DeleteTopicRequest { name }));
    let topic = topic_name.clone();
    call!(
        ends,
        admin.delete_records(v1::DeleteRecordsRequest {
            topic,
            before_offset: -1,
            ..Default::default()
        })
    );
    ends
}

async fn group_denials(client: &AuthenticatedClient, group: &str) -> CallEnds {
    let (mut ends, mut groups) = (Vec::new(), client.groups());
    let group_of = || group.to_owned();
    call!(
        ends,
        groups.find_coordinator(v1::FindCoordinatorRequest { group_id: group_of() })
    );
    call!(
        ends,
        groups.join_group(v1::JoinGroupRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    call!(
        ends,
        groups.sync_group(v1::SyncGroupRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    call!(
        ends,
        groups.heartbeat(v1::HeartbeatRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    call!(
        ends,
        groups.leave_group(v1::LeaveGroupRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    call!(
        ends,
        groups.commit_offsets(v1::CommitOffsetsRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    call!(
        ends,
        groups.fetch_offsets(v1::FetchOffsetsRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    call!(
        ends,
        groups.describe_group(v1::DescribeGroupRequest { group_id: group_of() })
    );
    call!(
        ends,
        groups.delete_group(v1::DeleteGroupRequest { group_id: group_of() })
    );
    call!(
        ends,
        groups.reset_offsets(v1::ResetOffsetsRequest {
            group_id: group_of(),
            ..Default::default()
        })
    );
    ends
}

async fn security_denials(client: &AuthenticatedClient) -> CallEnds {
    let (mut ends, mut security) = (Vec::new(), client.security());
    call!(ends, security.list_users(v1::ListUsersRequest {}));
    call!(ends, security.put_user(v1::PutUserRequest::default()));
    call!(
        ends,
        security.delete_user(v1::DeleteUserRequest {
            name: "admin".to_owned()
        })
    );
    call!(ends, security.list_acls(v1::ListAclsRequest::default()));
    call!(ends, security.create_acls(v1::CreateAclsRequest::default()));
    call!(ends, security.delete_acls(v1::DeleteAclsRequest::default()));
    call!(ends, security.explain_access(v1::ExplainAccessRequest::default()));
    let mut data = client.data();
    call!(ends, data.init_producer_id(v1::InitProducerIdRequest {}));
    ends
}

/// The same for calls whose items have errors of their own.
async fn item_denials(client: &AuthenticatedClient, topic: &str) -> Vec<(&'static str, String)> {
    let mut data = client.data();
    let name = || topic.to_owned();
    let metadata = v1::MetadataRequest { topics: vec![name()] };
    let metadata = data
        .metadata(metadata)
        .await
        .unwrap()
        .into_inner()
        .topics
        .remove(0);
    assert_eq!((metadata.topic_id.as_str(), metadata.partitions.len()), ("", 0));
    let query = v1::PartitionOffsetQuery {
        topic: name(),
        position: Some(v1::partition_offset_query::Position::Latest(v1::Latest {})),
        ..Default::default()
    };
    let offsets = v1::ListOffsetsRequest {
        partitions: vec![query],
    };
    let offset = data
        .list_offsets(offsets)
        .await
        .unwrap()
        .into_inner()
        .partitions
        .remove(0);
    let fetch = v1::FetchRequest {
        max_wait_ms: 60_000,
        min_bytes: 1,
        partitions: vec![v1::PartitionFetch {
            topic: name(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let fetched = data.fetch(fetch).await.unwrap().into_inner().partitions.remove(0);
    let produce = v1::ProduceRequest {
        request_id: 1,
        partitions: vec![record(topic)],
        ..Default::default()
    };
    let mut answers = data
        .produce(tokio_stream::iter([produce]))
        .await
        .unwrap()
        .into_inner();
    let produced = answers.message().await.unwrap().unwrap().partitions.remove(0);
    let errors = [
        ("metadata", metadata.error),
        ("list_offsets", offset.error),
        ("fetch", fetched.error),
        ("produce", produced.error),
    ];
    let describe = |(method, error): (&'static str, Option<v1::Error>)| {
        let error = error.unwrap();
        assert_eq!(
            error.code,
            ErrorCode::TopicAuthorizationFailed.number(),
            "{method}"
        );
        (method, error.message.replace(topic, "TOPIC"))
    };
    errors.map(describe).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_rights_learns_of_nothing_by_any_method() {
    let secured = SecuredAgent::start().await;
    let nobody = secured.client("nobody");
    let there = every_denial(&nobody, "orders", "billing").await;
    let denied = there.iter().map(|(method, _)| method.replace('_', ""));
    let open = ["describecluster", "listgroups", "listtopics"].map(str::to_owned);
    let all = METHODS.iter().map(|method| method.to_ascii_lowercase());
    assert_eq!(
        denied.chain(open).collect::<BTreeSet<_>>(),
        all.collect(),
        "a method is not asked"
    );
    let not_there = every_denial(&nobody, "missing", "nowhere").await;
    assert_eq!(there, not_there, "what exists is not told from what does not");
    assert_eq!(nobody.topics().await, Vec::<String>::new());
    let all = nobody
        .data()
        .metadata(v1::MetadataRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!((all.topics.len(), all.agents.len()), (0, 1));
    let groups = nobody
        .groups()
        .list_groups(v1::ListGroupsRequest {})
        .await
        .unwrap();
    assert_eq!(groups.into_inner().groups, []);
    let cluster = nobody
        .admin()
        .describe_cluster(v1::DescribeClusterRequest {})
        .await;
    let cluster = cluster.unwrap().into_inner();
    assert_eq!(cluster.agents.len(), 1, "clients need the agents");
    assert_eq!((cluster.topics, cluster.metadata_store.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_those_of_kafka() {
    let secured = SecuredAgent::start().await;
    let alice = secured.client("alice");
    secured.allow("alice", ("TOPIC", "orders"), "WRITE").await;
    assert_eq!(alice.topics().await, ["orders"], "who may write may describe");
    alice
        .data()
        .init_producer_id(v1::InitProducerIdRequest {})
        .await
        .unwrap();
    let settings_of = |name: &str| v1::AlterTopicRequest {
        name: name.to_owned(),
        set_config: [("retention.ms".to_owned(), "1000000".to_owned())].into(),
        ..Default::default()
    };
    secured.allow("alice", ("TOPIC", "orders"), "ALTER_CONFIGS").await;
    alice.admin().alter_topic(settings_of("orders")).await.unwrap();
    let with_partitions = v1::AlterTopicRequest {
        partitions: 2,
        ..settings_of("orders")
    };
    let refused = alice
        .admin()
        .alter_topic(with_partitions.clone())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    secured.allow("alice", ("TOPIC", "orders"), "ALTER").await;
    alice.admin().alter_topic(with_partitions).await.unwrap();
    secured.allow("alice", ("TOPIC", "mine"), "CREATE").await;
    let create = |name: &str| v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        ..Default::default()
    };
    alice.admin().create_topic(create("mine")).await.unwrap();
    let refused = alice.admin().create_topic(create("theirs")).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    secured
        .allow("alice", ("CLUSTER", "kafka-cluster"), "CREATE")
        .await;
    alice.admin().create_topic(create("theirs")).await.unwrap();
    secured.allow("alice", ("GROUP", "billing"), "READ").await;
    let commit = v1::CommitOffsetsRequest {
        group_id: "billing".to_owned(),
        generation: -1,
        offsets: ["mine", "orders"]
            .map(|topic| v1::CommitOffset {
                topic: topic.to_owned(),
                ..Default::default()
            })
            .to_vec(),
        ..Default::default()
    };
    secured.allow("alice", ("TOPIC", "orders"), "READ").await;
    let committed = alice.groups().commit_offsets(commit).await.unwrap().into_inner();
    let codes = committed
        .offsets
        .iter()
        .map(|offset| offset.error.as_ref().map_or(0, |error| error.code));
    assert_eq!(
        codes.collect::<Vec<_>>(),
        [ErrorCode::TopicAuthorizationFailed.number(), 0]
    );
    let fetched = v1::FetchOffsetsRequest {
        group_id: "billing".to_owned(),
        ..Default::default()
    };
    let fetched = alice.groups().fetch_offsets(fetched).await.unwrap().into_inner();
    assert_eq!(fetched.offsets.len(), 1);
}
