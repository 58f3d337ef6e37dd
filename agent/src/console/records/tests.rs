//! Limits of a page, damaged batches, and the start of the next page, without an agent.

use streamhouse_core::batch::{BatchBuilder, Compression, stamp};

use super::*;

const ENOUGH: PageBudget = PageBudget {
    limit: 100,
    read: MAX_READ_BYTES,
    unpacked: MAX_UNPACKED_BYTES,
    shown: MAX_CONTENT_BYTES,
};

fn page(from: i64) -> RecordPage {
    RecordPage {
        topic: "orders".to_owned(),
        partition: 0,
        log_start_offset: 0,
        high_watermark: 1000,
        from,
        next: from,
        records: Vec::new(),
        unreadable: Vec::new(),
        stopped: None,
    }
}

/// Builds a batch of these values whose first offset is `base`.
fn batch(base: i64, values: &[&[u8]]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.append::<&str, &str>(0, None, Some(value), &[]).unwrap();
    }
    let mut bytes = builder.finish().unwrap().to_vec();
    stamp(&mut bytes, base, 0);
    bytes
}

fn offsets(page: &RecordPage) -> Vec<i64> {
    page.records.iter().map(|record| record.offset).collect()
}

#[test]
fn a_page_begins_and_ends_within_batches() {
    let bytes = Bytes::from([batch(10, &[b"a", b"b", b"c"]), batch(13, &[b"d", b"e"])].concat());
    let (mut page, mut budget) = (page(11), PageBudget { limit: 3, ..ENOUGH });
    assert!(page.add_batches(&mut budget, &bytes));
    assert_eq!((offsets(&page), page.next), (vec![11, 12, 13], 14));
    let mut budget = ENOUGH;
    assert!(!page.add_batches(&mut budget, &bytes), "there is room for more");
    assert_eq!((offsets(&page), page.next), (vec![11, 12, 13, 14], 15));
}

#[test]
fn a_damaged_batch_is_named_and_what_follows_is_shown() {
    let mut damaged = batch(0, &[b"a", b"b"]);
    let at = damaged.len() - 1;
    damaged[at] = 0xff;
    let bytes = Bytes::from([damaged, batch(2, &[b"c"])].concat());
    let (mut page, mut budget) = (page(0), ENOUGH);
    page.add_batches(&mut budget, &bytes);
    assert_eq!((offsets(&page), page.next), (vec![0, 2], 3));
    let told: Vec<_> = page.unreadable.iter().map(|part| (part.from, part.to)).collect();
    assert_eq!((told, page.stopped), (vec![(1, 2)], None));
}

#[test]
fn bytes_that_are_no_batch_stop_the_page() {
    let bytes = Bytes::from([batch(0, &[b"a"]), vec![0xff; 100]].concat());
    let (mut page, mut budget) = (page(0), ENOUGH);
    assert!(page.add_batches(&mut budget, &bytes));
    assert_eq!(
        (offsets(&page), page.stopped),
        (vec![0], Some(StopReason::Damage))
    );
    assert_eq!(page.unreadable[0].from, 1);
}

#[test]
fn contents_and_reading_are_bounded() {
    let value = [b'x'; 1000];
    let batches: Vec<Vec<u8>> = (0..10).map(|base| batch(base, &[&value])).collect();
    let bytes = Bytes::from(batches.concat());
    let (mut shown, mut budget) = (
        page(0),
        PageBudget {
            shown: 2500,
            ..ENOUGH
        },
    );
    assert!(shown.add_batches(&mut budget, &bytes));
    assert_eq!(offsets(&shown), [0, 1, 2], "the third is begun and shown whole");
    let (mut read, mut budget) = (page(0), PageBudget { read: 3000, ..ENOUGH });
    assert!(
        read.add_batches(&mut budget, &bytes),
        "no more is read once it is used up"
    );
    let (mut unpacked, mut budget) = (
        page(0),
        PageBudget {
            unpacked: 2500,
            ..ENOUGH
        },
    );
    assert!(unpacked.add_batches(&mut budget, &bytes));
    assert_eq!((offsets(&unpacked), unpacked.next), (vec![0, 1], 2));
    assert!(unpacked.unreadable.is_empty(), "it fits into the next page");
}
