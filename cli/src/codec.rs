//! [`CodecArg`]: the option `--compression` of commands that produce records.

use clap::ValueEnum;
use streamhouse_client::producer::Compression;

/// Codecs that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodecArg {
    /// LZ4
    Lz4,
    /// Uncompressed
    None,
    /// gzip
    Gzip,
    /// Snappy
    Snappy,
}

impl From<CodecArg> for Compression {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::Lz4 => Self::Lz4,
            CodecArg::None => Self::None,
            CodecArg::Gzip => Self::Gzip,
            CodecArg::Snappy => Self::Snappy,
        }
    }
}
