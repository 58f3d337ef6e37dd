//! Topics and their settings over the Kafka protocol, with the codes of Kafka 4.3.1.

use streamhouse_core::kafka::{
    AlterConfigsConfig, AlterConfigsRequest, AlterConfigsResource, CreatePartitionsAssignment,
    CreatePartitionsRequest, CreatePartitionsTopic, CreateTopicsConfig, CreateTopicsReplicaAssignment,
    CreateTopicsRequest, CreateTopicsTopic, CreateTopicsTopicResult, DeleteTopicsRequest, DeleteTopicsTopic,
    DescribeClusterRequest, DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResult,
    IncrementalAlterConfigsConfig, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResource,
};
use uuid::Uuid;

use super::{kafka_client::RawKafkaClient, stores::FaultyStores, *};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const GROUP: i8 = 32;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

fn new_topic(name: &str, num_partitions: i32, replication_factor: i16) -> CreateTopicsTopic {
    CreateTopicsTopic {
        name: name.to_owned(),
        num_partitions,
        replication_factor,
        ..CreateTopicsTopic::default()
    }
}

fn with_configs(name: &str, configs: &[(&str, Option<&str>)]) -> CreateTopicsTopic {
    let configs = configs.iter().map(|(name, value)| CreateTopicsConfig {
        name: (*name).to_owned(),
        value: value.map(str::to_owned),
    });
    CreateTopicsTopic {
        configs: configs.collect(),
        ..new_topic(name, 1, 1)
    }
}

fn assigned(brokers: &[(i32, &[i32])]) -> CreateTopicsTopic {
    let assignments = brokers
        .iter()
        .map(|(partition_index, brokers)| CreateTopicsReplicaAssignment {
            partition_index: *partition_index,
            broker_ids: brokers.to_vec(),
        });
    CreateTopicsTopic {
        assignments: assignments.collect(),
        ..new_topic("assigned", -1, -1)
    }
}

async fn create(
    client: &mut RawKafkaClient,
    topic: CreateTopicsTopic,
    validate_only: bool,
) -> CreateTopicsTopicResult {
    let request = CreateTopicsRequest {
        topics: vec![topic],
        validate_only,
        ..CreateTopicsRequest::default()
    };
    client.call(&request, 7).await.topics.remove(0)
}

/// Describes all settings of a resource, or those with the names.
async fn describe(
    client: &mut RawKafkaClient,
    resource_type: i8,
    name: &str,
    keys: &[&str],
) -> DescribeConfigsResult {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type,
            resource_name: name.to_owned(),
            configuration_keys: Some(keys.iter().map(ToString::to_string).collect()),
        }],
        include_synonyms: true,
        include_documentation: true,
    };
    client.call(&request, 4).await.results.remove(0)
}

/// Returns value and source of a setting of a topic.
async fn setting(client: &mut RawKafkaClient, topic: &str, key: &str) -> (String, i8) {
    let mut described = describe(client, TOPIC, topic, &[key]).await;
    let setting = described.configs.remove(0);
    (setting.value.unwrap(), setting.config_source)
}

/// Returns the code for operations on a resource.
async fn alter(
    client: &mut RawKafkaClient,
    (resource_type, name): (i8, &str),
    operations: &[(&str, i8, Option<&str>)],
) -> i16 {
    let configs = operations
        .iter()
        .map(|(name, config_operation, value)| IncrementalAlterConfigsConfig {
            name: (*name).to_owned(),
            config_operation: *config_operation,
            value: value.map(str::to_owned),
        });
    let request = IncrementalAlterConfigsRequest {
        resources: vec![IncrementalAlterConfigsResource {
            resource_type,
            resource_name: name.to_owned(),
            configs: configs.collect(),
        }],
        validate_only: false,
    };
    client.call(&request, 1).await.responses[0].error_code
}

/// Returns the code for a replacement of all settings of a topic.
async fn replace(client: &mut RawKafkaClient, topic: &str, configs: &[(&str, Option<&str>)]) -> i16 {
    let configs = configs.iter().map(|(name, value)| AlterConfigsConfig {
        name: (*name).to_owned(),
        value: value.map(str::to_owned),
    });
    let request = AlterConfigsRequest {
        resources: vec![AlterConfigsResource {
            resource_type: TOPIC,
            resource_name: topic.to_owned(),
            configs: configs.collect(),
        }],
        validate_only: false,
    };
    client.call(&request, 2).await.responses[0].error_code
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_as_a_broker_would() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let node = one.node.session().unwrap().node_id;
    for (topic, code) in [
        (new_topic("valid", -1, -1), 0),
        (new_topic("valid", 2, 3), 0),
        (new_topic("valid", 0, 1), 37),
        (new_topic("valid", -2, 1), 37),
        (new_topic("valid", 1, 0), 38),
        (new_topic("valid", 1, -2), 38),
        (new_topic("in/valid", 1, 1), 17),
        (assigned(&[(0, &[node]), (1, &[node])]), 0),
        (assigned(&[(1, &[node])]), 39),
        (assigned(&[(0, &[node]), (0, &[node])]), 39),
        (assigned(&[(0, &[node, node])]), 39),
        (assigned(&[(0, &[])]), 39),
        (assigned(&[(0, &[node + 70])]), 39),
        (
            CreateTopicsTopic {
                num_partitions: 1,
                ..assigned(&[(0, &[node])])
            },
            42,
        ),
        (with_configs("valid", &[("retention.ms", None)]), 40),
        (with_configs("valid", &[("no.such.setting", Some("1"))]), 40),
        (with_configs("valid", &[("min.insync.replicas", Some("0"))]), 40),
        (with_configs("valid", &[("min.insync.replicas", Some("2"))]), 0),
    ] {
        let created = create(&mut client, topic.clone(), true).await;
        assert_eq!(created.error_code, code, "{topic:?}: {created:?}");
    }
    assert!(one.node.directory.refresh().await.topic("valid").is_none());
    let created = create(&mut client, assigned(&[(0, &[node]), (1, &[node])]), false).await;
    assert_eq!((created.num_partitions, created.replication_factor), (2, 1));
    assert_eq!(created.configs.unwrap().len(), 33);
    assert_eq!(
        create(&mut client, new_topic("assigned", 1, 1), false)
            .await
            .error_code,
        36
    );
    let twice = CreateTopicsRequest {
        topics: vec![new_topic("twice", 1, 1), new_topic("twice", 1, 1)],
        ..CreateTopicsRequest::default()
    };
    let answers = client.call(&twice, 7).await.topics;
    assert_eq!((answers.len(), answers[0].error_code), (1, 42));
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_added_and_topics_deleted_as_by_a_broker() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 2).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let node = one.node.session().unwrap().node_id;
    for (count, brokers, code) in [
        (2, None, 37),
        (0, None, 37),
        (3, Some(vec![vec![node], vec![node]]), 39),
        (3, Some(vec![vec![node + 70]]), 39),
        (3, Some(vec![vec![node]]), 0),
    ] {
        let assignments = brokers.map(|brokers| {
            let brokers = brokers.into_iter();
            brokers
                .map(|broker_ids| CreatePartitionsAssignment { broker_ids })
                .collect()
        });
        let topic = CreatePartitionsTopic {
            name: "orders".to_owned(),
            count,
            assignments,
        };
        let request = CreatePartitionsRequest {
            topics: vec![topic],
            validate_only: true,
            ..CreatePartitionsRequest::default()
        };
        let added = client.call(&request, 3).await;
        assert_eq!(added.results[0].error_code, code, "{request:?}");
    }
    let state = |name: Option<&str>, topic_id| DeleteTopicsTopic {
        name: name.map(str::to_owned),
        topic_id,
    };
    let unknown = Uuid::from_u128(7);
    let request = DeleteTopicsRequest {
        topics: vec![
            state(Some("orders"), unknown),
            state(None, Uuid::nil()),
            state(None, unknown),
            state(Some("nowhere"), Uuid::nil()),
            state(Some("twice"), Uuid::nil()),
            state(Some("twice"), Uuid::nil()),
        ],
        ..DeleteTopicsRequest::default()
    };
    let deleted = client.call(&request, 6).await.responses;
    let codes: Vec<i16> = deleted.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [42, 42, 100, 3, 42]);
    for (endpoint_type, code) in [(1, 0), (2, 114), (7, 115)] {
        let request = DescribeClusterRequest {
            endpoint_type,
            ..DescribeClusterRequest::default()
        };
        assert_eq!(client.call(&request, 2).await.error_code, code);
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_setting_of_kafka_is_reported_and_kept() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let all = describe(&mut client, TOPIC, "orders", &[]).await.configs;
    assert_eq!(all.len(), 33);
    assert!(all.iter().all(|setting| setting.config_source == 5));
    let of = |key: &str| all.iter().find(|setting| setting.name == key).unwrap();
    let types = [
        "preallocate",
        "cleanup.policy",
        "segment.bytes",
        "retention.ms",
        "min.cleanable.dirty.ratio",
    ];
    assert_eq!(types.map(|key| of(key).config_type), [1, 7, 3, 5, 6]);
    assert_eq!(of("max.message.bytes").synonyms[0].name, "message.max.bytes");
    assert!(of("flush.ms").synonyms.is_empty());
    assert_eq!(
        alter(
            &mut client,
            (TOPIC, "orders"),
            &[
                ("min.insync.replicas", SET, Some("2")),
                ("retention.ms", SET, Some("5000"))
            ]
        )
        .await,
        0
    );
    assert_eq!(
        setting(&mut client, "orders", "min.insync.replicas").await,
        ("2".to_owned(), 1)
    );
    assert_eq!(
        setting(&mut client, "orders", "retention.ms").await,
        ("5000".to_owned(), 1)
    );
    // All settings are replaced.
    assert_eq!(
        replace(&mut client, "orders", &[("flush.ms", Some("7"))]).await,
        0
    );
    assert_eq!(
        setting(&mut client, "orders", "min.insync.replicas").await,
        ("1".to_owned(), 5)
    );
    assert_eq!(
        setting(&mut client, "orders", "flush.ms").await,
        ("7".to_owned(), 1)
    );
    for (configs, code) in [
        (&[("retention.ms", None)][..], 42),
        (&[("retention.ms", Some("1")), ("retention.ms", Some("2"))], 42),
        (&[("no.such.setting", Some("1"))], 40),
    ] {
        assert_eq!(replace(&mut client, "orders", configs).await, code, "{configs:?}");
    }
    assert_eq!(replace(&mut client, "nowhere", &[]).await, 3);
    assert_eq!(describe(&mut client, TOPIC, "nowhere", &[]).await.error_code, 3);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_grow_and_shrink_one_value_at_a_time() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    create_topic(&one, "orders", 1).await;
    let mut client = RawKafkaClient::connect(&one).await;
    for (operation, value, code, policy) in [
        (APPEND, Some("compact"), 0, "delete,compact"),
        (APPEND, Some("compact"), 0, "delete,compact"),
        (SUBTRACT, Some("delete"), 0, "compact"),
        (SUBTRACT, Some("delete"), 0, "compact"),
        (SUBTRACT, Some("compact"), 0, ""),
        (APPEND, Some("shred"), 40, ""),
        (APPEND, None, 42, ""),
        (DELETE, None, 0, "delete"),
    ] {
        let operations = [("cleanup.policy", operation, value)];
        let changed = alter(&mut client, (TOPIC, "orders"), &operations).await;
        assert_eq!(changed, code, "{operations:?}");
        assert_eq!(setting(&mut client, "orders", "cleanup.policy").await.0, policy);
    }
    for (operations, code) in [
        (&[("retention.ms", APPEND, Some("5"))][..], 40),
        (&[("retention.ms", 9, Some("5"))], 42),
        (&[("no.such.setting", SET, Some("5"))], 40),
        (&[("no.such.setting", DELETE, None)], 0),
        (
            &[("retention.ms", SET, Some("5")), ("retention.ms", DELETE, None)],
            42,
        ),
        (
            &[
                ("min.compaction.lag.ms", SET, Some("9")),
                ("max.compaction.lag.ms", SET, Some("5")),
            ],
            40,
        ),
        (&[], 0),
    ] {
        assert_eq!(
            alter(&mut client, (TOPIC, "orders"), operations).await,
            code,
            "{operations:?}"
        );
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_and_groups_have_settings_that_are_read_only() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let node = one.node.session().unwrap().node_id;
    let broker = describe(&mut client, BROKER, &node.to_string(), &[]).await;
    let value = |key: &str| {
        let mut settings = broker.configs.iter();
        let setting = settings.find(|setting| setting.name == key);
        setting
            .and_then(|setting| setting.value.clone())
            .unwrap_or_default()
    };
    assert_eq!(value("node.id"), node.to_string());
    assert_eq!(value("auto.create.topics.enable"), "true");
    assert_eq!(value("log.cleanup.policy"), "delete");
    assert_eq!(value("producer.id.expiration.ms"), "86400000");
    assert!(broker.configs.is_sorted_by_key(|setting| &setting.name));
    assert!(broker.configs.iter().all(|setting| setting.read_only));
    let mut names: Vec<&str> = broker.configs.iter().map(|setting| &setting.name[..]).collect();
    names.dedup();
    assert_eq!(names.len(), broker.configs.len());
    for (kind, name, code, settings) in [
        (BROKER, "", 0, 0),
        (BROKER, "70", 42, 0),
        (BROKER, "x", 42, 0),
        (GROUP, "readers", 0, 2),
        (GROUP, "", 42, 0),
        (3, "x", 42, 0),
    ] {
        let described = describe(&mut client, kind, name, &[]).await;
        assert_eq!(
            (described.error_code, described.configs.len()),
            (code, settings),
            "{kind} {name}"
        );
    }
    for kind in [BROKER, GROUP, 3] {
        let operations = [("log.retention.ms", SET, Some("5"))];
        assert_eq!(alter(&mut client, (kind, "1"), &operations).await, 42);
    }
    one.drain().await;
}
