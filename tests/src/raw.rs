//! The protocol without the client library, for requests that the library would not send.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use streamhouse_core::{
    Error,
    batch::{BatchBuilder, Compression},
    protocol::v1::{self, data_service_client::DataServiceClient},
};
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};

/// Connects to an agent.
pub async fn connect(address: &str) -> anyhow::Result<DataServiceClient<Channel>> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(Duration::from_secs(5));
    Ok(DataServiceClient::new(endpoint.connect().await?))
}

/// Builds a batch of these values.
pub fn batch(values: &[&[u8]], compression: Compression) -> anyhow::Result<Bytes> {
    let mut builder = BatchBuilder::new(compression);
    for value in values {
        builder.append::<&[u8], &[u8]>(1_700_000_000_000, None, Some(value), &[])?;
    }
    Ok(builder.finish()?)
}

/// Sends one request and returns the result of its only partition.
///
/// # Errors
///
/// Fails if the call fails; the inner result is the partition's.
pub async fn produce(
    client: &mut DataServiceClient<Channel>,
    topic: &str,
    partition: i32,
    records: Bytes,
) -> anyhow::Result<Result<i64, Error>> {
    let request = v1::ProduceRequest {
        request_id: 1,
        partitions: vec![v1::PartitionProduce {
            topic: topic.to_owned(),
            partition,
            records,
            topic_id: String::new(),
        }],
        ..Default::default()
    };
    let mut answers = client.produce(tokio_stream::once(request)).await?.into_inner();
    let answer = answers
        .next()
        .await
        .context("the stream ended without an answer")??;
    let result = answer
        .partitions
        .into_iter()
        .next()
        .context("the answer names no partition")?;
    Ok(match result.error {
        Some(error) => Err(error.into()),
        None => Ok(result.base_offset),
    })
}
