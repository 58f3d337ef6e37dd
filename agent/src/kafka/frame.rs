//! Reads frames from a connection: a length of four bytes, then a request.
//!
//! Guarantees: memory for a request, and for what it decodes to, is taken before its body is read;
//! without memory nothing is read. It is given back when the last byte of the frame is dropped. A
//! frame that has begun arrives in time, or its connection ends. Between frames a connection holds
//! a few kilobytes, however large its frames are.

use std::{fmt, io};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::{FutureExt as _, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::{Duration, Instant, timeout_at},
};

use super::{
    limits,
    refusal::refused,
    request_memory::{RequestBudgets, RequestMemory},
};
use crate::{metrics::FrameRefusal, store::retry::timeout_for};

/// Bytes that are read ahead of a frame's length.
const READ_AHEAD: usize = 8 << 10;
/// The length of a frame and the number of its API.
const PREFIX_BYTES: usize = 6;

/// The bytes of a frame with their memory.
struct OwnedFrame {
    bytes: Bytes,
    _memory: RequestMemory,
}

impl AsRef<[u8]> for OwnedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A request.
#[derive(Debug)]
pub(super) struct RequestFrame {
    pub(super) bytes: Bytes,
    pub(super) memory: RequestMemory,
    /// How long it waited for its memory.
    pub(super) waited: Duration,
}

impl RequestFrame {
    fn new(bytes: Bytes, memory: RequestMemory, waited: Duration) -> Self {
        let owned = OwnedFrame {
            bytes,
            _memory: memory.clone(),
        };
        Self {
            bytes: Bytes::from_owner(owned),
            memory,
            waited,
        }
    }
}

/// A frame whose memory is taken and whose body is arriving.
struct ArrivingFrame {
    bytes: BytesMut,
    length: usize,
    memory: RequestMemory,
    waited: Duration,
}

/// Reads the frames of a connection. No call loses bytes when it is cancelled.
pub(super) struct FrameReader {
    /// What has arrived of the next frames.
    ahead: BytesMut,
    arriving: Option<ArrivingFrame>,
    /// Memory that the next frame waits for.
    waiting: Option<BoxFuture<'static, io::Result<RequestMemory>>>,
    /// Since when the next frame waits for its memory.
    waiting_since: Option<Instant>,
    /// The time by which the frame that has begun must be complete.
    deadline: Option<Instant>,
    budgets: RequestBudgets,
    max_bytes: usize,
    arrival_timeout: Duration,
}

impl fmt::Debug for FrameReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReader")
            .field("ahead", &self.ahead.len())
            .finish_non_exhaustive()
    }
}

impl FrameReader {
    /// Creates a reader of frames of at most `max_bytes`.
    pub(super) fn new(budgets: RequestBudgets, max_bytes: usize) -> Self {
        Self {
            ahead: BytesMut::new(),
            arriving: None,
            waiting: None,
            waiting_since: None,
            deadline: None,
            budgets,
            max_bytes,
            arrival_timeout: limits::ARRIVAL_TIMEOUT,
        }
    }

    /// Changes the size of the frames that have not begun, and where their memory comes from.
    pub(super) fn set_limits(&mut self, max_bytes: usize, is_authenticated: bool) {
        self.max_bytes = max_bytes;
        self.budgets.set_authenticated(is_authenticated);
    }

    /// Returns the next frame; `None` if the client has closed the connection between two frames.
    /// Waits for memory before it reads more of a frame than is read ahead.
    ///
    /// # Errors
    /// If the connection breaks, a frame is too large, or it does not arrive in time.
    pub(super) async fn next(
        &mut self,
        connection: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<RequestFrame>> {
        if self.arriving.is_none() {
            self.arriving = self.begin(connection).await?;
        }
        if let Some(arriving) = &mut self.arriving {
            read_missing(arriving, connection, self.deadline).await?;
            self.deadline = None;
        }
        let arrived = self.arriving.take();
        Ok(arrived.map(|frame| RequestFrame::new(frame.bytes.freeze(), frame.memory, frame.waited)))
    }

    /// Returns the next frame with the part of it that is read ahead, once there is memory for it.
    async fn begin(
        &mut self,
        connection: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<ArrivingFrame>> {
        let (length, api_key) = loop {
            if let Some(prefix) = self.prefix()? {
                break prefix;
            }
            if self.ahead.is_empty() {
                self.deadline = None;
            } else if self.deadline.is_none() {
                self.deadline = Some(Instant::now() + self.arrival_timeout);
            }
            if read_ahead(&mut self.ahead, connection, self.deadline).await? == 0 {
                return match self.ahead.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        };
        let at_once = self
            .waiting
            .is_none()
            .then(|| self.budgets.try_acquire(api_key, length));
        let memory = match at_once.flatten() {
            Some(memory) => memory,
            None => {
                self.waiting_since.get_or_insert_with(Instant::now);
                match self.wait_for_memory(api_key, length, connection).await? {
                    Some(memory) => memory,
                    None => return Ok(None),
                }
            }
        };
        let waiting_since = self.waiting_since.take();
        let waited = waiting_since.map_or(Duration::ZERO, |since| since.elapsed());
        // Only the client's own time counts.
        self.deadline = Some(Instant::now() + timeout_for(self.arrival_timeout, length as u64));
        self.ahead.advance(4);
        let mut bytes = BytesMut::with_capacity(length);
        bytes.extend_from_slice(&self.ahead.split_to(length.min(self.ahead.len())));
        Ok(Some(ArrivingFrame {
            bytes,
            length,
            memory,
            waited,
        }))
    }

    /// Returns the memory, or `None` if the client has gone before there is some. Keeps its place
    /// among those that wait when it is cancelled.
    async fn wait_for_memory(
        &mut self,
        api_key: i16,
        length: usize,
        connection: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<RequestMemory>> {
        let budgets = self.budgets.clone();
        let acquired = async move { budgets.acquire(api_key, length).await };
        let waiting = self.waiting.get_or_insert_with(|| acquired.boxed());
        let memory = tokio::select! {
            biased;
            memory = waiting => memory?,
            () = until_closed(&mut self.ahead, connection) => return Ok(None),
        };
        self.waiting = None;
        Ok(Some(memory))
    }

    /// Waits until the client has closed the connection. Reads a bounded number of bytes ahead.
    pub(super) async fn closed(&mut self, connection: &mut (impl AsyncRead + Unpin)) {
        until_closed(&mut self.ahead, connection).await;
    }

    /// Returns the length of the next frame and the number of its API, as soon as they are there.
    fn prefix(&self) -> io::Result<Option<(usize, i16)>> {
        let Some(Ok(prefix)) = self.ahead.get(..4).map(<[u8; 4]>::try_from) else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(prefix);
        let length = match usize::try_from(length) {
            Ok(length) if length <= self.max_bytes => length,
            _ => {
                let reason = match length {
                    ..0 => FrameRefusal::InvalidLength,
                    _ => FrameRefusal::TooLarge,
                };
                let message = format!(
                    "a request of {length} bytes; at most {} are accepted",
                    self.max_bytes
                );
                return Err(refused(reason, message));
            }
        };
        if length < PREFIX_BYTES - 4 {
            // No request is so short; it is refused when it is decoded.
            return Ok(Some((length, -1)));
        }
        let key = self.ahead.get(4..PREFIX_BYTES).map(<[u8; 2]>::try_from);
        Ok(match key {
            Some(Ok(key)) => Some((length, i16::from_be_bytes(key))),
            _ => None,
        })
    }
}

/// Reads a few bytes by the deadline. Returns how many there are.
async fn read_ahead(
    ahead: &mut BytesMut,
    connection: &mut (impl AsyncRead + Unpin),
    deadline: Option<Instant>,
) -> io::Result<usize> {
    ahead.reserve(READ_AHEAD - ahead.len().min(READ_AHEAD));
    let read = connection.read_buf(ahead);
    match deadline {
        None => read.await,
        Some(deadline) => timeout_at(deadline, read).await.map_err(|_| late())?,
    }
}

/// Reads the rest of a frame by the deadline.
async fn read_missing(
    frame: &mut ArrivingFrame,
    connection: &mut (impl AsyncRead + Unpin),
    deadline: Option<Instant>,
) -> io::Result<()> {
    let reading = async {
        while frame.bytes.len() < frame.length {
            let missing = frame.length - frame.bytes.len();
            let mut rest = (&mut frame.bytes).limit(missing);
            if connection.read_buf(&mut rest).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    };
    match deadline {
        None => reading.await,
        Some(deadline) => timeout_at(deadline, reading).await.map_err(|_| late())?,
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "a request did not arrive in time")
}

/// Waits until the client has closed the connection, or for ever if it has sent on: a bounded
/// number of bytes is read ahead.
async fn until_closed(ahead: &mut BytesMut, connection: &mut (impl AsyncRead + Unpin)) {
    while ahead.len() < READ_AHEAD {
        if !matches!(read_ahead(ahead, connection, None).await, Ok(1..)) {
            return;
        }
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, time::timeout};

    use super::*;
    use crate::memory::ByteBudget;

    fn reader(budget: u64) -> FrameReader {
        reader_of(&ByteBudget::new(budget))
    }

    fn reader_of(budget: &ByteBudget) -> FrameReader {
        let [produce, unauthenticated] = [0; 2].map(ByteBudget::new);
        let budgets = RequestBudgets::new(budget.clone(), produce, unauthenticated);
        FrameReader::new(budgets, 100_000)
    }

    /// Returns the memory of a frame of an API that does not exist.
    fn memory_of(length: usize) -> usize {
        length + limits::decoded_bytes(0x0101, length)
    }

    #[tokio::test]
    async fn frames_are_read_however_they_arrive() {
        let wire = [&[0, 0, 0, 2, 7, 8][..], &[0, 0, 0, 0], &[0, 0, 0, 1, 9]].concat();
        for cut in 0..wire.len() {
            let mut connection = tokio_test_reader(&wire[..cut], &wire[cut..]);
            let mut reader = reader(1 << 20);
            let mut frames = Vec::new();
            while let Some(frame) = reader.next(&mut connection).await.unwrap() {
                frames.push(frame.bytes.to_vec());
            }
            assert_eq!(reader.budgets.used(), 0);
            assert_eq!(frames, [vec![7, 8], vec![], vec![9]]);
        }
    }

    fn tokio_test_reader(first: &[u8], second: &[u8]) -> impl AsyncRead + Unpin {
        let chain = io::Cursor::new(first.to_vec());
        tokio::io::AsyncReadExt::chain(chain, io::Cursor::new(second.to_vec()))
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_or_negative_is_refused() {
        for wire in [100_001_i32.to_be_bytes(), (-1_i32).to_be_bytes()] {
            let error = reader(1 << 20).next(&mut &wire[..]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[tokio::test]
    async fn a_frame_is_not_read_before_there_is_memory() {
        for length in [100, 20_000] {
            let budget = ByteBudget::new(1 << 20);
            let taken = budget.acquire(1 << 20).await.unwrap();
            let mut wire = i32::try_from(length).unwrap().to_be_bytes().to_vec();
            wire.extend(vec![1_u8; length]);
            wire.extend(vec![0_u8; 100_000]);
            let mut connection = io::Cursor::new(wire);
            let mut reader = reader_of(&budget);
            for _ in 0..3 {
                assert!(reader.next(&mut connection).now_or_never().is_none());
                assert!(connection.position() <= 2 * READ_AHEAD as u64);
            }
            drop(taken);
            let frame = reader.next(&mut connection).await.unwrap().unwrap();
            assert_eq!((frame.bytes.len(), budget.used()), (length, memory_of(length)));
            assert!(!frame.waited.is_zero());
            drop(frame);
            assert_eq!(budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn a_frame_that_waits_for_memory_keeps_its_place() {
        let budget = ByteBudget::new(1 << 20);
        let taken = budget.acquire(1 << 20).await.unwrap();
        let wire = [&100_i32.to_be_bytes()[..], &[1; 100]].concat();
        let (mut first, mut second) = (reader_of(&budget), reader_of(&budget));
        // A peer that keeps its connection open.
        let mut connections = [(); 2].map(|()| {
            let sent = io::Cursor::new(wire.clone());
            tokio::io::AsyncReadExt::chain(sent, PendingRead)
        });
        let [one, two] = &mut connections;
        for _ in 0..2 {
            assert!(first.next(one).now_or_never().is_none());
            assert!(second.next(two).now_or_never().is_none());
        }
        drop(taken);
        let all = budget.acquire(1 << 20);
        assert!(all.now_or_never().is_none(), "both are before it");
        assert!(first.next(one).now_or_never().is_some());
        assert!(second.next(two).now_or_never().is_some());
    }

    /// A connection on which nothing arrives.
    struct PendingRead;

    impl AsyncRead for PendingRead {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<io::Result<()>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_while_its_frame_waits_for_memory_is_noticed() {
        let budget = ByteBudget::new(1000);
        let _taken = budget.acquire(1000).await.unwrap();
        let mut reader = reader_of(&budget);
        let wire = [&100_i32.to_be_bytes()[..], &[1; 50]].concat();
        assert!(reader.next(&mut &wire[..]).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn memory_is_held_as_long_as_a_slice_of_the_frame() {
        let wire = [&1000_i32.to_be_bytes()[..], &[1; 1000]].concat();
        let mut reader = reader(1 << 20);
        let frame = reader.next(&mut &wire[..]).await.unwrap().unwrap();
        frame.memory.shrink_to(700);
        frame.memory.shrink_to(900);
        let slice = frame.bytes.slice(10..20);
        drop(frame);
        assert_eq!(reader.budgets.used(), 700);
        drop(slice);
        assert_eq!(reader.budgets.used(), 0);
    }

    #[tokio::test]
    async fn a_connection_is_small_again_after_a_large_frame() {
        let wire = [&99_000_i32.to_be_bytes()[..], &[1; 99_000], &[0, 0, 0, 1, 5]].concat();
        let mut connection = &wire[..];
        let mut reader = reader(4 << 20);
        let large = reader.next(&mut connection).await.unwrap().unwrap();
        assert_eq!(large.bytes.len(), 99_000);
        drop(large);
        assert_eq!(
            &reader.next(&mut connection).await.unwrap().unwrap().bytes[..],
            [5]
        );
        assert!(reader.ahead.capacity() <= 2 * READ_AHEAD);
        assert_eq!(reader.budgets.used(), 0);
    }

    /// Returns a reader that does not wait long for a frame that has begun.
    fn impatient_reader() -> FrameReader {
        FrameReader {
            arrival_timeout: Duration::from_millis(50),
            ..reader(1 << 20)
        }
    }

    #[tokio::test]
    async fn a_frame_that_does_not_arrive_ends_its_connection_and_frees_its_memory() {
        for sent in [1, 5, 20] {
            let (mut client, mut server) = tokio::io::duplex(1024);
            let mut reader = impatient_reader();
            let wire = [&1000_i32.to_be_bytes()[..], &[1; 1000]].concat();
            for byte in &wire[..sent] {
                client.write_all(&[*byte]).await.unwrap();
            }
            let error = reader.next(&mut server).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "after {sent} bytes");
            let budgets = reader.budgets.clone();
            drop(reader);
            assert_eq!(budgets.used(), 0);
        }
    }

    #[tokio::test]
    async fn between_frames_a_connection_may_be_silent() {
        let (mut client, mut server) = tokio::io::duplex(1024);
        let mut reader = impatient_reader();
        for _ in 0..2 {
            let next = timeout(Duration::from_millis(100), reader.next(&mut server));
            assert!(next.await.is_err(), "it waits on");
            client.write_all(&[0, 0, 0, 1, 7]).await.unwrap();
            let frame = reader.next(&mut server).await.unwrap().unwrap();
            assert_eq!(&frame.bytes[..], [7]);
        }
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_frame_is_an_error() {
        let error = reader(1 << 20).next(&mut &[0, 0, 0, 9, 1][..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
