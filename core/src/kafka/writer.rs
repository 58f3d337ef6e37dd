//! Writes the types of the Kafka protocol into buffers.

use bytes::{BufMut as _, Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

use super::{RecordBuffers, SecretBytes};

/// Bytes of this length or more become a buffer of their own; shorter ones are copied.
const MIN_SHARED_BYTES: usize = 1024;

/// Why a message cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A text or a list is longer than the version can express.
    #[error("a text or list of {0} elements is too long for the protocol")]
    TooLong(usize),
}

/// A message that is being written.
#[derive(Debug, Default)]
pub struct MessageWriter {
    buffers: Vec<Bytes>,
    last: BytesMut,
}

/// Tagged fields in the order of their tags.
#[derive(Debug, Default)]
pub(super) struct TaggedFields(Vec<(u32, MessageWriter)>);

impl TaggedFields {
    pub(super) fn push(
        &mut self,
        tag: u32,
        write: impl FnOnce(&mut MessageWriter) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let mut writer = MessageWriter::default();
        write(&mut writer)?;
        self.0.push((tag, writer));
        Ok(())
    }
}

impl MessageWriter {
    /// Returns the buffers of the message in their order.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.buffers.push(self.last.freeze());
        }
        self.buffers
    }

    /// Returns the number of bytes that were written.
    pub fn len(&self) -> usize {
        let finished: usize = self.buffers.iter().map(Bytes::len).sum();
        finished + self.last.len()
    }

    /// Returns whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn int8(&mut self, value: i8) {
        self.last.put_i8(value);
    }

    pub(super) fn int16(&mut self, value: i16) {
        self.last.put_i16(value);
    }

    pub(super) fn int32(&mut self, value: i32) {
        self.last.put_i32(value);
    }

    pub(super) fn int64(&mut self, value: i64) {
        self.last.put_i64(value);
    }

    pub(super) fn float64(&mut self, value: f64) {
        self.last.put_f64(value);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.last.put_u8(value.into());
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.last.put_u128(value.as_u128());
    }

    pub(super) fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.last.put_u8((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.last.put_u8(value as u8);
    }

    /// Writes a length or count: of a text if `short`, otherwise of bytes or a list.
    fn length(&mut self, length: Option<usize>, flexible: bool, short: bool) -> Result<(), EncodeError> {
        let too_long = EncodeError::TooLong(length.unwrap_or_default());
        if flexible {
            let value = length.map_or(Some(0), |length| u32::try_from(length).ok()?.checked_add(1));
            self.unsigned_varint(value.ok_or(too_long)?);
        } else if short {
            let value = length.map_or(Ok(-1), i16::try_from);
            self.int16(value.map_err(|_| too_long)?);
        } else {
            let value = length.map_or(Ok(-1), i32::try_from);
            self.int32(value.map_err(|_| too_long)?);
        }
        Ok(())
    }

    pub(super) fn string(&mut self, value: &str, flexible: bool) -> Result<(), EncodeError> {
        self.length(Some(value.len()), flexible, true)?;
        self.last.put_slice(value.as_bytes());
        Ok(())
    }

    pub(super) fn nullable_string(
        &mut self,
        value: Option<&str>,
        flexible: bool,
        nullable: bool,
    ) -> Result<(), EncodeError> {
        match value {
            None if nullable => self.length(None, flexible, true),
            value => self.string(value.unwrap_or_default(), flexible),
        }
    }

    pub(super) fn bytes(&mut self, value: &Bytes, flexible: bool) -> Result<(), EncodeError> {
        self.length(Some(value.len()), flexible, false)?;
        self.shared(value);
        Ok(())
    }

    pub(super) fn secret(&mut self, value: &SecretBytes, flexible: bool) -> Result<(), EncodeError> {
        self.bytes(value.expose(), flexible)
    }

    /// Appends bytes, without a copy if they are long.
    fn shared(&mut self, value: &Bytes) {
        if value.len() < MIN_SHARED_BYTES {
            self.last.put_slice(value);
            return;
        }
        if !self.last.is_empty() {
            self.buffers.push(self.last.split().freeze());
        }
        self.buffers.push(value.clone());
    }

    pub(super) fn nullable_bytes(
        &mut self,
        value: Option<&Bytes>,
        flexible: bool,
        nullable: bool,
    ) -> Result<(), EncodeError> {
        match value {
            Some(value) => self.bytes(value, flexible),
            None if nullable => self.length(None, flexible, false),
            None => self.length(Some(0), flexible, false),
        }
    }

    pub(super) fn nullable_records(
        &mut self,
        value: Option<&Bytes>,
        flexible: bool,
        nullable: bool,
    ) -> Result<(), EncodeError> {
        self.nullable_bytes(value, flexible, nullable)
    }

    pub(super) fn nullable_buffers(
        &mut self,
        value: Option<&RecordBuffers>,
        flexible: bool,
        nullable: bool,
    ) -> Result<(), EncodeError> {
        let Some(value) = value else {
            return self.length((!nullable).then_some(0), flexible, false);
        };
        self.length(Some(value.len()), flexible, false)?;
        value.iter().for_each(|buffer| self.shared(buffer));
        Ok(())
    }

    pub(super) fn array<T>(
        &mut self,
        elements: &[T],
        flexible: bool,
        mut write: impl FnMut(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        self.length(Some(elements.len()), flexible, false)?;
        elements.iter().try_for_each(|element| write(self, element))
    }

    pub(super) fn nullable_array<T>(
        &mut self,
        elements: Option<&[T]>,
        flexible: bool,
        nullable: bool,
        write: impl FnMut(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        match elements {
            None if nullable => self.length(None, flexible, false),
            elements => self.array(elements.unwrap_or_default(), flexible, write),
        }
    }

    /// Writes a struct, or the byte that stands for null.
    pub(super) fn nullable<T>(
        &mut self,
        value: Option<&T>,
        write: impl FnOnce(&mut Self, &T) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let Some(value) = value else {
            self.int8(-1);
            return Ok(());
        };
        self.int8(1);
        write(self, value)
    }

    pub(super) fn tagged_fields(&mut self, fields: TaggedFields) {
        self.unsigned_varint(fields.0.len() as u32);
        for (tag, field) in fields.0 {
            self.unsigned_varint(tag);
            self.unsigned_varint(field.len() as u32);
            for buffer in field.finish() {
                self.shared(&buffer);
            }
        }
    }
}
