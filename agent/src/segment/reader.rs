//! Reads segments through the block cache: the index with one suffix read, then the requested
//! blocks. Called by fetch. The CRC of every block is checked before it is returned.

use std::ops::Range;

use bytes::Bytes;

use super::{
    format::SegmentError,
    index::{SUFFIX_LEN, SegmentBlock, SegmentIndex},
};
use crate::store::{
    StoreError,
    blocks::{BlockCache, CachedBlocks},
};

/// Bytes read ahead of a consumer that catches up.
const READ_AHEAD_BYTES: u64 = 4 << 20;
/// Minimum size of a read for its consumer to count as catching up.
pub const CATCH_UP_MIN_BYTES: usize = 256 * 1024;

/// Why a segment could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SegmentReadError {
    /// The store failed; [`StoreError::is_retryable`] says whether to try again.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The segment is damaged.
    #[error(transparent)]
    Segment(#[from] SegmentError),
}

/// Reads the index of the segment `key` of `size` bytes.
///
/// # Errors
/// Fails if the store does or the index is damaged.
pub async fn read_index(blocks: &BlockCache, key: &str, size: u64) -> Result<SegmentIndex, SegmentReadError> {
    match parse_index(blocks, key, size, SUFFIX_LEN).await {
        Err(SegmentReadError::Segment(SegmentError::SuffixTooShort { needed })) => {
            parse_index(blocks, key, size, needed).await
        }
        index => index,
    }
}

async fn parse_index(
    blocks: &BlockCache,
    key: &str,
    size: u64,
    suffix: u64,
) -> Result<SegmentIndex, SegmentReadError> {
    let range = size.saturating_sub(suffix)..size;
    read_checked(blocks, key, size, &range, |bytes| {
        SegmentIndex::parse(bytes, size)
    })
    .await
}

/// Reads `range` and validates it with `check`. Bytes damaged on their way into the cache are read
/// once more; damage in the store remains.
async fn read_checked<T>(
    blocks: &BlockCache,
    key: &str,
    size: u64,
    range: &Range<u64>,
    check: impl Fn(&Bytes) -> Result<T, SegmentError>,
) -> Result<T, SegmentReadError> {
    match check(&blocks.read(key, Some(size), range.clone()).await?) {
        Err(error @ SegmentError::SuffixTooShort { .. }) => Err(error.into()),
        Err(error) => {
            tracing::warn!(key, ?range, %error, "damaged bytes; reading them once more");
            blocks.invalidate(key, range.clone());
            Ok(check(&blocks.read(key, Some(size), range.clone()).await?)?)
        }
        sound => Ok(sound?),
    }
}

/// The location of requested batches in a segment: consecutive blocks.
#[derive(Debug)]
pub struct LocatedBlocks {
    /// The offsets of the first block.
    pub first: Range<i64>,
    wanted: Vec<SegmentBlock>,
    range: Range<u64>,
    data_end: u64,
}

impl LocatedBlocks {
    /// Returns the total length of the blocks in bytes.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX)
    }
}

/// Locates about `room` bytes from the batch with `offset` on, at least one whole batch; `None` if
/// `offset` lies outside the segment.
///
/// # Errors
/// Fails if the index cannot be read.
pub async fn locate_blocks(
    blocks: &BlockCache,
    key: &str,
    size: u64,
    offset: i64,
    room: usize,
) -> Result<Option<LocatedBlocks>, SegmentReadError> {
    let index = read_index(blocks, key, size).await?;
    let Some(first) = index.locate(offset) else {
        return Ok(None);
    };
    let wanted = blocks_from(&index, first, room);
    let (Some(start), Some(end)) = (
        wanted.first().map(SegmentBlock::range),
        wanted.last().map(SegmentBlock::range),
    ) else {
        return Ok(None);
    };
    let behind = index.block(first + 1).map(|block| block.base_offset);
    let first = wanted.first().map_or(offset, |block| block.base_offset);
    Ok(Some(LocatedBlocks {
        first: first..behind.unwrap_or(index.footer().end_offset),
        range: start.start..end.end,
        data_end: index.footer().index_position,
        wanted,
    }))
}

/// Reads the located blocks and checks their CRCs. Each contains whole batches; the first block may
/// begin before the requested offset. Reads ahead for a consumer that catches up.
///
/// # Errors
/// Fails if the first block is damaged or the store fails; blocks before a later damaged one are
/// returned.
pub async fn read_blocks(
    blocks: &BlockCache,
    key: &str,
    size: u64,
    located: &LocatedBlocks,
) -> Result<Vec<Bytes>, SegmentReadError> {
    let LocatedBlocks {
        wanted,
        range,
        data_end,
        ..
    } = located;
    let sound = |pieces: &CachedBlocks| {
        let cut = |block: &SegmentBlock| -> Result<Bytes, SegmentError> {
            let bytes = pieces.slice(&block.range());
            let bytes = bytes.ok_or(SegmentError::Truncated("a block is missing"))?;
            block.check(&bytes)?;
            Ok(bytes)
        };
        let mut sound = Vec::with_capacity(wanted.len());
        for block in wanted {
            match cut(block) {
                Ok(bytes) => sound.push(bytes),
                Err(error) => return (sound, Some(error)),
            }
        }
        (sound, None)
    };
    let (mut read, mut damage) = sound(&blocks.read_blocks(key, Some(size), range.clone()).await?);
    if let Some(error) = damage {
        tracing::warn!(key, ?range, %error, "damaged bytes; reading them once more");
        blocks.invalidate(key, range.clone());
        (read, damage) = sound(&blocks.read_blocks(key, Some(size), range.clone()).await?);
    }
    if let Some(error) = damage
        && read.is_empty()
    {
        return Err(error.into());
    }
    if located.bytes() >= CATCH_UP_MIN_BYTES {
        blocks.prefetch(
            key,
            Some(size),
            range.end..range.end.saturating_add(READ_AHEAD_BYTES).min(*data_end),
        );
    }
    Ok(read)
}

/// Returns an offset from which to search for the first record at or after `timestamp`: no such
/// record lies before it. Returns the end offset of the segment if there is none.
///
/// # Errors
/// Fails if the index cannot be read.
pub async fn seek_timestamp(
    blocks: &BlockCache,
    key: &str,
    size: u64,
    timestamp: i64,
) -> Result<i64, SegmentReadError> {
    let index = read_index(blocks, key, size).await?;
    let block = index
        .locate_timestamp(timestamp)
        .and_then(|number| index.block(number));
    Ok(block.map_or(index.footer().end_offset, |block| block.base_offset))
}

/// Selects the blocks from `first` on that contain `room` bytes after the first one, of which
/// little may be needed.
fn blocks_from(index: &SegmentIndex, first: usize, room: usize) -> Vec<SegmentBlock> {
    let mut wanted = Vec::new();
    let mut more = room as u64;
    while let Some(block) = index.block(first + wanted.len()) {
        let length = u64::from(block.length);
        // Does not include a block that is larger than the requested size.
        if !wanted.is_empty() && (more == 0 || (length > more && length > super::BLOCK_SIZE as u64 * 2)) {
            break;
        }
        more = if wanted.is_empty() {
            more
        } else {
            more.saturating_sub(length)
        };
        wanted.push(block);
    }
    wanted
}
