//! Messages of the Kafka protocol: requests and responses by API and version.
//!
//! The definitions are the files in `core/kafka`; the build script generates a struct for each
//! message and type. Decoding takes records and bytes as slices of the frame and never allocates
//! more than a multiple of the frame's length, whatever counts the frame claims. Encoding gives a
//! list of buffers in which records are not copied.

mod buffers;
mod error_names;
mod header;
mod messages;
mod reader;
mod writer;

pub use buffers::{RecordBuffers, SecretBytes};
pub use error_names::error_name;
pub use header::{RequestHeader, decode_request_header, encode_request, encode_response};
pub use messages::*;
pub use reader::{DecodeError, MessageReader};
pub use writer::{EncodeError, MessageWriter};

/// A request, a response or a part of one.
pub trait KafkaMessage: Sized {
    /// Reads the message in a version of its API.
    ///
    /// # Errors
    ///
    /// Fails if the bytes are not such a message.
    fn decode(reader: &mut MessageReader, version: i16) -> Result<Self, DecodeError>;

    /// Writes the message in a version of its API. Fields that the version does not have are left
    /// out.
    ///
    /// # Errors
    ///
    /// Fails if a text or a list is longer than the version can express.
    fn encode(&self, writer: &mut MessageWriter, version: i16) -> Result<(), EncodeError>;

    /// Calls `visit` with every error code of a response, in the order of its fields; 0 is no
    /// error.
    fn visit_error_codes(&self, _visit: &mut dyn FnMut(i16)) {}

    /// Returns how long a response tells its client to be throttled, in milliseconds.
    fn throttle_time_ms(&self) -> i32 {
        0
    }

    /// Sets how long a response tells its client to be throttled, in milliseconds; does nothing if
    /// the response cannot say it.
    fn set_throttle_time_ms(&mut self, _throttle_time_ms: i32) {}
}

/// A request with its response.
pub trait KafkaRequest: KafkaMessage {
    /// The API.
    const KEY: ApiKey;
    /// The answer.
    type Response: KafkaMessage;
}

#[cfg(test)]
mod tests;
