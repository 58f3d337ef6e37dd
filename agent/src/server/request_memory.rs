//! Bounds the memory of requests that are still arriving. A message must be complete before it can
//! be decoded; until then its bytes are in memory and would count against no budget. Here each
//! message of each call acquires its size from one budget before its bytes are read, and releases
//! it when its reader asks for the next message: when the message was decoded or, for a produce
//! request, when its batches were admitted to their own budget. Without room the call's bytes are
//! not read, and HTTP/2 flow control stops the client.
//!
//! A message that has begun must arrive in time, or its call ends: memory that one client occupies
//! without sending is missing for others.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Sleep, sleep},
};

use crate::{memory::ByteBudget, store::retry::timeout_for};

/// How long a message may take to arrive, waiting for memory included; larger messages get more
/// time.
const MESSAGE_ARRIVAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Length of the gRPC prefix of a message: compression flag and message length.
const MESSAGE_PREFIX_BYTES: usize = 5;

/// Limits the memory of arriving messages.
#[derive(Debug, Clone)]
pub struct RequestMemoryLimiter {
    /// Budget of messages that have begun to arrive and are not yet decoded.
    memory: ByteBudget,
    /// Larger messages are refused by the decoder as soon as it reads the prefix.
    max_message_bytes: usize,
    /// See [`MESSAGE_ARRIVAL_TIMEOUT`].
    arrival_timeout: Duration,
}

impl RequestMemoryLimiter {
    /// Limits messages of at most `largest` bytes to a budget of all connections together.
    pub fn new(memory: ByteBudget, largest: usize) -> Self {
        Self {
            memory,
            max_message_bytes: largest,
            arrival_timeout: MESSAGE_ARRIVAL_TIMEOUT,
        }
    }

    /// Wraps a body so that each of its messages acquires memory before it is read.
    pub fn limit_body(&self, body: Body) -> Body {
        Body::new(LimitedBody {
            limiter: self.clone(),
            inner: body,
            prefix: BytesMut::new(),
            read: Bytes::new(),
            left: 0,
            reservation: MessageReservation::None,
            deadline: None,
        })
    }
}

/// Memory of the message that is arriving.
enum MessageReservation {
    None,
    Waiting(Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>),
    Held { _permit: OwnedSemaphorePermit },
}

struct LimitedBody {
    limiter: RequestMemoryLimiter,
    inner: Body,
    /// The part of the next message's prefix that has arrived.
    prefix: BytesMut,
    /// Bytes that have arrived and are not yet returned.
    read: Bytes,
    /// Bytes of the current message that are not yet returned.
    left: usize,
    reservation: MessageReservation,
    /// Time by which the message must be complete.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl fmt::Debug for LimitedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl LimitedBody {
    /// Acquires memory for the message whose prefix is complete.
    fn reserve_message(&mut self) {
        let length = self
            .prefix
            .get(1..MESSAGE_PREFIX_BYTES)
            .map_or(0, |mut length| length.get_u32());
        self.left = length as usize;
        if self.left == 0 || self.left > self.limiter.max_message_bytes {
            return;
        }
        let memory = self.limiter.memory.clone();
        let length = self.left;
        self.reservation = match memory.try_acquire(length) {
            Ok(permit) => MessageReservation::Held { _permit: permit },
            Err(_) => MessageReservation::Waiting(Box::pin(async move { memory.acquire(length).await.ok() })),
        };
        if matches!(self.reservation, MessageReservation::Waiting(_)) || self.read.len() < self.left {
            self.deadline = Some(Box::pin(sleep(timeout_for(
                self.limiter.arrival_timeout,
                length as u64,
            ))));
        }
    }

    /// Returns the next bytes: a prefix with what has arrived of its message, or more of the
    /// message; never bytes of two messages.
    fn poll_next_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.left == 0 && self.prefix.len() < MESSAGE_PREFIX_BYTES {
            let missing = MESSAGE_PREFIX_BYTES - self.prefix.len();
            let begun = self.read.split_to(missing.min(self.read.len()));
            self.prefix.extend_from_slice(&begun);
            if self.prefix.len() < MESSAGE_PREFIX_BYTES {
                return Poll::Ready(None);
            }
            self.reserve_message();
        }
        if let MessageReservation::Waiting(waiting) = &mut self.reservation {
            self.reservation = match ready!(waiting.as_mut().poll(cx)) {
                Some(permit) => MessageReservation::Held { _permit: permit },
                None => MessageReservation::None,
            };
        }
        if self.prefix.len() == MESSAGE_PREFIX_BYTES {
            return Poll::Ready(Some(self.prefix.split().freeze()));
        }
        if self.read.is_empty() {
            return Poll::Ready(None);
        }
        let part = self.read.split_to(self.left.min(self.read.len()));
        self.left -= part.len();
        if self.left == 0 {
            self.deadline = None;
        }
        Poll::Ready(Some(part))
    }
}

impl HttpBody for LimitedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.left == 0 && this.prefix.is_empty() {
            // A reader that asks for more has finished the message before.
            this.reservation = MessageReservation::None;
        }
        loop {
            if let Poll::Ready(Some(bytes)) = this.poll_next_bytes(cx) {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(deadline) = &mut this.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                let error = io::Error::new(io::ErrorKind::TimedOut, "the request did not arrive in time");
                return Poll::Ready(Some(Err(axum::Error::new(error))));
            }
            if matches!(this.reservation, MessageReservation::Waiting(_)) {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => this.read = bytes,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.prefix.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt, channel::mpsc};
    use http_body_util::BodyExt;

    use super::*;

    const MEMORY: u64 = 128 << 20;

    /// Returns a body that arrives as the sender sends it.
    fn body(intake: &RequestMemoryLimiter) -> (mpsc::UnboundedSender<Result<Bytes, io::Error>>, Body) {
        let (sender, receiver) = mpsc::unbounded();
        (sender, intake.limit_body(Body::from_stream(receiver.boxed())))
    }

    fn message(length: usize) -> Bytes {
        let mut message = BytesMut::from(&[0][..]);
        message.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
        message.extend_from_slice(&vec![7; length]);
        message.freeze()
    }

    async fn read(body: &mut Body, bytes: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < bytes {
            read.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        read
    }

    fn used(intake: &RequestMemoryLimiter) -> usize {
        intake.memory.used()
    }

    #[tokio::test]
    async fn bytes_pass_unchanged_however_they_are_cut() {
        let intake = RequestMemoryLimiter::new(ByteBudget::new(MEMORY), 1 << 20);
        let sent: Vec<u8> = [message(3), message(0), message(70_000), message(1)].concat();
        for cut in [1, 2, 4, 5, 7, 64, 1 << 20] {
            let (sender, mut body) = body(&intake);
            for part in sent.chunks(cut) {
                sender.unbounded_send(Ok(Bytes::copy_from_slice(part))).unwrap();
            }
            drop(sender);
            assert_eq!(read(&mut body, sent.len()).await, sent, "cut into {cut}");
            assert!(body.frame().await.is_none());
            assert_eq!(used(&intake), 0);
        }
    }

    #[tokio::test]
    async fn a_message_holds_its_room_until_its_reader_asks_for_more() {
        let intake = RequestMemoryLimiter::new(ByteBudget::new(MEMORY), 1 << 20);
        let (sender, mut body) = body(&intake);
        sender.unbounded_send(Ok(message(1000).slice(..600))).unwrap();
        read(&mut body, 600).await;
        assert_eq!(used(&intake), 1000, "all of it, before it is here");
        sender.unbounded_send(Ok(message(1000).slice(600..))).unwrap();
        read(&mut body, 405).await;
        assert_eq!(used(&intake), 1000, "it is being decoded");
        assert!(body.frame().now_or_never().is_none());
        assert_eq!(used(&intake), 0);
        sender.unbounded_send(Ok(message(10))).unwrap();
        read(&mut body, 10).await;
        drop(body);
        assert_eq!(used(&intake), 0, "a reader that goes away gives it back");
    }

    #[tokio::test]
    async fn without_room_nothing_is_read_until_there_is_some() {
        let intake = RequestMemoryLimiter::new(ByteBudget::new(MEMORY), MEMORY as usize / 2);
        let (first, mut one) = body(&intake);
        let (second, mut two) = body(&intake);
        let (third, mut three) = body(&intake);
        let large = message(MEMORY as usize / 2);
        for (sender, body) in [(&first, &mut one), (&second, &mut two)] {
            sender.unbounded_send(Ok(large.slice(..6))).unwrap();
            read(body, 6).await;
        }
        third.unbounded_send(Ok(message(1))).unwrap();
        assert!(three.frame().now_or_never().is_none(), "there is no room");
        drop(one);
        assert_eq!(read(&mut three, 6).await, message(1));
    }

    #[tokio::test]
    async fn a_message_that_does_not_arrive_gives_its_room_back() {
        let intake = RequestMemoryLimiter {
            arrival_timeout: Duration::ZERO,
            ..RequestMemoryLimiter::new(ByteBudget::new(MEMORY), 1 << 20)
        };
        let (sender, mut body) = body(&intake);
        sender.unbounded_send(Ok(message(1000).slice(..10))).unwrap();
        read(&mut body, 10).await;
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.to_string().contains("did not arrive in time"), "{error}");
        drop(body);
        assert_eq!(used(&intake), 0);
    }

    #[tokio::test]
    async fn a_message_that_is_too_large_is_left_to_its_reader() {
        let intake = RequestMemoryLimiter::new(ByteBudget::new(MEMORY), 100);
        let (sender, mut body) = body(&intake);
        sender.unbounded_send(Ok(message(101))).unwrap();
        assert_eq!(read(&mut body, 106).await, message(101));
        assert_eq!(used(&intake), 0);
    }
}
