//! Benchmarks how fast batches are built, validated, stamped and decoded: `cargo bench -p
//! streamhouse-core`. Throughput counts bytes of keys and values for building and decoding, and
//! bytes of the batch for validating and stamping.

#![allow(clippy::expect_used)] // nothing but a benchmark

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use streamhouse_core::batch::{BatchBuilder, BatchLimits, Compression, DecodedRecords, stamp, validate};

const CODECS: [Compression; 2] = [Compression::None, Compression::Lz4];
const VALUE_SIZES: [usize; 2] = [100, 1024];
/// Approximate bytes of the records of a batch.
const BATCH_BYTES: usize = 64 * 1024;

/// Generates values like log lines: half of each is common to all, half is random.
fn test_values(size: usize) -> Vec<Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let common = b"2026-01-01T00:00:00Z INFO order accepted customer=".repeat(size / 50 + 1);
    let value = |random: &mut dyn FnMut() -> [u8; 8]| {
        let mut value = common[..size / 2].to_vec();
        while value.len() < size {
            value.extend_from_slice(&random());
        }
        value.truncate(size);
        value
    };
    (0..BATCH_BYTES / size).map(|_| value(&mut random)).collect()
}

fn fill(builder: &mut BatchBuilder, values: &[Vec<u8>]) {
    for (timestamp, value) in (1_700_000_000_000..).zip(values) {
        let added = builder.append::<&[u8], &[u8]>(timestamp, Some(&value[..8]), Some(value), &[]);
        black_box(added).expect("the record fits");
    }
}

fn build_batch(codec: Compression, values: &[Vec<u8>]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    fill(&mut builder, values);
    builder.finish().expect("the batch is not empty")
}

fn bench_batches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for size in VALUE_SIZES {
        let values = test_values(size);
        for codec in CODECS {
            let name = |what: &str| BenchmarkId::new(format!("{what}/{codec}"), size);
            let mut builder = BatchBuilder::new(codec);
            group.throughput(Throughput::ElementsAndBytes {
                elements: values.len() as u64,
                bytes: (values.len() * size) as u64,
            });
            group.bench_function(name("encode"), |bencher| {
                bencher.iter(|| {
                    fill(&mut builder, &values);
                    builder.finish().expect("the batch is not empty")
                });
            });
            let encoded = build_batch(codec, &values);
            group.bench_function(name("decode"), |bencher| {
                bencher.iter(|| {
                    let records =
                        DecodedRecords::decode(encoded.clone(), 1 << 24).expect("the batch is whole");
                    records
                        .map(|record| record.map_or(0, |record| record.value.map_or(0, |v| v.len())))
                        .sum::<usize>()
                });
            });
            group.bench_function(name("views"), |bencher| {
                bencher.iter(|| {
                    let records =
                        DecodedRecords::decode(encoded.clone(), 1 << 24).expect("the batch is whole");
                    records
                        .views()
                        .map(|record| record.map_or(0, |record| record.value.map_or(0, <[u8]>::len)))
                        .sum::<usize>()
                });
            });
            group.throughput(Throughput::ElementsAndBytes {
                elements: values.len() as u64,
                bytes: encoded.len() as u64,
            });
            let limits = BatchLimits {
                max_batch_bytes: 1 << 24,
            };
            group.bench_function(name("validate"), |bencher| {
                bencher.iter(|| validate(black_box(&encoded), &limits))
            });
            group.bench_function(name("stamp"), |bencher| {
                let fresh = || encoded.to_vec();
                bencher.iter_batched_ref(
                    fresh,
                    |batch| stamp(black_box(batch), 42, 7),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench_batches);
criterion_main!(benches);
