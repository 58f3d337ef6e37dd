//! Finds all of many names that a text begins with, in time in proportion to the text's length and
//! to the logarithm of the number of names.
//!
//! Names are sorted, and each knows the longest other one that it begins with, its parent. Every
//! name that a text begins with is the last name that is not after the text, or one of its
//! ancestors: whatever stands between a name and a text that begins with it begins with it too.

use std::{collections::BTreeMap, iter};

/// Values by name.
#[derive(Debug, Clone)]
pub(super) struct PrefixIndex<T> {
    /// In the order of their names.
    entries: Vec<PrefixEntry<T>>,
}

#[derive(Debug, Clone)]
struct PrefixEntry<T> {
    name: String,
    parent: Option<usize>,
    value: T,
}

impl<T> Default for PrefixIndex<T> {
    fn default() -> Self {
        let entries = Vec::new();
        Self { entries }
    }
}

impl<T> PrefixIndex<T> {
    pub(super) fn new(values: BTreeMap<String, T>) -> Self {
        let mut index = Self::default();
        for (name, value) in values {
            let last = index.entries.len().checked_sub(1);
            let mut before = index.ancestors(last);
            let parent = before.find(|&parent| name.starts_with(&index.entries[parent].name));
            drop(before);
            index.entries.push(PrefixEntry { name, parent, value });
        }
        index
    }

    /// Returns the values of the names that a text begins with, the longest name first.
    pub(super) fn prefixes_of(&self, text: &str) -> impl Iterator<Item = &T> {
        let after = self.entries.partition_point(|entry| entry.name.as_str() <= text);
        let last = after.checked_sub(1);
        let common = last.map_or(0, |last| common_len(&self.entries[last].name, text));
        self.ancestors(last)
            .map(|index| &self.entries[index])
            .filter(move |entry| entry.name.len() <= common)
            .map(|entry| &entry.value)
    }

    /// Returns an entry, its parent, and so on.
    fn ancestors(&self, entry: Option<usize>) -> impl Iterator<Item = usize> {
        iter::successors(entry, |&entry| self.entries[entry].parent)
    }
}

/// Returns how many bytes two texts have in common at their beginning.
fn common_len(one: &str, other: &str) -> usize {
    let pairs = one.bytes().zip(other.bytes());
    pairs.take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes(names: &[String], text: &str) -> Vec<String> {
        let values = names.iter().map(|name| (name.clone(), name.clone())).collect();
        PrefixIndex::new(values).prefixes_of(text).cloned().collect()
    }

    #[test]
    fn the_longest_prefix_comes_first() {
        let names = ["foobar", "foob", "foo", "fo", "fb", "g", "foobaz"].map(str::to_owned);
        assert_eq!(prefixes(&names, "foobarn"), ["foobar", "foob", "foo", "fo"]);
        assert_eq!(prefixes(&names, "foobas"), ["foob", "foo", "fo"]);
        assert_eq!(prefixes(&names, "fob"), ["fo"]);
        assert_eq!(prefixes(&names, "a"), [""; 0]);
        assert_eq!(prefixes(&[], "a"), [""; 0]);
    }

    proptest! {
        #[test]
        fn all_prefixes_are_found(names: Vec<String>, short in "[ab*é]{0,6}",
                                  similar in prop::collection::vec("[ab*é]{1,6}", 0..20)) {
            for (names, text) in [(&similar, short), (&names, names.concat())] {
                let mut expected: Vec<String> = names.iter().filter(|name| text.starts_with(*name)).cloned().collect();
                expected.sort_by_key(|name| usize::MAX - name.len());
                expected.dedup();
                prop_assert_eq!(prefixes(names, &text), expected);
            }
        }
    }
}
