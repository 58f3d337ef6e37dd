//! The codec against another one, against damaged frames and against counts that frames claim.

mod differential;
mod frames;
mod fuzz;
mod mutate;
mod sample;

use bytes::Bytes;

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
        ApiVersions ApiVersionsRequest ApiVersionsResponse,
        CreateTopics CreateTopicsRequest CreateTopicsResponse,
        DeleteTopics DeleteTopicsRequest DeleteTopicsResponse,
        DeleteRecords DeleteRecordsRequest DeleteRecordsResponse,
        InitProducerId InitProducerIdRequest InitProducerIdResponse,
        OffsetForLeaderEpoch OffsetForLeaderEpochRequest OffsetForLeaderEpochResponse,
        DescribeConfigs DescribeConfigsRequest DescribeConfigsResponse,
        AlterConfigs AlterConfigsRequest AlterConfigsResponse,
        DescribeLogDirs DescribeLogDirsRequest DescribeLogDirsResponse,
        CreatePartitions CreatePartitionsRequest CreatePartitionsResponse,
        DeleteGroups DeleteGroupsRequest DeleteGroupsResponse,
        IncrementalAlterConfigs IncrementalAlterConfigsRequest IncrementalAlterConfigsResponse,
        ListPartitionReassignments ListPartitionReassignmentsRequest ListPartitionReassignmentsResponse,
        OffsetDelete OffsetDeleteRequest OffsetDeleteResponse,
        DescribeCluster DescribeClusterRequest DescribeClusterResponse,
        DescribeProducers DescribeProducersRequest DescribeProducersResponse,
        ConsumerGroupHeartbeat ConsumerGroupHeartbeatRequest ConsumerGroupHeartbeatResponse,
        ConsumerGroupDescribe ConsumerGroupDescribeRequest ConsumerGroupDescribeResponse,
        DescribeTopicPartitions DescribeTopicPartitionsRequest DescribeTopicPartitionsResponse,
    )
}
