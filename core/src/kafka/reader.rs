//! Reads the types of the Kafka protocol from a frame.
//!
//! Guarantees: what is decoded holds at most [`MEMORY_FACTOR`] times the bytes of the frame plus
//! [`MEMORY_BASE`], or what the caller allows, whatever counts and lengths the frame claims; no
//! input panics.

use bytes::{Buf as _, Bytes};
use thiserror::Error;
use uuid::Uuid;

use super::{RecordBuffers, SecretBytes};

/// Bytes in memory that each byte of a frame may take. An element of a list takes more memory than
/// bytes in the frame: 40 bytes for a partition of 8 are usual.
const MEMORY_FACTOR: usize = 16;
/// Bytes in memory that a small frame may take.
const MEMORY_BASE: usize = 4096;
/// Bytes in memory that the shortest text takes: what the allocator gives at least.
const MIN_TEXT_MEMORY: usize = 16;
/// The longest text in bytes, in every version.
const MAX_TEXT_LEN: usize = i16::MAX as usize;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The frame ends within the message.
    #[error("the message ends early")]
    Truncated,
    /// A length or count is negative, or larger than what is left of the frame.
    #[error("a length does not fit the message")]
    InvalidLength,
    /// A number of variable length has too many bytes.
    #[error("a number of variable length is too long")]
    InvalidVarint,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    InvalidText,
    /// A field is null that must not be in this version.
    #[error("a field is null that may not be")]
    UnexpectedNull,
    /// The lists of the message take too much memory for its length.
    #[error("the message has too many elements for its length")]
    TooManyElements,
    /// Bytes follow the message.
    #[error("{0} bytes follow the message")]
    TrailingBytes(usize),
}

/// What is left of a frame.
#[derive(Debug, Clone)]
pub struct MessageReader {
    frame: Bytes,
    /// Bytes of memory that may still be taken.
    memory: usize,
    /// Bytes of memory that may be taken in all.
    limit: usize,
}

impl MessageReader {
    /// Begins to read a frame.
    pub fn new(frame: Bytes) -> Self {
        let limit = Self::memory_limit(frame.len());
        Self::with_memory_limit(frame, limit)
    }

    /// Begins to read a frame whose lists and texts may take this many bytes of memory.
    pub fn with_memory_limit(frame: Bytes, limit: usize) -> Self {
        Self {
            frame,
            memory: limit,
            limit,
        }
    }

    /// Returns the memory that the lists and texts of a frame of this length may take, in bytes,
    /// unless the caller says otherwise.
    pub const fn memory_limit(length: usize) -> usize {
        length.saturating_mul(MEMORY_FACTOR).saturating_add(MEMORY_BASE)
    }

    /// Returns the memory that was taken so far for lists and texts, in bytes.
    pub const fn memory_taken(&self) -> usize {
        self.limit - self.memory
    }

    /// Returns the number of bytes that are left.
    pub fn remaining(&self) -> usize {
        self.frame.len()
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// Fails if bytes are left.
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.frame.len() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes(left)),
        }
    }

    fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.frame.len() {
            return Err(DecodeError::InvalidLength);
        }
        Ok(self.frame.split_to(length))
    }

    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.memory = self
            .memory
            .checked_sub(bytes)
            .ok_or(DecodeError::TooManyElements)?;
        Ok(())
    }

    pub(super) fn int8(&mut self) -> Result<i8, DecodeError> {
        self.frame.try_get_i8().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn int16(&mut self) -> Result<i16, DecodeError> {
        self.frame.try_get_i16().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn int32(&mut self) -> Result<i32, DecodeError> {
        self.frame.try_get_i32().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn int64(&mut self) -> Result<i64, DecodeError> {
        self.frame.try_get_i64().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn float64(&mut self) -> Result<f64, DecodeError> {
        self.frame.try_get_f64().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn bool(&mut self) -> Result<bool, DecodeError> {
        Ok(self.int8()? != 0)
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        let bits = self.frame.try_get_u128().map_err(|_| DecodeError::Truncated)?;
        Ok(Uuid::from_u128(bits))
    }

    pub(super) fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.frame.try_get_u8().map_err(|_| DecodeError::Truncated)?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0x0f {
                return Err(DecodeError::InvalidVarint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::InvalidVarint)
    }

    /// Reads a length or count: of a text if `short`, otherwise of bytes or a list. Returns none
    /// for null.
    fn length(&mut self, flexible: bool, short: bool) -> Result<Option<usize>, DecodeError> {
        let length = if flexible {
            i64::from(self.unsigned_varint()?) - 1
        } else if short {
            i64::from(self.int16()?)
        } else {
            i64::from(self.int32()?)
        };
        if length == -1 {
            return Ok(None);
        }
        let length = usize::try_from(length).map_err(|_| DecodeError::InvalidLength)?;
        // Each byte of a text and each element of a list takes a byte of the frame at least.
        if length > self.frame.len() {
            return Err(DecodeError::InvalidLength);
        }
        Ok(Some(length))
    }

    pub(super) fn nullable_string(
        &mut self,
        flexible: bool,
        nullable: bool,
    ) -> Result<Option<String>, DecodeError> {
        let Some(length) = self.length(flexible, true)? else {
            return if nullable {
                Ok(None)
            } else {
                Err(DecodeError::UnexpectedNull)
            };
        };
        if length > MAX_TEXT_LEN {
            return Err(DecodeError::InvalidLength);
        }
        if length > 0 {
            self.charge(length.max(MIN_TEXT_MEMORY))?;
        }
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| DecodeError::InvalidText)?;
        Ok(Some(text.to_owned()))
    }

    pub(super) fn string(&mut self, flexible: bool) -> Result<String, DecodeError> {
        let text = self.nullable_string(flexible, false)?;
        text.ok_or(DecodeError::UnexpectedNull)
    }

    pub(super) fn nullable_bytes(
        &mut self,
        flexible: bool,
        nullable: bool,
    ) -> Result<Option<Bytes>, DecodeError> {
        match self.length(flexible, false)? {
            Some(length) => self.take(length).map(Some),
            None if nullable => Ok(None),
            None => Err(DecodeError::UnexpectedNull),
        }
    }

    pub(super) fn bytes(&mut self, flexible: bool) -> Result<Bytes, DecodeError> {
        let bytes = self.nullable_bytes(flexible, false)?;
        bytes.ok_or(DecodeError::UnexpectedNull)
    }

    pub(super) fn secret(&mut self, flexible: bool) -> Result<SecretBytes, DecodeError> {
        self.bytes(flexible).map(SecretBytes::from)
    }

    pub(super) fn nullable_records(
        &mut self,
        flexible: bool,
        nullable: bool,
    ) -> Result<Option<Bytes>, DecodeError> {
        self.nullable_bytes(flexible, nullable)
    }

    pub(super) fn nullable_buffers(
        &mut self,
        flexible: bool,
        nullable: bool,
    ) -> Result<Option<RecordBuffers>, DecodeError> {
        let bytes = self.nullable_bytes(flexible, nullable)?;
        Ok(bytes.map(RecordBuffers::from))
    }

    pub(super) fn nullable_array<T>(
        &mut self,
        flexible: bool,
        nullable: bool,
        mut element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.length(flexible, false)? else {
            return if nullable {
                Ok(None)
            } else {
                Err(DecodeError::UnexpectedNull)
            };
        };
        self.charge(count.saturating_mul(size_of::<T>()))?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(Some(elements))
    }

    pub(super) fn array<T>(
        &mut self,
        flexible: bool,
        element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let elements = self.nullable_array(flexible, false, element)?;
        elements.ok_or(DecodeError::UnexpectedNull)
    }

    /// Reads a struct that a byte below zero before it makes null.
    pub(super) fn nullable<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.int8()? < 0 {
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// Reads tagged fields. `known` reads the one of a tag, or returns false for a tag that it does
    /// not know.
    pub(super) fn tagged_fields(
        &mut self,
        mut known: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>,
    ) -> Result<(), DecodeError> {
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let length = self.unsigned_varint()?;
            let length = usize::try_from(length).map_err(|_| DecodeError::InvalidLength)?;
            let mut field = Self {
                frame: self.take(length)?,
                memory: self.memory,
                limit: self.limit,
            };
            if known(&mut field, tag)? {
                self.memory = field.memory;
                field.finish()?;
            }
        }
        Ok(())
    }

    pub(super) fn skip_tagged_fields(&mut self) -> Result<(), DecodeError> {
        self.tagged_fields(|_, _| Ok(false))
    }
}
