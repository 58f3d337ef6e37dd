//! The Kafka protocol without a client library, for requests that a library would not send.

use anyhow::Context;
use bytes::Bytes;
use streamhouse_core::kafka::{
    ApiKey, FindCoordinatorRequest, KafkaMessage, KafkaRequest, MessageReader, encode_request,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A connection to a Kafka listener.
#[derive(Debug)]
pub struct KafkaConnection {
    stream: TcpStream,
    correlation_id: i32,
}

impl KafkaConnection {
    /// Connects to an agent.
    ///
    /// # Errors
    ///
    /// Fails if the agent does not accept the connection.
    pub async fn connect(address: &str) -> anyhow::Result<Self> {
        Ok(Self {
            stream: TcpStream::connect(address).await?,
            correlation_id: 0,
        })
    }

    /// Sends a request and returns its response.
    ///
    /// # Errors
    ///
    /// Fails if the connection breaks or the response cannot be decoded.
    pub async fn call<R: KafkaRequest>(&mut self, request: &R, version: i16) -> anyhow::Result<R::Response> {
        self.correlation_id += 1;
        for part in encode_request(request, version, self.correlation_id, Some("raw"))? {
            self.stream.write_all(&part).await?;
        }
        let length = self.stream.read_i32().await?;
        let mut frame = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut frame).await?;
        let flexible = R::KEY.is_flexible(version) && R::KEY != ApiKey::ApiVersions;
        // The correlation id, and no tagged fields.
        let header = if flexible { 5 } else { 4 };
        anyhow::ensure!(
            frame.len() >= header && frame[..4] == self.correlation_id.to_be_bytes(),
            "not the response to this request"
        );
        let mut reader = MessageReader::new(Bytes::from(frame).slice(header..));
        Ok(R::Response::decode(&mut reader, version)?)
    }

    /// Returns the address of the group's coordinator; `None` if there is none at the moment.
    ///
    /// # Errors
    ///
    /// Fails if the call does.
    pub async fn coordinator(&mut self, group: &str) -> anyhow::Result<Option<String>> {
        let request = FindCoordinatorRequest {
            coordinator_keys: vec![group.to_owned()],
            ..FindCoordinatorRequest::default()
        };
        let response = self.call(&request, 6).await?;
        let found = response.coordinators.into_iter().next().context("an answer")?;
        Ok((found.error_code == 0).then(|| format!("{}:{}", found.host, found.port)))
    }
}
