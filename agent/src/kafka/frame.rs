//! Reads frames from a connection: a length of four bytes, then a request.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::OwnedSemaphorePermit,
};

use crate::memory::ByteBudget;

/// Bytes that are read ahead of a frame's length.
const READ_AHEAD: usize = 8 << 10;

/// A request with the memory that it takes until it is dropped.
#[derive(Debug)]
pub(super) struct RequestFrame {
    pub(super) bytes: Bytes,
    /// Only held.
    pub(super) _memory: Option<OwnedSemaphorePermit>,
}

/// Reads the frames of a connection. No call loses bytes when it is cancelled.
#[derive(Debug)]
pub(super) struct FrameReader {
    buffer: BytesMut,
    /// Memory of the frame that is being read.
    memory: Option<OwnedSemaphorePermit>,
    budget: ByteBudget,
    max_bytes: usize,
}

impl FrameReader {
    /// Creates a reader of frames of at most `max_bytes`.
    pub(super) fn new(budget: ByteBudget, max_bytes: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            memory: None,
            budget,
            max_bytes,
        }
    }

    /// Returns the next frame; `None` if the client has closed the connection between two frames.
    /// Waits for memory before it reads a frame that is larger than what is read ahead.
    ///
    /// # Errors
    /// If the connection breaks or a frame is too large.
    pub(super) async fn next(
        &mut self,
        connection: &mut (impl AsyncRead + Unpin),
    ) -> io::Result<Option<RequestFrame>> {
        let length = loop {
            if let Some(length) = self.length()? {
                break length;
            }
            self.buffer.reserve(READ_AHEAD);
            if connection.read_buf(&mut self.buffer).await? == 0 {
                return match self.buffer.is_empty() {
                    true => Ok(None),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
        };
        if self.memory.is_none() && length > READ_AHEAD {
            let memory = self.budget.acquire(length).await;
            self.memory = Some(memory.map_err(io::Error::other)?);
        }
        let missing = (4 + length).saturating_sub(self.buffer.len());
        self.buffer.reserve(missing);
        while self.buffer.len() < 4 + length {
            if connection.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.buffer.advance(4);
        Ok(Some(RequestFrame {
            bytes: self.buffer.split_to(length).freeze(),
            _memory: self.memory.take(),
        }))
    }

    /// Waits until the client has closed the connection. Reads a bounded number of bytes ahead.
    pub(super) async fn closed(&mut self, connection: &mut (impl AsyncRead + Unpin)) {
        while self.buffer.len() < READ_AHEAD {
            self.buffer.reserve(READ_AHEAD);
            match connection.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // Enough is known of a client that sends on.
        std::future::pending().await
    }

    /// Returns the length of the next frame, as soon as it is there.
    fn length(&self) -> io::Result<Option<usize>> {
        let Some(Ok(prefix)) = self.buffer.get(..4).map(<[u8; 4]>::try_from) else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(prefix);
        match usize::try_from(length) {
            Ok(length) if length <= self.max_bytes => Ok(Some(length)),
            _ => {
                let message = format!(
                    "a request of {length} bytes; at most {} are accepted",
                    self.max_bytes
                );
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(budget: u64) -> FrameReader {
        FrameReader::new(ByteBudget::new(budget), 100_000)
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
    async fn a_large_frame_is_not_read_before_there_is_memory() {
        let budget = ByteBudget::new(50_000);
        let taken = budget.acquire(50_000).await.unwrap();
        let mut wire = 20_000_i32.to_be_bytes().to_vec();
        wire.extend(vec![1_u8; 20_000]);
        let mut connection = io::Cursor::new(wire);
        let mut reader = FrameReader::new(budget.clone(), 100_000);
        tokio::select! {
            biased;
            _ = reader.next(&mut connection) => panic!("there is no memory"),
            () = tokio::task::yield_now() => {}
        }
        assert!(connection.position() <= 10_000 + 4);
        drop(taken);
        let frame = reader.next(&mut connection).await.unwrap().unwrap();
        assert_eq!((frame.bytes.len(), budget.used()), (20_000, 20_000));
        drop(frame);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_ends_within_a_frame_is_an_error() {
        let error = reader(1 << 20).next(&mut &[0, 0, 0, 9, 1][..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
