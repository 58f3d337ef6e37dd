//! A Kafka client that sends what it is told, right or wrong.

use std::io;

use bytes::Bytes;
use streamhouse_core::kafka::{
    ApiKey, KafkaMessage, KafkaRequest, MessageReader, PartitionProduceData, ProduceRequest, ProduceResponse,
    TopicProduceData, encode_request,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// A connection to an agent's Kafka listener.
pub(super) struct RawKafkaClient {
    pub(super) stream: TcpStream,
    pub(super) client_id: &'static str,
    sent: i32,
}

impl RawKafkaClient {
    pub(super) async fn connect(agent: &Agent) -> Self {
        let stream = TcpStream::connect(agent.kafka_address().unwrap()).await.unwrap();
        Self {
            stream,
            client_id: "raw",
            sent: 0,
        }
    }

    pub(super) async fn send<R: KafkaRequest>(&mut self, request: &R, version: i16) {
        self.sent += 1;
        let frame = encode_request(request, version, self.sent, Some(self.client_id)).unwrap();
        self.stream.write_all(&frame.concat()).await.unwrap();
    }

    /// Returns the next answer as it is on the wire; an error if the connection ends.
    pub(super) async fn receive_frame(&mut self) -> io::Result<Bytes> {
        let frame = async {
            let length = self.stream.read_i32().await?;
            let mut frame = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut frame).await?;
            io::Result::Ok(Bytes::from(frame))
        };
        timeout(EVENT_TIMEOUT, frame).await.expect("an answer in time")
    }

    pub(super) async fn receive<R: KafkaRequest>(&mut self, version: i16) -> io::Result<R::Response> {
        Ok(Self::decode::<R>(self.receive_frame().await?, version))
    }

    pub(super) fn decode<R: KafkaRequest>(frame: Bytes, version: i16) -> R::Response {
        let flexible = R::KEY.is_flexible(version) && R::KEY != ApiKey::ApiVersions;
        let mut reader = MessageReader::new(frame.slice(4 + usize::from(flexible)..));
        R::Response::decode(&mut reader, version).unwrap()
    }

    pub(super) async fn call<R: KafkaRequest>(&mut self, request: &R, version: i16) -> R::Response {
        self.send(request, version).await;
        self.receive::<R>(version).await.unwrap()
    }

    /// Asserts that the agent closes the connection.
    pub(super) async fn assert_closed(&mut self) {
        let closed = timeout(EVENT_TIMEOUT, self.stream.read(&mut [0])).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    }
}

/// Returns a request with one batch for the first partition of a topic.
pub(super) fn produce_request(topic: &str, acks: i16, records: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 60_000,
        topic_data: vec![TopicProduceData {
            name: topic.to_owned(),
            partition_data: vec![PartitionProduceData {
                index: 0,
                records: Some(records),
            }],
            ..TopicProduceData::default()
        }],
        ..ProduceRequest::default()
    }
}

/// Returns the code and the offset of the only partition.
pub(super) fn produced(response: &ProduceResponse) -> (i16, i64) {
    let part = &response.responses[0].partition_responses[0];
    (part.error_code, part.base_offset)
}

/// Returns a batch with one value.
pub(super) fn batch(value: &[u8]) -> Bytes {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.append::<&str, &str>(0, None, Some(value), &[]).unwrap();
    batch.finish().unwrap()
}
