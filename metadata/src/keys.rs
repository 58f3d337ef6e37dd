//! The keys of objects in the object store: the only place that builds and parses them.
//!
//! WAL keys consist of an incarnation and a sequence, never an offset, so that no two agents can
//! choose the same one. Segment keys are readable for people and tools.

use streamhouse_core::{Incarnation, ids::topic_name_problem};

/// The prefix of every WAL key.
pub const WAL_PREFIX: &str = "_wal/";

/// Returns `_wal/<incarnation>/<sequence>`, the sequence with 20 digits so that keys sort by age.
pub fn wal_key(incarnation: Incarnation, sequence: u64) -> String {
    format!("{WAL_PREFIX}{incarnation}/{sequence:020}")
}

/// Returns the prefix of the keys of one incarnation, including the slash.
pub fn wal_prefix(incarnation: Incarnation) -> String {
    format!("{WAL_PREFIX}{incarnation}/")
}

/// Parses the incarnation and sequence of a WAL key; `None` for anything that [`wal_key`] does not
/// return.
pub fn parse_wal_key(key: &str) -> Option<(Incarnation, u64)> {
    let (incarnation, sequence) = key.strip_prefix(WAL_PREFIX)?.split_once('/')?;
    let parsed = (Incarnation(incarnation.parse().ok()?), sequence.parse().ok()?);
    (wal_key(parsed.0, parsed.1) == key).then_some(parsed)
}

/// Parses the incarnation and sequence of a WAL key whose object can have a row; see
/// [`parse_wal_key`].
pub(crate) fn parse_stored_wal_key(key: &str) -> Option<(i64, i64)> {
    let (incarnation, sequence) = parse_wal_key(key)?;
    Some((incarnation.0, i64::try_from(sequence).ok()?))
}

/// Returns the folder for the `uses`-th use of a topic name: the name itself for the first one,
/// then `{name}@2`, `{name}@3` and so on. A topic name has no `@`, so all folders are distinct.
pub fn topic_folder(name: &str, uses: u64) -> String {
    if uses <= 1 {
        name.to_owned()
    } else {
        format!("{name}@{uses}")
    }
}

/// Parses the topic name and the number of the use of a folder; `None` for anything that
/// [`topic_folder`] does not return.
pub fn parse_topic_folder(folder: &str) -> Option<(&str, u64)> {
    let parsed = match folder.split_once('@') {
        None => (folder, 1),
        Some((name, uses)) => (name, uses.parse().ok()?),
    };
    let legal = topic_name_problem(parsed.0).is_none();
    (legal && topic_folder(parsed.0, parsed.1) == folder).then_some(parsed)
}

/// Returns `{folder}/{partition}/segment_{base_offset}.dat`, the offset with at least ten digits.
/// The folder belongs to one topic only; see [`topic_folder`].
pub fn segment_key(folder: &str, partition: i32, base_offset: i64) -> String {
    format!("{folder}/{partition}/segment_{base_offset:010}.dat")
}

/// Parses the folder, partition and base offset of a segment key; `None` for anything that
/// [`segment_key`] does not return.
pub fn parse_segment_key(key: &str) -> Option<(&str, i32, i64)> {
    let (folder, rest) = key.split_once('/')?;
    let (partition, file) = rest.split_once('/')?;
    let offset = file.strip_prefix("segment_")?.strip_suffix(".dat")?;
    let parsed = (folder, partition.parse().ok()?, offset.parse().ok()?);
    let (folder, partition, offset) = parsed;
    let legal = parse_topic_folder(folder).is_some() && partition >= 0 && offset >= 0;
    (legal && segment_key(folder, partition, offset) == key).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_keys_lead_back_to_their_parts() {
        for (incarnation, sequence) in [(1, 0), (42, 7), (i64::MAX, u64::MAX)] {
            let key = wal_key(Incarnation(incarnation), sequence);
            assert!(key.starts_with(&wal_prefix(Incarnation(incarnation))));
            assert_eq!(parse_wal_key(&key), Some((Incarnation(incarnation), sequence)));
        }
        assert_eq!(wal_key(Incarnation(3), 9), "_wal/0000000003/00000000000000000009");
    }

    #[test]
    fn nothing_else_is_taken_for_a_wal_key() {
        for other in [
            "",
            "_wal/",
            "_wal/3/9",
            "_wal/0000000003/9",
            "orders/0/segment_0000001000.dat",
            "_wal/x/y",
            "_wal/0000000003/00000000000000000009/",
        ] {
            assert_eq!(parse_wal_key(other), None, "{other}");
        }
    }

    #[test]
    fn segment_keys_are_the_contracts() {
        assert_eq!(segment_key("orders", 0, 1000), "orders/0/segment_0000001000.dat");
        assert_eq!(
            segment_key("orders", 12, 12_345_678_901),
            "orders/12/segment_12345678901.dat"
        );
    }

    #[test]
    fn segment_keys_lead_back_to_their_parts() {
        for parts in [
            ("orders", 0, 1000),
            ("a.b-c_d", i32::MAX, i64::MAX),
            ("orders@2", 0, 0),
            ("orders@18446744073709551615", 0, 0),
        ] {
            assert_eq!(
                parse_segment_key(&segment_key(parts.0, parts.1, parts.2)),
                Some(parts)
            );
        }
        for other in [
            "",
            "orders/0/segment_1000.dat",
            "orders/00/segment_0000001000.dat",
            "orders/-1/segment_0000001000.dat",
            "orders/0/segment_-000001000.dat",
            "orders/0/segment_0000001000.data",
            "orders/0/0/segment_0000001000.dat",
            "prod/orders/0/segment_0000001000.dat",
            "not a topic/0/segment_0000001000.dat",
            "_wal/0/segment_0000001000.dat",
            "/0/segment_0000001000.dat",
            "orders@/0/segment_0000001000.dat",
            "orders@0/0/segment_0000001000.dat",
            "orders@1/0/segment_0000001000.dat",
            "orders@02/0/segment_0000001000.dat",
            "orders@+2/0/segment_0000001000.dat",
            "orders@2@3/0/segment_0000001000.dat",
            "@2/0/segment_0000001000.dat",
        ] {
            assert_eq!(parse_segment_key(other), None, "{other}");
        }
    }

    #[test]
    fn each_use_of_a_name_has_a_folder_that_no_other_name_can_have() {
        assert_eq!(topic_folder("orders", 1), "orders");
        assert_eq!(topic_folder("orders", 2), "orders@2");
        assert_eq!(topic_folder("orders", 10), "orders@10");
        for uses in [1, 2, 10, u64::MAX] {
            assert_eq!(
                parse_topic_folder(&topic_folder("orders", uses)),
                Some(("orders", uses))
            );
        }
        assert!(
            topic_name_problem("orders@2").is_some(),
            "it would be a topic's name, too"
        );
        for other in [
            "",
            "@2",
            "orders@",
            "orders@1",
            "orders@x",
            "orders@2@2",
            "no topic@2",
        ] {
            assert_eq!(parse_topic_folder(other), None, "{other}");
        }
    }
}
