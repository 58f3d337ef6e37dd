//! What the members of the group printed: lines `partition offset value`, compared with the offsets
//! that the producer reported.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, bail, ensure};

/// A partition and an offset.
type RecordPlace = (u32, u64);

/// The records that all members read.
#[derive(Debug, Default)]
pub(super) struct ReadBack {
    values: BTreeMap<RecordPlace, Vec<u8>>,
}

impl ReadBack {
    /// Adds the output of a member. Returns how much it read, in words.
    ///
    /// # Errors
    ///
    /// Fails if a line has no partition and offset, if a record was read twice, or if nothing was
    /// read.
    pub(super) fn add_member(&mut self, output: &[u8]) -> anyhow::Result<String> {
        let mut partitions = BTreeSet::new();
        let mut count = 0_usize;
        for line in output.split_inclusive(|byte| *byte == b'\n') {
            let (place, value) = parse_record(line)
                .with_context(|| format!("a member printed: {}", String::from_utf8_lossy(line)))?;
            let before = self.values.insert(place, value.to_owned());
            ensure!(
                before.is_none(),
                "offset {} of partition {} was read twice",
                place.1,
                place.0
            );
            partitions.insert(place.0);
            count += 1;
        }
        ensure!(count > 0, "a member read nothing");
        let partitions: Vec<String> = partitions.iter().map(u32::to_string).collect();
        Ok(format!("{count} records of partitions {}", partitions.join(",")))
    }

    /// Returns the number of records.
    pub(super) fn count(&self) -> usize {
        self.values.len()
    }

    /// Fails unless the offsets of each partition begin with 0 and have no gap.
    ///
    /// # Errors
    ///
    /// Fails with the first gap.
    pub(super) fn check_offsets(&self) -> anyhow::Result<()> {
        let mut next = BTreeMap::new();
        for (partition, offset) in self.values.keys() {
            let expected = next.entry(partition).or_insert(0_u64);
            if offset != expected {
                bail!(
                    "the offsets are not gap-free: partition {partition} has offset {offset} where {expected} belongs"
                );
            }
            *expected += 1;
        }
        Ok(())
    }

    /// Returns the values in the order of the lines that the producer printed:
    /// `topic-partition@offset`.
    ///
    /// # Errors
    ///
    /// Fails if a record was stored that no member read.
    pub(super) fn arrange(&self, stored: &str) -> anyhow::Result<Vec<u8>> {
        let mut output = Vec::new();
        for line in stored.lines() {
            let place = parse_stored(line).with_context(|| format!("the producer printed: {line}"))?;
            let value = self.values.get(&place);
            output.extend(value.with_context(|| format!("no member read {line}"))?);
        }
        Ok(output)
    }
}

/// Counts line feeds.
pub(super) fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

/// The value keeps its line feed.
fn parse_record(line: &[u8]) -> Option<(RecordPlace, &[u8])> {
    let mut fields = line.splitn(3, |byte| *byte == b' ');
    let partition = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let offset = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    Some(((partition, offset), fields.next()?))
}

fn parse_stored(line: &str) -> Option<RecordPlace> {
    let (_, place) = line.rsplit_once('-')?;
    let (partition, offset) = place.split_once('@')?;
    Some((partition.parse().ok()?, offset.trim_end().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_back(members: &[&str]) -> ReadBack {
        let mut read_back = ReadBack::default();
        for member in members {
            read_back.add_member(member.as_bytes()).unwrap();
        }
        read_back
    }

    #[test]
    fn lines_are_arranged_as_they_were_produced() {
        let read_back = read_back(&["0 0 tea  and milk\n0 1 \n", "1 0 -@ \n"]);
        read_back.check_offsets().unwrap();
        let stored = "real-input-1@0\nreal-input-0@0\nreal-input-0@1\n";
        assert_eq!(read_back.arrange(stored).unwrap(), b"-@ \ntea  and milk\n\n");
        read_back.arrange("real-input-0@2\n").unwrap_err();
    }

    #[test]
    fn gaps_are_found_in_each_partition() {
        let gap = read_back(&["0 0 a\n0 2 b\n"]).check_offsets().unwrap_err();
        assert!(
            gap.to_string()
                .ends_with("partition 0 has offset 2 where 1 belongs")
        );
        read_back(&["1 1 a\n"]).check_offsets().unwrap_err();
    }

    #[test]
    fn a_record_that_two_members_read_is_refused() {
        let mut read_back = read_back(&["0 0 a\n"]);
        assert_eq!(
            read_back.add_member(b"2 0 a\n1 0 b\n").unwrap(),
            "2 records of partitions 1,2"
        );
        read_back.add_member(b"0 0 a\n").unwrap_err();
        read_back.add_member(b"").unwrap_err();
        read_back.add_member(b"no place\n").unwrap_err();
    }
}
