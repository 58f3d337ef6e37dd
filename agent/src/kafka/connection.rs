//! One connection: requests in, answers out in the same order.
//!
//! Produce requests are accepted in order and answered when they are stored, many at a time. Every
//! other request is answered before the next one is read, as in Kafka, so that a commit of offsets
//! takes effect before what follows it.

use std::{collections::VecDeque, io, io::IoSlice, sync::Arc};

use bytes::{Buf, Bytes};
use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::{Duration, sleep, timeout},
};

use super::{
    KafkaConnection, KafkaDeps,
    brokers::BrokerAddresses,
    dispatch::{self, StartedRequest},
    frame::{FrameReader, RequestFrame},
    request::{KafkaAnswer, KafkaClient},
};

/// Maximum number of requests of one connection that wait for their answer.
const MAX_IN_FLIGHT_REQUESTS: usize = 64;
/// How long a connection may be silent; Kafka's `connections.max.idle.ms`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a client may leave an answer unread.
const ANSWER_SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a request beside its records.
const REQUEST_OVERHEAD: usize = 64 << 10;

/// Serves a connection until it ends.
pub(super) async fn serve(
    connection: impl KafkaConnection,
    deps: Arc<KafkaDeps>,
    addresses: BrokerAddresses,
) {
    let address = connection.connect_info().remote_addr();
    // An IPv4 client of a listener on `[::]` has a mapped address.
    let host = address.map(|address| address.ip().to_canonical());
    let client = KafkaClient::new(deps, addresses, host);
    if let Err(error) = run(connection, client).await {
        // Any client can cause this, so it is not logged at a higher level.
        tracing::debug!(%error, client = ?host, "closed a Kafka connection");
    }
}

/// What a connection waits for.
struct ConnectionState {
    client: Arc<KafkaClient>,
    /// A request that is being accepted; the next one is not read meanwhile.
    accepting: Option<BoxFuture<'static, io::Result<StartedRequest>>>,
    waiting: FuturesOrdered<BoxFuture<'static, KafkaAnswer>>,
    /// The last request must be answered before the next one is read.
    serial: bool,
}

impl ConnectionState {
    fn may_read(&self) -> bool {
        self.accepting.is_none() && !self.serial && self.waiting.len() < MAX_IN_FLIGHT_REQUESTS
    }

    fn is_idle(&self) -> bool {
        self.accepting.is_none() && self.waiting.is_empty()
    }
}

async fn run(connection: impl KafkaConnection, client: KafkaClient) -> io::Result<()> {
    let deps = &client.deps;
    let largest = deps.max_request_bytes.saturating_add(REQUEST_OVERHEAD);
    let mut frames = FrameReader::new(deps.request_memory.clone(), largest);
    let (mut reader, mut writer) = tokio::io::split(connection);
    let mut state = ConnectionState {
        client: Arc::new(client),
        accepting: None,
        waiting: FuturesOrdered::new(),
        serial: false,
    };
    loop {
        let may_read = state.may_read();
        let idle = state.is_idle();
        tokio::select! {
            biased;
            Some(answer) = state.waiting.next(), if !state.waiting.is_empty() => {
                if state.waiting.is_empty() {
                    state.serial = false;
                }
                if !send(&mut writer, answer).await? {
                    return Ok(());
                }
            }
            started = wait_for(&mut state.accepting), if state.accepting.is_some() => {
                state.accepting = None;
                let StartedRequest { answer, serial } = started?;
                state.serial = serial;
                state.waiting.push_back(answer);
            }
            frame = next_frame(&mut frames, &mut reader, may_read) => {
                let Some(frame) = frame? else { return Ok(()) };
                state.accepting = Some(dispatch::start(state.client.clone(), frame).boxed());
            }
            () = sleep(IDLE_TIMEOUT), if idle => return Ok(()),
        }
    }
}

/// Returns the next frame, or, if none may be read now, `None` when the client has gone.
async fn next_frame(
    frames: &mut FrameReader,
    reader: &mut (impl AsyncRead + Unpin),
    may_read: bool,
) -> io::Result<Option<RequestFrame>> {
    if may_read {
        return frames.next(reader).await;
    }
    frames.closed(reader).await;
    Ok(None)
}

async fn wait_for<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Sends an answer. Returns whether the connection goes on.
async fn send(writer: &mut (impl AsyncWrite + Unpin), answer: KafkaAnswer) -> io::Result<bool> {
    let mut buffers = BufferList(answer.buffers.into());
    let sent = async {
        writer.write_all_buf(&mut buffers).await?;
        writer.flush().await
    };
    timeout(ANSWER_SEND_TIMEOUT, sent)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    // The memory of the answer is free when its last byte has left.
    drop(answer.memory);
    Ok(!answer.close)
}

/// Buffers that are written one after the other without a copy.
struct BufferList(VecDeque<Bytes>);

impl Buf for BufferList {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], |first| first)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.0);
        filled
            .map(|(slice, buffer)| *slice = IoSlice::new(buffer))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.0.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_written_in_order_whatever_is_taken_at_once() {
        for step in 1..8 {
            let mut list = BufferList([&b"ab"[..], b"", b"cde", b"f"].map(Bytes::from_static).into());
            let mut read = Vec::new();
            while list.remaining() > 0 {
                let mut slices = [IoSlice::new(&[]); 4];
                let count = list.chunks_vectored(&mut slices);
                let all: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = step.min(all.len());
                read.extend_from_slice(&all[..taken]);
                list.advance(taken);
            }
            assert_eq!(read, b"abcdef");
        }
    }
}
