//! Bytes of messages with a purpose: records of a response in several buffers, and secrets.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// Batches of records, back to back in a list of buffers that are sent without being joined.
#[derive(Debug, Clone, Default)]
pub struct RecordBuffers(Vec<Bytes>);

impl RecordBuffers {
    /// Returns the number of bytes in all buffers.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Returns whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Bytes::is_empty)
    }

    /// Appends a buffer.
    pub fn push(&mut self, buffer: Bytes) {
        self.0.push(buffer);
    }

    /// Iterates over the buffers.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    /// Returns the bytes in one buffer: without a copy if there is only one.
    pub fn into_bytes(mut self) -> Bytes {
        if self.0.len() < 2 {
            return self.0.pop().unwrap_or_default();
        }
        let mut joined = BytesMut::with_capacity(self.len());
        self.0.iter().for_each(|buffer| joined.extend_from_slice(buffer));
        joined.freeze()
    }
}

impl From<Bytes> for RecordBuffers {
    fn from(bytes: Bytes) -> Self {
        Self(vec![bytes])
    }
}

impl PartialEq for RecordBuffers {
    /// Compares the bytes, however they are cut.
    fn eq(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.iter().flatten(), other.iter().flatten());
        self.len() == other.len() && mine.eq(theirs)
    }
}

impl Eq for RecordBuffers {}

/// Bytes that hold a secret, such as a password: debug output shows their number only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretBytes(Bytes);

impl SecretBytes {
    /// Returns the secret.
    pub const fn expose(&self) -> &Bytes {
        &self.0
    }
}

impl From<Bytes> for SecretBytes {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} hidden bytes]", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_equal_to_their_bytes_however_they_are_cut() {
        let mut cut = RecordBuffers::default();
        for part in [&b"ab"[..], b"", b"c"] {
            cut.push(Bytes::copy_from_slice(part));
        }
        let whole = RecordBuffers::from(Bytes::from_static(b"abc"));
        assert_eq!((cut.len(), cut.is_empty()), (3, false));
        assert_eq!(cut, whole);
        assert_ne!(cut, RecordBuffers::from(Bytes::from_static(b"abd")));
        assert_eq!(cut.into_bytes(), "abc");
        let bytes = Bytes::from(vec![1; 10]);
        let joined = RecordBuffers::from(bytes.clone()).into_bytes();
        assert_eq!(joined.as_ptr(), bytes.as_ptr());
        assert!(RecordBuffers::default().into_bytes().is_empty());
    }

    #[test]
    fn a_secret_is_not_in_debug_output() {
        let secret = SecretBytes::from(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), "[7 hidden bytes]");
        assert_eq!(secret.expose(), "hunter2");
    }
}
