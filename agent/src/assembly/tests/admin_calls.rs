//! The answers of a whole agent to admin calls, HTTP pages and gRPC.

use streamhouse_core::protocol::v1::admin_service_client::AdminServiceClient;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn records_are_deleted_up_to_an_offset_by_the_leader() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    for _ in 0..3 {
        produce(&one, "orders", 0, "x").await.unwrap();
    }
    let cut = async |before_offset| {
        let request = v1::DeleteRecordsRequest {
            topic: "orders".to_owned(),
            partition: 0,
            before_offset,
        };
        topics::delete_records(&one.node.topics(), request)
            .await
            .map_err(|error| error.code())
    };
    assert_eq!(cut(2).await, Ok(2));
    assert_eq!(cut(1).await, Ok(2), "never back");
    assert_eq!(cut(4).await, Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(cut(-2).await, Err(ErrorCode::OffsetOutOfRange));
    assert_eq!(cut(-1).await, Ok(3));
    let request = v1::DeleteRecordsRequest {
        topic: "orders".to_owned(),
        partition: 1,
        before_offset: 0,
    };
    let error = topics::delete_records(&one.node.topics(), request)
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::UnknownTopicOrPartition);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_cannot_be_are_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    let refused = async |name: &str, partitions, config: &[(&str, &str)]| {
        let config = config
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect();
        let request = v1::CreateTopicRequest {
            name: name.to_owned(),
            partitions,
            config,
            validate_only: false,
        };
        topics::create(&one.node.topics(), request).await.unwrap_err()
    };
    assert_eq!(refused("a b", 1, &[]).await.code(), ErrorCode::InvalidTopic);
    assert_eq!(
        refused("__consumer_offsets", 1, &[]).await.code(),
        ErrorCode::InvalidTopic
    );
    assert_eq!(
        refused("orders", 0, &[]).await.code(),
        ErrorCode::InvalidPartitions
    );
    assert_eq!(
        refused("orders", i32::MAX, &[]).await.code(),
        ErrorCode::InvalidPartitions
    );
    assert!(
        refused("orders", 1, &[("retention.mss", "1")])
            .await
            .message()
            .contains("retention.ms")
    );
    create_topic(&one, "orders", 1).await;
    assert_eq!(
        refused("orders", 1, &[]).await.code(),
        ErrorCode::TopicAlreadyExists
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_of_a_topic_are_altered_and_the_clusters_own_topic_is_protected() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;

    let alter = async |request| topics::alter(&one.node.topics(), request).await;
    let shrink = v1::AlterTopicRequest {
        name: "orders".to_owned(),
        partitions: -1,
        ..v1::AlterTopicRequest::default()
    };
    assert_eq!(
        alter(shrink).await.unwrap_err().code(),
        ErrorCode::InvalidPartitions
    );
    let both = v1::AlterTopicRequest {
        name: "orders".to_owned(),
        set_config: [("retention.ms".to_owned(), "1".to_owned())].into(),
        reset_config: vec!["retention.ms".to_owned()],
        ..v1::AlterTopicRequest::default()
    };
    assert_eq!(alter(both).await.unwrap_err().code(), ErrorCode::InvalidRequest);
    let set = v1::AlterTopicRequest {
        name: "orders".to_owned(),
        set_config: [("retention.ms".to_owned(), "1000".to_owned())].into(),
        ..v1::AlterTopicRequest::default()
    };
    let tried = alter(v1::AlterTopicRequest {
        validate_only: true,
        ..set.clone()
    })
    .await
    .unwrap();
    assert_eq!(
        (tried.config["retention.ms"].as_str(), tried.overridden.len()),
        ("1000", 1)
    );
    assert_eq!(
        topics::describe(&one.node.topics(), "orders")
            .await
            .unwrap()
            .overridden
            .len(),
        0
    );
    assert_eq!(alter(set).await.unwrap().overridden, ["retention.ms"]);

    let listed = topics::list(&one.node.topics(), false).await.unwrap().topics;
    assert_eq!(
        listed.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(),
        ["orders"]
    );
    let internal = topics::list(&one.node.topics(), true)
        .await
        .unwrap()
        .topics
        .into_iter()
        .find(|topic| topic.internal)
        .unwrap();
    assert_eq!(
        topics::delete(&one.node.topics(), &internal.name)
            .await
            .unwrap_err()
            .code(),
        ErrorCode::PolicyViolation
    );
    one.drain().await;
}

async fn get(agent: &Agent, path: &str) -> String {
    let mut stream = TcpStream::connect(agent.addresses().1).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_say_how_the_agent_is() {
    let dir = TempDir::new().unwrap();
    let deferred = Arc::new(DeferredMetadataStore::default());
    deferred.disconnected.store(true, Ordering::Release);
    let one = Agent::start_with_deferred_metadata(
        settings(dir.path(), "one", &[]),
        deferred.clone(),
        OptionalTracer::default(),
    )
    .await
    .unwrap();
    assert!(get(&one, "/health").await.starts_with("HTTP/1.1 200"));
    let answer = get(&one, "/ready").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("\"condition\":\"joined\""),
        "{answer}"
    );
    let error = topics::list(&one.node.topics(), false).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::MetadataUnavailable);
    deferred.disconnected.store(false, Ordering::Release);
    wait_until("it is ready", || one.node.health.is_ready()).await;
    assert!(get(&one, "/ready").await.starts_with("HTTP/1.1 200"));
    create_topic(&one, "orders", 3).await;
    let metrics = get(&one, "/metrics").await;
    assert!(
        metrics.contains("\nstreamhouse_agent_active_partitions 3\n"),
        "{metrics}"
    );
    one.node.health.set_unmet(ReadinessCondition::Serving, "draining");
    assert!(get(&one, "/ready").await.contains("draining"));
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_serves_our_services_health_and_reflection_within_bounds() {
    let dir = TempDir::new().unwrap();
    let settings = settings(dir.path(), "one", &["--max-request-bytes=64KiB"]);
    let one = Agent::start(settings).await.unwrap();
    wait_until("it is ready", || one.node.health.is_ready()).await;
    let channel = Endpoint::from_shared(format!("http://{}", one.addresses().0))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut admin = AdminServiceClient::new(channel.clone());
    let request = v1::CreateTopicRequest {
        name: "orders".to_owned(),
        partitions: 2,
        ..v1::CreateTopicRequest::default()
    };
    admin.create_topic(request.clone()).await.unwrap();
    let again = admin.create_topic(request).await.unwrap_err();
    assert_eq!(
        streamhouse_core::Error::from(again).code(),
        ErrorCode::TopicAlreadyExists
    );
    let cluster = admin
        .describe_cluster(v1::DescribeClusterRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (cluster.topics, cluster.partitions, cluster.agents.len()),
        (1, 2, 1)
    );
    let long = v1::DescribeTopicRequest {
        name: "x".repeat(70_000),
    };
    let refused = admin.describe_topic(long).await.unwrap_err();
    assert_eq!(
        streamhouse_core::Error::from(refused).code(),
        ErrorCode::MessageTooLarge
    );

    let mut health = HealthClient::new(channel.clone());
    let asked = HealthCheckRequest {
        service: "streamhouse.v1.DataService".to_owned(),
    };
    assert_eq!(
        health.check(asked).await.unwrap().into_inner().status(),
        ServingStatus::Serving
    );
    let mut reflection = ServerReflectionClient::new(channel);
    let asked = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(futures::stream::iter([asked]))
        .await
        .unwrap()
        .into_inner();
    let answer = format!("{:?}", answers.message().await.unwrap());
    assert!(answer.contains("streamhouse.v1.GroupService"), "{answer}");
    let errors =
        "streamhouse_agent_grpc_errors_total{code=\"TOPIC_ALREADY_EXISTS\",method=\"CreateTopic\"} 1";
    assert!(one.node.metrics.render().unwrap().contains(errors));
    one.drain().await;
}

/// Counted by the leader from memory and from the store, and by an agent that leads nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_through_a_topic_is_counted_by_its_name() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    for _ in 0..5 {
        produce(&one, "orders", 0, "x").await.unwrap();
    }
    let counted = |agent: &Agent, what: &str| {
        let text = agent.node.metrics.render().unwrap();
        let begin = format!("streamhouse_topic_{what}_total{{topic=\"orders\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&begin));
        line.map_or(0, |number| number.parse::<u64>().unwrap())
    };
    let fetched = async |agent: &Agent, offset| {
        let request = v1::FetchRequest {
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: 1 << 20,
            partitions: vec![v1::PartitionFetch {
                topic: "orders".to_owned(),
                partition: 0,
                offset,
                max_bytes: 1 << 20,
                ..Default::default()
            }],
        };
        let (answer, _) = crate::fetch::fetch(&agent.node.fetch(), request).await.unwrap();
        answer.partitions[0].records.len() as u64
    };
    assert_eq!(counted(&one, "produced_records"), 5);
    let stored = counted(&one, "produced_bytes");
    assert_eq!(fetched(&one, 0).await, stored);
    assert_eq!(fetched(&one, 5).await, 0);
    assert_eq!(
        (counted(&one, "fetched_records"), counted(&one, "fetched_bytes")),
        (5, stored)
    );
    let two = start_agent(dir.path(), "two").await;
    assert_eq!(fetched(&two, 2).await, stored / 5 * 3);
    assert_eq!(counted(&two, "fetched_records"), 3);
    assert_eq!(counted(&two, "produced_records"), 0);
    one.drain().await;
    two.drain().await;
}
