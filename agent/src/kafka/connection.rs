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
    time::{Duration, Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    KafkaConnection, KafkaDeps,
    brokers::BrokerAddresses,
    dispatch::{self, StartedRequest},
    frame::{FrameReader, RequestFrame},
    limits,
    refusal::refusal_of,
    request::{KafkaAnswer, KafkaClient},
    request_memory::RequestBudgets,
};
use crate::store::retry::timeout_for;

/// Serves a connection until it ends. When `stop` is cancelled, no further request is read, and the
/// connection ends with its last answer.
pub(super) async fn serve(
    connection: impl KafkaConnection,
    deps: Arc<KafkaDeps>,
    addresses: BrokerAddresses,
    stop: CancellationToken,
) {
    let address = connection.connect_info().remote_addr();
    // An IPv4 client of a listener on `[::]` has a mapped address.
    let host = address.map(|address| address.ip().to_canonical());
    let metrics = deps.metrics.clone();
    let client = KafkaClient::new(deps, addresses, host);
    if let Err(error) = run(connection, client, stop).await {
        if let Some(reason) = refusal_of(&error) {
            metrics.kafka.record_refused_frame(reason);
        }
        // Any client can cause this, so it is not logged at a higher level.
        tracing::debug!(%error, client = ?host, "closed a Kafka connection");
    }
}

/// What a connection waits for.
struct ConnectionState {
    client: Arc<KafkaClient>,
    frames: FrameReader,
    /// A request that is being accepted; the next one is not read meanwhile.
    accepting: Option<BoxFuture<'static, io::Result<StartedRequest>>>,
    waiting: FuturesOrdered<BoxFuture<'static, KafkaAnswer>>,
    /// The last request must be answered before the next one is read.
    serial: bool,
    /// No further request is read.
    stopping: bool,
    /// Until when no request is read because the client has exceeded a quota.
    muted_until: Option<Instant>,
}

impl ConnectionState {
    fn may_read(&self) -> bool {
        let room = self.waiting.len() < limits::MAX_IN_FLIGHT_REQUESTS;
        self.accepting.is_none() && !self.serial && !self.stopping && room && self.muted_until.is_none()
    }

    /// Reads nothing for a while.
    fn mute(&mut self, time: Duration) {
        if !time.is_zero() {
            self.muted_until = self.muted_until.max(Some(Instant::now() + time));
        }
    }

    fn is_idle(&self) -> bool {
        self.accepting.is_none() && self.waiting.is_empty()
    }

    fn accept(&mut self, frame: RequestFrame) {
        self.accepting = Some(dispatch::start(self.client.clone(), frame).boxed());
    }

    fn accepted(&mut self, started: StartedRequest) {
        self.accepting = None;
        self.serial = started.serial;
        self.mute(started.muted);
        self.waiting.push_back(started.answer);
    }

    /// Accepts the records that a client had sent before it closed the connection: a producer that
    /// wants no answers does not wait. Other requests of it are for nobody.
    async fn accept_rest(&mut self) {
        loop {
            if let Some(accepting) = self.accepting.take() {
                match accepting.await {
                    Ok(started) if !started.serial => drop(started),
                    _ => return,
                }
            }
            match self.frames.next(&mut tokio::io::empty()).now_or_never() {
                Some(Ok(Some(frame))) => self.accept(frame),
                _ => return,
            }
        }
    }
}

async fn run(
    connection: impl KafkaConnection,
    client: KafkaClient,
    stop: CancellationToken,
) -> io::Result<()> {
    let deps = &client.deps;
    let refused_for = client.host.map(|host| deps.security.record_connection(host));
    let refused_for = refused_for.unwrap_or_default();
    let largest = deps.max_request_bytes.saturating_add(limits::REQUEST_OVERHEAD);
    let budgets = RequestBudgets::new(
        deps.request_memory.clone(),
        deps.produce_request_memory.clone(),
        deps.unauthenticated_request_memory.clone(),
    );
    let frames = FrameReader::new(budgets, largest);
    let (mut reader, mut writer) = tokio::io::split(connection);
    let mut state = ConnectionState {
        client: Arc::new(client),
        frames,
        accepting: None,
        waiting: FuturesOrdered::new(),
        serial: false,
        stopping: false,
        muted_until: None,
    };
    state.mute(refused_for);
    let authenticated_by = Instant::now() + refused_for + limits::AUTHENTICATION_TIMEOUT;
    loop {
        let (idle, stopping) = (state.is_idle(), state.stopping);
        if stopping && idle {
            return Ok(());
        }
        let may_read = state.may_read();
        let (is_open, muted_until) = (state.client.sasl.is_open(), state.muted_until);
        let max_bytes = match is_open {
            true => largest,
            false => limits::MAX_UNAUTHENTICATED_FRAME.min(largest),
        };
        state.frames.set_limits(max_bytes, is_open);
        let ConnectionState {
            frames,
            accepting,
            waiting,
            ..
        } = &mut state;
        tokio::select! {
            biased;
            Some(answer) = waiting.next(), if !waiting.is_empty() => {
                if state.waiting.is_empty() {
                    state.serial = false;
                }
                let muted = answer.muted;
                if !send(&mut writer, answer, limits::ANSWER_SEND_TIMEOUT).await? {
                    return Ok(());
                }
                state.mute(muted);
            }
            started = wait_for(accepting), if accepting.is_some() => state.accepted(started?),
            () = stop.cancelled(), if !stopping => state.stopping = true,
            frame = next_frame(frames, &mut reader, may_read) => match frame? {
                Some(frame) => state.accept(frame),
                None => {
                    state.accept_rest().await;
                    return Ok(());
                }
            },
            () = wait_until(muted_until), if muted_until.is_some() => state.muted_until = None,
            () = sleep_until(authenticated_by), if !is_open => return Err(unauthenticated()),
            () = sleep(limits::IDLE_TIMEOUT), if idle => return Ok(()),
        }
    }
}

fn unauthenticated() -> io::Error {
    let patience = limits::AUTHENTICATION_TIMEOUT;
    let message = format!("the client has not authenticated within {patience:?}");
    io::Error::new(io::ErrorKind::TimedOut, message)
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

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn wait_for<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Sends an answer; a large one may take longer than `patience`. Returns whether the connection
/// goes on.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    answer: KafkaAnswer,
    patience: Duration,
) -> io::Result<bool> {
    let mut buffers = BufferList(answer.buffers.into());
    let patience = timeout_for(patience, buffers.remaining() as u64);
    let sent = async {
        writer.write_all_buf(&mut buffers).await?;
        writer.flush().await
    };
    timeout(patience, sent)
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

    #[tokio::test]
    async fn an_answer_that_nobody_reads_frees_its_memory() {
        let budget = crate::memory::ByteBudget::new(100);
        let answer = KafkaAnswer {
            buffers: vec![Bytes::from_static(&[1; 100])],
            memory: budget.acquire(100).await.ok().map(Arc::new),
            ..KafkaAnswer::default()
        };
        let (mut writer, _reader) = tokio::io::duplex(16);
        let error = send(&mut writer, answer, Duration::from_millis(10)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(budget.used(), 0);
    }

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
