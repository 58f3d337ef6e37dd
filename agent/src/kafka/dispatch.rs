//! Finds what serves a request: decodes it, starts it, and encodes its answer.

use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
};

use futures::{FutureExt as _, future::BoxFuture};
use streamhouse_core::kafka::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, DecodeError, KafkaMessage, KafkaRequest, MessageReader,
    ProduceRequest, RequestHeader, decode_request_header,
};
use tokio::time::{Duration, Instant};

use super::{
    acls, admin, alter_configs, api, client_quotas, configs, consumer_groups, coordinator, create_topics,
    error::{INVALID_REQUEST, UNSUPPORTED_VERSION},
    fetch,
    frame::RequestFrame,
    groups, limits, log_dirs, metadata, offset_delete, offsets, produce, producers,
    refusal::refused,
    request::{KafkaAnswer, KafkaClient, RequestContext, encoded},
    request_memory::RequestMemory,
    sasl,
    sasl_stage::SaslAdmission,
    scram_credentials, topic_partitions,
};
use crate::metrics::{ClientSoftware, FrameRefusal};

/// The first version of ApiVersions in which clients name their software.
const FIRST_VERSION_WITH_SOFTWARE: i16 = 3;

/// A request that has its place in the order.
pub(super) struct StartedRequest {
    pub(super) answer: BoxFuture<'static, KafkaAnswer>,
    /// It is answered before the next request is read.
    pub(super) serial: bool,
    /// How long nothing is read from the client because it has exceeded a quota.
    pub(super) muted: Duration,
}

/// Decodes a request and starts it.
///
/// # Errors
///
/// If the connection must end: the request cannot be decoded, its version is not served, or the
/// client may not send it, because it has not authenticated or its credential was changed since.
pub(super) async fn start(client: Arc<KafkaClient>, frame: RequestFrame) -> io::Result<StartedRequest> {
    if client.sasl.awaits_raw_token() {
        return Ok(started(sasl::raw_token(client, frame)));
    }
    let mut reader = reader_of(&frame);
    let header = decode_request_header(&mut reader).map_err(malformed)?;
    let admission = client.sasl.admit(header.api_key)?;
    check_credential(&client, header.api_key)?;
    let api_version = header.api_version;
    let Some(key) = served_api(&header) else {
        return refuse_request(&client, header);
    };
    if admission == SaslAdmission::RefuseState {
        let answer = sasl::refuse_state(key, api_version, header.correlation_id);
        return Ok(started(async move { answer }));
    }
    client.set_client_id(header.client_id.as_deref().unwrap_or_default());
    let access = client.access();
    // Those who have not authenticated have other limits.
    let has_quotas = client.sasl.is_open() && access.has_quotas();
    let context = RequestContext {
        access,
        client,
        version: api_version,
        client_id: header.client_id.clone().unwrap_or_default(),
        answer_memory: Arc::default(),
        use_meter: has_quotas.then(Arc::default),
    };
    let measured = has_quotas.then(|| context.clone());
    let client = context.client.clone();
    let metrics = client.deps.metrics.clone();
    let timer = metrics.kafka.start_request(key, api_version);
    let (begun, waited) = (Instant::now(), frame.waited);
    let StartedRequest { answer, serial, .. } = if key == ApiKey::Produce {
        start_produce(context, reader, header.correlation_id, frame).await?
    } else {
        serve(key, context, reader, header.correlation_id, frame)?
    };
    // Records are accepted when they have their memory and their place in the order.
    metrics.kafka.record_queue_time(key, waited + begun.elapsed());
    let answer = match waits_for_others(key) {
        true => while_authenticated(client, answer).boxed(),
        false => answer,
    };
    let (answer, muted) = match measured {
        Some(context) => {
            let muted = context.throttle_time();
            (measure(context, answer).boxed(), muted)
        }
        None => (answer, Duration::ZERO),
    };
    let answer = answer.inspect(move |answer| {
        drop(timer);
        metrics
            .kafka
            .record_answer(key, &answer.error_codes, answer.throttle_time);
    });
    Ok(StartedRequest {
        answer: answer.boxed(),
        serial,
        muted,
    })
}

/// Measures for how long a request is worked on.
async fn measure(context: RequestContext, mut answer: BoxFuture<'static, KafkaAnswer>) -> KafkaAnswer {
    let Some(meter) = context.use_meter.clone() else {
        return answer.await;
    };
    let mut answer = poll_fn(|task| {
        meter.lock().begin_step();
        let polled = answer.poll_unpin(task);
        meter.lock().end_step();
        polled
    })
    .await;
    // What came after the response was told how long the client is throttled.
    context.record_work();
    answer.muted = context.throttle_time();
    answer
}

/// Checks that the credential of a client, if it has authenticated, is still the stored one. A
/// client whose token has expired may do nothing but authenticate again (KIP-368).
fn check_credential(client: &KafkaClient, api_key: i16) -> io::Result<()> {
    let access = client.access();
    if access.is_current() {
        return Ok(());
    }
    let is_expired = access.has_expired();
    let key = ApiKey::from_number(api_key);
    if is_expired && matches!(key, Some(ApiKey::SaslHandshake | ApiKey::SaslAuthenticate)) {
        return Ok(());
    }
    let message = match is_expired {
        true => "the client's token has expired",
        false => "the client's credential was changed or deleted since it has authenticated",
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

/// Returns whether the requests of an API wait for what other clients do. Others are answered at
/// once, and the client that changes its own password must get the answer.
fn waits_for_others(key: ApiKey) -> bool {
    matches!(key, ApiKey::Fetch | ApiKey::JoinGroup | ApiKey::SyncGroup)
}

/// Ends the connection instead of the answer if the client's credential was changed or deleted
/// while the request waited.
async fn while_authenticated(
    client: Arc<KafkaClient>,
    answer: impl Future<Output = KafkaAnswer>,
) -> KafkaAnswer {
    let answer = answer.await;
    match client.has_current_credential() {
        true => answer,
        false => KafkaAnswer::close(),
    }
}

/// Returns the API of a request, if its version is served.
fn served_api(header: &RequestHeader) -> Option<ApiKey> {
    let key = ApiKey::from_number(header.api_key)?;
    api::is_served(key, header.api_version).then_some(key)
}

/// Answers a request of a version of ApiVersions that is not served, and refuses any other one.
fn refuse_request(client: &KafkaClient, header: RequestHeader) -> io::Result<StartedRequest> {
    let known = ApiKey::from_number(header.api_key).filter(|key| api::SERVED.contains(key));
    if known == Some(ApiKey::ApiVersions) {
        let answer = unsupported_api_versions(&header);
        let metrics = &client.deps.metrics.kafka;
        metrics.record_answer(ApiKey::ApiVersions, &answer.error_codes, answer.throttle_time);
        return Ok(started(async move { answer }));
    }
    let reason = match known {
        Some(_) => FrameRefusal::UnsupportedVersion,
        None => FrameRefusal::UnknownApi,
    };
    let (api, version) = (header.api_key, header.api_version);
    Err(refused(
        reason,
        format!("API {api}, version {version}, is not served"),
    ))
}

/// Returns a reader of a request whose memory is taken.
fn reader_of(frame: &RequestFrame) -> MessageReader {
    let bytes = frame.bytes.clone();
    let key = bytes.first_chunk().map_or(-1, |key| i16::from_be_bytes(*key));
    let limit = limits::decoded_bytes(key, bytes.len());
    MessageReader::with_memory_limit(bytes, limit)
}

async fn start_produce(
    context: RequestContext,
    reader: MessageReader,
    correlation_id: i32,
    frame: RequestFrame,
) -> io::Result<StartedRequest> {
    let RequestFrame { bytes, memory, .. } = frame;
    let length = bytes.len();
    drop(bytes);
    let (request, _) = decode::<ProduceRequest>(reader, context.version)?;
    let pending = produce::accept(&context, request).await;
    // The batches have memory of their own by now; what surrounds them goes when they do.
    memory.shrink_to(length.saturating_sub(pending.admitted_bytes()));
    // A batch without memory must be the last one: those after it would be out of order.
    let serial = pending.lacked_memory();
    Ok(StartedRequest {
        answer: produce::finish(context, pending, correlation_id).boxed(),
        serial,
        muted: Duration::ZERO,
    })
}

fn started(answer: impl Future<Output = KafkaAnswer> + Send + 'static) -> StartedRequest {
    StartedRequest {
        answer: answer.boxed(),
        serial: true,
        muted: Duration::ZERO,
    }
}

/// Declares which function serves the request of each API.
macro_rules! served {
    ($key:expr, $parts:expr; $($api:ident => $function:path,)*) => {
        match $key {
            $(ApiKey::$api => respond($parts, $function),)*
            other => Err(refused(FrameRefusal::UnknownApi, format!("{} is not served", other.name()))),
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
    match key {
        ApiKey::Fetch => return answer(parts, fetch::serve),
        ApiKey::SaslHandshake => return answer(parts, sasl::handshake),
        ApiKey::SaslAuthenticate => return answer(parts, sasl::authenticate),
        _ => {}
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
        ConsumerGroupHeartbeat => consumer_groups::consumer_group_heartbeat,
        ConsumerGroupDescribe => consumer_groups::consumer_group_describe,
        DescribeAcls => acls::describe_acls,
        CreateAcls => acls::create_acls,
        DeleteAcls => acls::delete_acls,
        DescribeClientQuotas => client_quotas::describe_client_quotas,
        AlterClientQuotas => client_quotas::alter_client_quotas,
        DescribeUserScramCredentials => scram_credentials::describe_user_scram_credentials,
        AlterUserScramCredentials => scram_credentials::alter_user_scram_credentials,
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

/// Decodes a request and starts to serve it by a function that encodes the answer itself.
fn answer<R, F, S>(parts: RequestParts, function: F) -> io::Result<StartedRequest>
where
    R: KafkaRequest + Send + 'static,
    F: FnOnce(RequestContext, R, i32) -> S + Send + 'static,
    S: Future<Output = KafkaAnswer> + Send + 'static,
{
    let (request, taken) = decode(parts.reader, parts.context.version)?;
    let memory = held_while_served(R::KEY, parts.frame, taken);
    let answered = function(parts.context, request, parts.correlation_id);
    Ok(started(async move {
        let answer = answered.await;
        drop(memory);
        answer
    }))
}

/// Decodes a request and starts to serve it.
fn respond<R, F, S>(parts: RequestParts, function: F) -> io::Result<StartedRequest>
where
    R: KafkaRequest + Send + 'static,
    F: FnOnce(RequestContext, R) -> S + Send + 'static,
    S: Future<Output = R::Response> + Send,
    R::Response: Send,
{
    let (request, taken) = decode::<R>(parts.reader, parts.context.version)?;
    let (context, correlation_id) = (parts.context, parts.correlation_id);
    let memory = held_while_served(R::KEY, parts.frame, taken);
    Ok(started(async move {
        let response = function(context.clone(), request).await;
        let answer = context.encoded(response, R::KEY, correlation_id);
        drop(memory);
        context.hold_memory(answer).await
    }))
}

/// Drops a frame that is decoded, and returns the memory of what it was decoded to. Requests that
/// wait for the other members of their group give theirs back: groups have memory of their own,
/// and the others need some to arrive.
fn held_while_served(key: ApiKey, frame: RequestFrame, taken: usize) -> Option<RequestMemory> {
    let RequestFrame { bytes, memory, .. } = frame;
    drop(bytes);
    memory.shrink_to(taken);
    (!matches!(key, ApiKey::JoinGroup | ApiKey::SyncGroup)).then_some(memory)
}

/// Decodes a message. Returns it with the bytes of memory that its lists and texts take. Ignores
/// what follows the message, as Kafka does: librdkafka 2.16 asks for all topics with three bytes
/// too many.
fn decode<M: KafkaMessage>(mut reader: MessageReader, version: i16) -> io::Result<(M, usize)> {
    let message = M::decode(&mut reader, version).map_err(malformed)?;
    Ok((message, reader.memory_taken()))
}

fn malformed(problem: DecodeError) -> io::Error {
    refused(FrameRefusal::Malformed, problem)
}

async fn api_versions(context: RequestContext, request: ApiVersionsRequest) -> ApiVersionsResponse {
    if context.version >= FIRST_VERSION_WITH_SOFTWARE {
        let (name, version) = (&request.client_software_name, &request.client_software_version);
        let Some(software) = ClientSoftware::new(name, version) else {
            return ApiVersionsResponse {
                error_code: INVALID_REQUEST,
                ..ApiVersionsResponse::default()
            };
        };
        context.client.set_software(software);
    }
    api::announcement(context.version)
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
        let (request, _) = decode::<MetadataRequest>(MessageReader::new(body), 13).unwrap();
        assert!(request.topics.is_none());
    }
}
