//! Damages valid frames where decoders are easily wrong: lengths, counts, ends.

use std::{env, fs, path::Path};

use super::sample::SampleSource;

/// Numbers at which lengths and counts change their meaning.
const EDGES: [i64; 14] = [
    -1,
    0,
    1,
    0x7f,
    0x80,
    0x3fff,
    0x7ffe,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_fffe,
    0x7fff_ffff,
    -0x8000_0000,
    -0x7fff_ffff_ffff_ffff,
];

/// Damages bytes in one to four ways; `other` is what parts are taken from.
pub(super) fn mutate(bytes: &mut Vec<u8>, other: &[u8], source: &mut SampleSource) {
    for _ in 0..=source.below(4) {
        mutate_once(bytes, other, source);
    }
}

fn mutate_once(bytes: &mut Vec<u8>, other: &[u8], source: &mut SampleSource) {
    let place = source.below(bytes.len() as u64 + 1) as usize;
    let end = (place + 1 + source.below(8) as usize).min(bytes.len());
    let edge = EDGES[source.below(EDGES.len() as u64) as usize];
    match source.below(10) {
        0 | 1 if place < bytes.len() => bytes[place] ^= 1 << source.below(8),
        2 if place < bytes.len() => bytes[place] = source.next() as u8,
        3 => bytes.truncate(place),
        4 => drop(bytes.drain(place..end)),
        5 => overwrite(bytes, place, &(edge as i16).to_be_bytes()),
        6 => overwrite(bytes, place, &(edge as i32).to_be_bytes()),
        7 => {
            // A number of variable length, with more bytes than it needs now and then.
            let mut varint = varint(edge as u32);
            if source.below(4) == 0 {
                *varint.last_mut().unwrap() |= 0x80;
                varint.push(0);
            }
            bytes.splice(place..(place + 1).min(bytes.len()), varint);
        }
        8 => {
            let repeated = bytes[place..end].repeat(1 + source.below(4) as usize);
            bytes.splice(place..place, repeated);
        }
        _ => {
            let from = source.below(other.len() as u64 + 1) as usize;
            bytes.splice(place.., other[from..].iter().copied());
        }
    }
}

fn overwrite(bytes: &mut [u8], place: usize, with: &[u8]) {
    for (byte, with) in bytes[place..].iter_mut().zip(with) {
        *byte = *with;
    }
}

fn varint(mut value: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Returns the frames of the corpus, without their lengths, with the names of their files.
pub(super) fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/src/kafka/tests/corpus");
    let mut frames = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let digits: String = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| line.chars().filter(|digit| !digit.is_whitespace()))
            .collect();
        let bytes = (0..digits.len()).step_by(2);
        let bytes = bytes.map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        frames.push((name, bytes.collect()));
    }
    frames.sort();
    frames
}

/// The seeds of a run: those that the environment names, or new ones for some seconds.
pub(super) struct FuzzPlan {
    /// One case to repeat.
    pub(super) seed: Option<u64>,
    pub(super) seconds: u64,
}

impl FuzzPlan {
    /// Reads `STREAMHOUSE_TEST_FUZZ_SEED` and `STREAMHOUSE_TEST_FUZZ_SECONDS`.
    pub(super) fn from_environment(seconds: u64) -> Self {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse().unwrap());
        Self {
            seed: number("STREAMHOUSE_TEST_FUZZ_SEED"),
            seconds: number("STREAMHOUSE_TEST_FUZZ_SECONDS").unwrap_or(seconds),
        }
    }
}

/// Says how to repeat a case when it fails.
pub(super) struct FuzzCase(pub(super) u64);

impl Drop for FuzzCase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("to repeat this case: STREAMHOUSE_TEST_FUZZ_SEED={}", self.0);
        }
    }
}
