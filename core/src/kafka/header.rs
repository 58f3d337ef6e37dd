//! Headers of requests and responses, and whole frames.

use bytes::Bytes;

use super::{ApiKey, DecodeError, EncodeError, KafkaMessage, KafkaRequest, MessageReader, MessageWriter};

/// What precedes each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// Number of the API, which need not be one that is known.
    pub api_key: i16,
    /// Version of the request, which need not be one that is known.
    pub api_version: i16,
    /// Returned with the response.
    pub correlation_id: i32,
    /// Name that the client gave itself.
    pub client_id: Option<String>,
}

impl ApiKey {
    /// Returns the API with a number.
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.number() == number)
    }

    /// Returns the number of the API.
    pub const fn number(self) -> i16 {
        self as i16
    }

    /// Returns whether a version has compact lengths and tagged fields.
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.first_flexible()
    }

    /// Returns whether the header of a response has tagged fields. That of `ApiVersions` never has:
    /// a client reads it before it knows the broker's versions.
    const fn has_flexible_response_header(self, version: i16) -> bool {
        self.is_flexible(version) && !matches!(self, Self::ApiVersions)
    }
}

/// Reads the header of a request and leaves the reader at its body.
///
/// # Errors
///
/// Fails if the bytes are not a header. The tagged fields of a header are read only for APIs and
/// versions that are defined, because others may not have them.
pub fn decode_request_header(reader: &mut MessageReader) -> Result<RequestHeader, DecodeError> {
    let header = RequestHeader {
        api_key: reader.int16()?,
        api_version: reader.int16()?,
        correlation_id: reader.int32()?,
        client_id: reader.nullable_string(false, true)?,
    };
    let defined = ApiKey::from_number(header.api_key).filter(|key| {
        let (first, last) = key.versions();
        (first..=last).contains(&header.api_version)
    });
    if defined.is_some_and(|key| key.is_flexible(header.api_version)) {
        reader.skip_tagged_fields()?;
    }
    Ok(header)
}

/// Returns the frame of a request, with its length.
///
/// # Errors
///
/// Fails if the request cannot be written in this version.
pub fn encode_request<R: KafkaRequest>(
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut writer = MessageWriter::default();
    writer.int16(R::KEY.number());
    writer.int16(version);
    writer.int32(correlation_id);
    writer.nullable_string(client_id, false, true)?;
    if R::KEY.is_flexible(version) {
        writer.unsigned_varint(0);
    }
    request.encode(&mut writer, version)?;
    frame(writer)
}

/// Returns the frame of a response, with its length.
///
/// # Errors
///
/// Fails if the response cannot be written in this version.
pub fn encode_response<M: KafkaMessage>(
    response: &M,
    key: ApiKey,
    version: i16,
    correlation_id: i32,
) -> Result<Vec<Bytes>, EncodeError> {
    let mut writer = MessageWriter::default();
    writer.int32(correlation_id);
    if key.has_flexible_response_header(version) {
        writer.unsigned_varint(0);
    }
    response.encode(&mut writer, version)?;
    frame(writer)
}

/// Puts the length before a message.
fn frame(message: MessageWriter) -> Result<Vec<Bytes>, EncodeError> {
    let length = message.len();
    let length = i32::try_from(length).map_err(|_| EncodeError::TooLong(length))?;
    let mut buffers = vec![Bytes::copy_from_slice(&length.to_be_bytes())];
    buffers.extend(message.finish());
    Ok(buffers)
}
