//! Finds what serves a request: decodes it, starts it, and encodes its answer.

use std::{fmt, future::Future, io, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use streamhouse_core::kafka::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, KafkaMessage, KafkaRequest, MessageReader,
    ProduceRequest, RequestHeader, decode_request_header,
};

use super::{
    admin, alter_configs, api, configs, coordinator, create_topics,
    error::UNSUPPORTED_VERSION,
    fetch,
    frame::RequestFrame,
    groups, log_dirs, metadata, offset_delete, offsets, produce, producers,
    request::{KafkaAnswer, KafkaClient, RequestContext, encoded},
    topic_partitions,
};

/// A request that has its place in the order.
pub(super) struct StartedRequest {
    pub(super) answer: BoxFuture<'static, KafkaAnswer>,
    /// It is answered before the next request is read.
    pub(super) serial: bool,
}

/// Decodes a request and starts it.
///
/// # Errors
///
/// If the connection must end: the request cannot be decoded, or its version is not served.
pub(super) async fn start(client: Arc<KafkaClient>, frame: RequestFrame) -> io::Result<StartedRequest> {
    let mut reader = MessageReader::new(frame.bytes.clone());
    let header = decode_request_header(&mut reader).map_err(invalid)?;
    let RequestHeader {
        api_key, api_version, ..
    } = header;
    let key = ApiKey::from_number(api_key);
    let Some(key) = key.filter(|key| api::is_served(*key, api_version)) else {
        if key == Some(ApiKey::ApiVersions) {
            return Ok(started(async move { unsupported_api_versions(&header) }));
        }
        return Err(invalid(format!(
            "API {api_key}, version {api_version}, is not served"
        )));
    };
    let context = RequestContext {
        client,
        version: api_version,
        client_id: header.client_id.clone().unwrap_or_default(),
    };
    let timer = context.client.deps.metrics.kafka.start_request(key.name());
    let StartedRequest { answer, serial } = if key == ApiKey::Produce {
        let request = decode::<ProduceRequest>(reader, api_version)?;
        let pending = produce::accept(&context, request).await;
        // The batches have memory of their own by now.
        drop(frame);
        let answer = produce::finish(context, pending, header.correlation_id);
        StartedRequest {
            answer: answer.boxed(),
            serial: false,
        }
    } else {
        serve(key, context, reader, header.correlation_id, frame)?
    };
    let answer = answer.inspect(move |_| drop(timer)).boxed();
    Ok(StartedRequest { answer, serial })
}

fn started(answer: impl Future<Output = KafkaAnswer> + Send + 'static) -> StartedRequest {
    StartedRequest {
        answer: answer.boxed(),
        serial: true,
    }
}

/// Declares which function serves the request of each API.
macro_rules! served {
    ($key:expr, $parts:expr; $($api:ident => $function:path,)*) => {
        match $key {
            $(ApiKey::$api => respond($parts, $function),)*
            other => Err(invalid(format!("{} is not served", other.name()))),
        }
    };
}

/// A request before it is decoded.
struct RequestParts {
    context: RequestContext,
    reader: MessageReader,
    correlation_id: i32,
    frame: RequestFrame,
}

fn serve(
    key: ApiKey,
    context: RequestContext,
    reader: MessageReader,
    correlation_id: i32,
    frame: RequestFrame,
) -> io::Result<StartedRequest> {
    let parts = RequestParts {
        context,
        reader,
        correlation_id,
        frame,
    };
    if key == ApiKey::Fetch {
        let request = decode(parts.reader, parts.context.version)?;
        return Ok(started(fetch::serve(parts.context, request, correlation_id)));
    }
    served!(key, parts;
        ApiVersions => api_versions,
        Metadata => metadata::metadata,
        ListOffsets => offsets::list_offsets,
        OffsetForLeaderEpoch => offsets::offset_for_leader_epoch,
        DeleteRecords => offsets::delete_records,
        FindCoordinator => coordinator::find_coordinator,
        JoinGroup => groups::join_group,
        SyncGroup => groups::sync_group,
        Heartbeat => groups::heartbeat,
        LeaveGroup => groups::leave_group,
        OffsetCommit => coordinator::offset_commit,
        OffsetFetch => coordinator::offset_fetch,
        DescribeGroups => groups::describe_groups,
        ListGroups => groups::list_groups,
        DeleteGroups => groups::delete_groups,
        InitProducerId => produce::init_producer_id,
        CreateTopics => create_topics::create_topics,
        DeleteTopics => admin::delete_topics,
        CreatePartitions => admin::create_partitions,
        DescribeCluster => admin::describe_cluster,
        DescribeConfigs => configs::describe_configs,
        AlterConfigs => alter_configs::alter_configs,
        IncrementalAlterConfigs => alter_configs::incremental_alter_configs,
        DescribeLogDirs => log_dirs::describe_log_dirs,
        ListPartitionReassignments => admin::list_partition_reassignments,
        OffsetDelete => offset_delete::offset_delete,
        DescribeProducers => producers::describe_producers,
        DescribeTopicPartitions => topic_partitions::describe_topic_partitions,
    )
}

/// Decodes a request and starts to serve it.
fn respond<R, F, S>(parts: RequestParts, function: F) -> io::Result<StartedRequest>
where
    R: KafkaRequest + Send + 'static,
    F: FnOnce(RequestContext, R) -> S + Send + 'static,
    S: Future<Output = R::Response> + Send,
    R::Response: Send,
{
    let version = parts.context.version;
    let request = decode::<R>(parts.reader, version)?;
    let (context, correlation_id, frame) = (parts.context, parts.correlation_id, parts.frame);
    Ok(started(async move {
        let response = function(context, request).await;
        drop(frame);
        encoded(&response, R::KEY, version, correlation_id)
    }))
}

/// Ignores what follows the message, as Kafka does: librdkafka 2.16 asks for all topics with three
/// bytes too many.
fn decode<M: KafkaMessage>(mut reader: MessageReader, version: i16) -> io::Result<M> {
    M::decode(&mut reader, version).map_err(invalid)
}

fn invalid(problem: impl fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.to_string())
}

async fn api_versions(context: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse {
    context.client.set_software(&request.client_software_name);
    ApiVersionsResponse {
        api_keys: api::ranges(),
        ..ApiVersionsResponse::default()
    }
}

/// Answers an unknown version of ApiVersions in version 0, which every client can read.
fn unsupported_api_versions(header: &RequestHeader) -> KafkaAnswer {
    let mut ranges = api::ranges();
    ranges.retain(|range| range.api_key == ApiKey::ApiVersions.number());
    let response = ApiVersionsResponse {
        error_code: UNSUPPORTED_VERSION,
        api_keys: ranges,
        ..ApiVersionsResponse::default()
    };
    encoded(&response, ApiKey::ApiVersions, 0, header.correlation_id)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use streamhouse_core::kafka::MetadataRequest;

    use super::*;

    #[test]
    fn bytes_after_a_request_are_ignored() {
        // As librdkafka 2.16 asks for all topics.
        let body = Bytes::from_static(&[0, 0, 0, 0, 1, 0, 0]);
        let request = decode::<MetadataRequest>(MessageReader::new(body), 13).unwrap();
        assert!(request.topics.is_none());
    }
}
