//! Random messages as bytes, written from the definitions.

#[path = "../../../build/kafka/parse.rs"]
#[allow(dead_code)]
mod parse;

use std::{fs, path::Path};

pub(super) use self::parse::ApiDefinition;
use self::parse::{FieldDefinition, FieldType, VersionRange};

/// Reads the definitions that the messages were generated from.
pub(super) fn definitions() -> Vec<ApiDefinition> {
    // Other crates use this file as well.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/kafka");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| parse::api(&fs::read_to_string(path).unwrap()).unwrap())
        .collect()
}

/// Returns whether a message exists in a version.
fn contains(versions: VersionRange, version: i16) -> bool {
    (versions.first..=versions.last).contains(&version)
}

/// A source of numbers that are the same for a seed.
pub(super) struct SampleSource(pub(super) u64);

impl SampleSource {
    pub(super) fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Values that mean something to a broker.
#[derive(Clone, Copy)]
pub(super) struct SampleVocabulary<'a> {
    pub(super) words: &'a [&'a str],
    pub(super) records: &'a [u8],
}

/// Writes a message with random values.
pub(super) struct SampleWriter<'a> {
    pub(super) api: &'a ApiDefinition,
    pub(super) version: i16,
    pub(super) source: &'a mut SampleSource,
    pub(super) vocabulary: Option<SampleVocabulary<'a>>,
    pub(super) bytes: Vec<u8>,
}

impl<'a> SampleWriter<'a> {
    pub(super) fn new(api: &'a ApiDefinition, version: i16, source: &'a mut SampleSource) -> Self {
        Self {
            api,
            version,
            source,
            vocabulary: None,
            bytes: Vec::new(),
        }
    }

    /// Returns a random number; mostly a small one where values mean something.
    fn number(&mut self) -> u64 {
        let number = self.source.next();
        match self.vocabulary {
            Some(_) if number % 8 < 6 => (number >> 8) % 4,
            Some(_) if number % 8 == 6 => u64::MAX,
            _ => number,
        }
    }

    fn text(&mut self, kind: &str) -> Vec<u8> {
        let word = self.source.next() as usize;
        match self.vocabulary {
            Some(vocabulary) if kind == "records" => vocabulary.records.to_vec(),
            Some(SampleVocabulary { words, .. }) => words[word % words.len()].into(),
            None => "zürich-".repeat(word % 40).into_bytes(),
        }
    }

    fn flexible(&self) -> bool {
        contains(self.api.flexible, self.version)
    }

    /// Writes the fields of a struct.
    pub(super) fn structure(&mut self, name: &str) {
        let api = self.api;
        let definition = api.structs.iter().find(|known| known.name == name).unwrap();
        let present = |field: &&FieldDefinition| contains(field.versions, self.version);
        let present: Vec<&FieldDefinition> = definition.fields.iter().filter(present).collect();
        for field in present.iter().filter(|field| field.tag.is_none()) {
            self.field(field);
        }
        if !self.flexible() {
            return;
        }
        let tagged: Vec<_> = present.iter().filter(|field| field.tag.is_some()).collect();
        self.varint(tagged.len() as u64);
        for field in tagged {
            let outer = std::mem::take(&mut self.bytes);
            self.field(field);
            let content = std::mem::replace(&mut self.bytes, outer);
            self.varint(field.tag.unwrap().into());
            self.varint(content.len() as u64);
            self.bytes.extend(content);
        }
    }

    fn field(&mut self, field: &FieldDefinition) {
        let nullable = field
            .nullable
            .is_some_and(|versions| contains(versions, self.version));
        let null = nullable && self.source.below(4) == 0;
        match &field.kind {
            FieldType::Struct(name) => {
                if field.nullable.is_some() {
                    self.bytes.push(if null { 0xff } else { 1 });
                }
                if !null {
                    self.structure(name);
                }
            }
            kind => self.value(kind, null),
        }
    }

    fn value(&mut self, kind: &FieldType, null: bool) {
        let number = self.number();
        match kind {
            FieldType::Struct(name) => self.structure(name),
            FieldType::Array(element) => {
                let count = self.source.below(4);
                self.length((!null).then_some(count), false);
                if !null {
                    (0..count).for_each(|_| self.value(element, false));
                }
            }
            FieldType::Scalar(kind) => match kind.as_str() {
                "bool" => self.bytes.push((number % 2) as u8),
                "int8" => self.bytes.push(number as u8),
                "int16" => self.bytes.extend((number as i16).to_be_bytes()),
                "int32" => self.bytes.extend((number as i32).to_be_bytes()),
                "int64" | "float64" => self.bytes.extend((number as i64).to_be_bytes()),
                "uuid" if self.vocabulary.is_some() => self.bytes.extend([0; 16]),
                "uuid" => self
                    .bytes
                    .extend([number.to_be_bytes(), number.to_le_bytes()].concat()),
                kind => {
                    let text = self.text(kind);
                    self.length((!null).then_some(text.len() as u64), kind == "string");
                    if !null {
                        self.bytes.extend(text);
                    }
                }
            },
        }
    }

    fn length(&mut self, length: Option<u64>, short: bool) {
        let signed = length.map_or(-1, |length| length as i32);
        if self.flexible() {
            self.varint(length.map_or(0, |length| length + 1));
        } else if short {
            self.bytes.extend((signed as i16).to_be_bytes());
        } else {
            self.bytes.extend(signed.to_be_bytes());
        }
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}
