//! Tests LZ4 frames against another implementation, `lz4_flex`'s own, and against damage.

use std::io::{Read as _, Write as _};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use proptest::prelude::*;

use super::*;

/// Generates bytes that are compressible in places.
fn any_content() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0_usize..70_000).prop_map(|(byte, count)| vec![byte; count]),
        (prop::collection::vec(any::<u8>(), 1..40), 1_usize..3000)
            .prop_map(|(unit, count)| unit.repeat(count)),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

fn any_frame_info() -> impl Strategy<Value = FrameInfo> {
    let sizes = prop_oneof![
        Just(BlockSize::Max64KB),
        Just(BlockSize::Max256KB),
        Just(BlockSize::Max1MB),
        Just(BlockSize::Max4MB)
    ];
    (sizes, any::<[bool; 3]>()).prop_map(|(size, [linked, block_checksums, content_checksum])| {
        FrameInfo::new()
            .block_size(size)
            .block_mode(if linked {
                BlockMode::Linked
            } else {
                BlockMode::Independent
            })
            .block_checksums(block_checksums)
            .content_checksum(content_checksum)
    })
}

fn compress(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Lz4Compressor::new().compress(content, &mut out).unwrap();
    out
}

fn decompress_to_vec(frame: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let mut out = Vec::new();
    let written = decompress(frame, limit, &mut out)?;
    out.truncate(written);
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn frames_read_back_here_and_there(content in any_content()) {
        let frame = compress(&content);
        prop_assert_eq!(&decompress_to_vec(&frame, content.len()).unwrap(), &content);
        let mut there = Vec::new();
        FrameDecoder::new(&frame[..]).read_to_end(&mut there).unwrap();
        prop_assert_eq!(there, content);
    }

    #[test]
    fn frames_of_any_flags_are_read(content in any_content(), info in any_frame_info(), sized: bool) {
        let info = if sized { info.content_size(Some(content.len() as u64)) } else { info };
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&content).unwrap();
        let frame = encoder.finish().unwrap();
        prop_assert_eq!(decompress_to_vec(&frame, content.len()).unwrap(), content);
    }

    #[test]
    fn less_room_than_needed_is_an_error(content in any_content(), less in 1_usize..1000) {
        prop_assume!(content.len() >= less);
        let limit = content.len() - less;
        prop_assert_eq!(decompress_to_vec(&compress(&content), limit), Err(BatchError::DecompressedTooLarge(limit)));
    }

    #[test]
    fn damage_is_an_error_or_content_within_bounds(
        content in any_content(), info in any_frame_info(), flips in prop::collection::vec((any::<u16>(), 1_u8..), 1..5), cut: u16,
    ) {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&content).unwrap();
        let mut frame = encoder.finish().unwrap();
        for (at, flip) in flips {
            let at = at as usize % frame.len();
            frame[at] ^= flip;
        }
        frame.truncate(frame.len() - cut as usize % frame.len() / 4);
        let mut out = Vec::new();
        let _ = decompress(&frame, 1 << 20, &mut out);
        prop_assert!(out.len() <= (1 << 20).min(frame.len() * MAX_RATIO));
    }
}

#[test]
fn the_head_is_kafkas() {
    assert_eq!(
        compress(b"")[..],
        [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82, 0, 0, 0, 0]
    );
}

#[test]
fn a_small_frame_that_claims_large_blocks_gets_little_room() {
    let mut frame = MAGIC.to_vec();
    frame.extend_from_slice(&[0x60, 0x70]);
    frame.push((xxhash(&frame[4..]) >> 8) as u8);
    frame.extend_from_slice(&[3, 0, 0, 0, 0x10, b'a', 0xff]);
    let mut out = Vec::new();
    assert!(decompress(&frame, 1 << 30, &mut out).is_err());
    assert!(out.len() <= 3 * MAX_RATIO);
}
