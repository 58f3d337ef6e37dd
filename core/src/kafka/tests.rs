//! The codec against another one, against damaged frames and against counts that frames claim.

mod differential;
mod frames;
mod fuzz;
mod mutate;
mod sample;

use bytes::Bytes;
use kafka_protocol::error::ParseResponseErrorCode as _;

use super::*;

/// Decodes a message and returns it as it is encoded.
fn encode_again<M: KafkaMessage>(body: &Bytes, version: i16) -> Result<Bytes, DecodeError> {
    let mut reader = MessageReader::new(body.clone());
    let decoded = M::decode(&mut reader, version);
    assert!(reader.memory_taken() <= MessageReader::memory_limit(body.len()));
    let message = decoded?;
    reader.finish()?;
    let mut writer = MessageWriter::default();
    message.encode(&mut writer, version).unwrap();
    Ok(writer.finish().concat().into())
}

macro_rules! for_api {
    ($key:expr, $body:expr, $version:expr; $($api:ident $request:ident $response:ident),* $(,)?) => {
        match $key {
            $(ApiKey::$api => (
                encode_again::<$request>($body, $version),
                encode_again::<$response>($body, $version),
            ),)*
        }
    };
}

/// Encodes again what is decoded from the bytes as the request, and as the response, of an API.
#[allow(clippy::type_complexity)]
fn request_and_response(
    key: ApiKey,
    body: &Bytes,
    version: i16,
) -> (Result<Bytes, DecodeError>, Result<Bytes, DecodeError>) {
    for_api!(key, body, version;
        Produce ProduceRequest ProduceResponse,
        Fetch FetchRequest FetchResponse,
        ListOffsets ListOffsetsRequest ListOffsetsResponse,
        Metadata MetadataRequest MetadataResponse,
        OffsetCommit OffsetCommitRequest OffsetCommitResponse,
        OffsetFetch OffsetFetchRequest OffsetFetchResponse,
        FindCoordinator FindCoordinatorRequest FindCoordinatorResponse,
        JoinGroup JoinGroupRequest JoinGroupResponse,
        Heartbeat HeartbeatRequest HeartbeatResponse,
        LeaveGroup LeaveGroupRequest LeaveGroupResponse,
        SyncGroup SyncGroupRequest SyncGroupResponse,
        DescribeGroups DescribeGroupsRequest DescribeGroupsResponse,
        ListGroups ListGroupsRequest ListGroupsResponse,
        SaslHandshake SaslHandshakeRequest SaslHandshakeResponse,
        ApiVersions ApiVersionsRequest ApiVersionsResponse,
        CreateTopics CreateTopicsRequest CreateTopicsResponse,
        DeleteTopics DeleteTopicsRequest DeleteTopicsResponse,
        DeleteRecords DeleteRecordsRequest DeleteRecordsResponse,
        InitProducerId InitProducerIdRequest InitProducerIdResponse,
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
        DescribeAcls DescribeAclsRequest DescribeAclsResponse,
        CreateAcls CreateAclsRequest CreateAclsResponse,
        DeleteAcls DeleteAclsRequest DeleteAclsResponse,
        DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse,
        AlterConfigs AlterConfigsRequest AlterConfigsResponse,
        DescribeLogDirs DescribeLogDirsRequest DescribeLogDirsResponse,
        SaslAuthenticate SaslAuthenticateRequest SaslAuthenticateResponse,
        CreatePartitions CreatePartitionsRequest CreatePartitionsResponse,
        DeleteGroups DeleteGroupsRequest DeleteGroupsResponse,
        IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse,
        ListPartitionReassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse,
        OffsetDelete OffsetDeleteRequest OffsetDeleteResponse,
        DescribeClientQuotas DescribeClientQuotasRequest DescribeClientQuotasResponse,
        AlterClientQuotas AlterClientQuotasRequest AlterClientQuotasResponse,
        DescribeUserScramCredentials DescribeUserScramCredentialsRequest DescribeUserScramCredentialsResponse,
        AlterUserScramCredentials AlterUserScramCredentialsRequest AlterUserScramCredentialsResponse,
        DescribeCluster DescribeClusterRequest DescribeClusterResponse,
        DescribeProducers DescribeProducersRequest DescribeProducersResponse,
        ConsumerGroupHeartbeat ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse,
        ConsumerGroupDescribe ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse,
        DescribeTopicPartitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
    )
}

/// Returns the name that the other codec has for an error, as Kafka writes it.
fn other_name(code: i16) -> Option<String> {
    let error = code.err()?;
    let mut name = String::new();
    for letter in format!("{error:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    Some(name).filter(|name| !name.starts_with("UNKNOWN("))
}

#[test]
fn errors_have_the_names_of_the_other_codec() {
    let mut compared = 0;
    for code in -1..=i16::MAX {
        let (Some(ours), Some(theirs)) = (error_name(code), other_name(code)) else {
            continue;
        };
        assert_eq!(ours, theirs, "{code}");
        compared += 1;
    }
    assert!(compared > 90, "{compared}");
    for unnamed in [i16::MIN, -2, 1000, i16::MAX] {
        assert_eq!(error_name(unnamed), None);
    }
}

fn error_codes(message: &impl KafkaMessage) -> Vec<i16> {
    let mut codes = Vec::new();
    message.visit_error_codes(&mut |code| codes.push(code));
    codes
}

#[test]
fn a_response_tells_its_error_codes_and_its_throttle_time() {
    let partition = |error_code| PartitionProduceResponse {
        error_code,
        ..PartitionProduceResponse::default()
    };
    let produce = ProduceResponse {
        responses: vec![
            TopicProduceResponse {
                partition_responses: vec![partition(6), partition(0)],
                ..TopicProduceResponse::default()
            },
            TopicProduceResponse {
                partition_responses: vec![partition(10)],
                ..TopicProduceResponse::default()
            },
        ],
        throttle_time_ms: 7,
        ..ProduceResponse::default()
    };
    assert_eq!(error_codes(&produce), [6, 0, 10]);
    assert_eq!(produce.throttle_time_ms(), 7);
    let mut throttled = produce.clone();
    throttled.set_throttle_time_ms(8);
    assert_eq!(throttled.throttle_time_ms, 8);
    let heartbeat = HeartbeatResponse {
        error_code: 27,
        ..HeartbeatResponse::default()
    };
    assert_eq!(error_codes(&heartbeat), [27]);
    let fetch = FetchResponse {
        error_code: 70,
        ..FetchResponse::default()
    };
    assert_eq!(error_codes(&fetch), [70]);
    assert_eq!(error_codes(&ProduceRequest::default()), [0; 0]);
}
