//! Subscriptions by regular expression (SubscribedTopicRegex): which topics match.
//!
//! The syntax is that of the crate `regex`, which like Kafka's RE2 has neither back-references nor
//! look-around. A match takes time in proportion to the length of the name and to the size of the
//! compiled expression, which is bounded for that reason. Names of topics are ASCII, and so are the
//! classes of characters: `\w` and `.` compile to a fraction of what all of Unicode takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use regex::bytes::{Regex, RegexBuilder};
use streamhouse_core::Error;

use super::{
    catalog::TopicCatalog,
    errors::{group_full, invalid_pattern},
};

/// Maximum length of a regular expression in bytes.
pub const MAX_PATTERN_LEN: usize = 1_024;
/// Maximum number of different regular expressions in one group.
const MAX_PATTERNS: usize = 64;
/// Maximum size of one compiled regular expression in bytes. It bounds the time of a match: some
/// milliseconds for the longest name.
const MAX_COMPILED_BYTES: usize = 64 << 10;
/// Maximum memory that matching takes, in bytes.
const MAX_MATCHING_BYTES: usize = 1 << 20;

/// The regular expressions of a group, with the topics that match.
#[derive(Debug, Clone, Default)]
pub(super) struct TopicPatterns {
    resolved: BTreeMap<Arc<str>, Arc<BTreeSet<Arc<str>>>>,
    /// The version of the catalog of the last search.
    version: u64,
    searched_at: i64,
}

impl TopicPatterns {
    /// Returns the topics that match; none for an unresolved regular expression.
    pub(super) fn topics(&self, pattern: Option<&Arc<str>>) -> impl Iterator<Item = &Arc<str>> {
        let found = pattern.and_then(|pattern| self.resolved.get(pattern));
        found.into_iter().flat_map(|topics| topics.iter())
    }

    /// Returns the topics that any regular expression matches.
    pub(super) fn all_topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.resolved.values().flat_map(|topics| topics.iter())
    }

    /// Returns whether topics may match that did not exist at the last search.
    pub(super) fn is_outdated(&self, now: i64, interval_ms: i64, catalog: &dyn TopicCatalog) -> bool {
        !self.resolved.is_empty()
            && self.version < catalog.version()
            && now >= self.searched_at.saturating_add(interval_ms)
    }

    /// Returns whether a regular expression was resolved.
    pub(super) fn is_resolved(&self, pattern: &Arc<str>) -> bool {
        self.resolved.contains_key(pattern)
    }

    /// Resolves a new regular expression.
    ///
    /// # Errors
    /// INVALID_REGULAR_EXPRESSION, or GROUP_MAX_SIZE_REACHED if there are too many.
    pub(super) fn add(
        &mut self,
        now: i64,
        pattern: &Arc<str>,
        catalog: &dyn TopicCatalog,
    ) -> Result<(), Error> {
        let known = self.resolved.get(pattern);
        // One that finds nothing may be a stored one that is invalid by now.
        if known.is_some_and(|topics| !topics.is_empty()) {
            return Ok(());
        }
        if known.is_none() && self.resolved.len() >= MAX_PATTERNS {
            return Err(group_full("regular expressions", MAX_PATTERNS));
        }
        let found = matching_topics(&compile_pattern(pattern)?, catalog);
        if self.resolved.is_empty() {
            (self.version, self.searched_at) = (catalog.version(), now);
        }
        self.resolved.insert(pattern.clone(), Arc::new(found));
        Ok(())
    }

    /// Searches again for the topics that match, and forgets regular expressions that no member
    /// has. One that was stored when it was valid and is not any more finds none.
    pub(super) fn refresh<'a>(
        &mut self,
        now: i64,
        subscribed: impl Iterator<Item = &'a Arc<str>>,
        catalog: &dyn TopicCatalog,
    ) {
        let subscribed: BTreeSet<Arc<str>> = subscribed.cloned().collect();
        let found = |pattern: Arc<str>| {
            let compiled = compile_pattern(&pattern);
            let topics = compiled.map(|compiled| matching_topics(&compiled, catalog));
            (pattern, Arc::new(topics.unwrap_or_default()))
        };
        self.resolved = subscribed.into_iter().map(found).collect();
        self.version = catalog.version();
        self.searched_at = now;
    }

    /// Forgets regular expressions that no member has.
    pub(super) fn retain(&mut self, is_subscribed: impl Fn(&Arc<str>) -> bool) {
        self.resolved.retain(|pattern, _| is_subscribed(pattern));
    }

    /// Returns the approximate memory in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let topics = |topics: &Arc<BTreeSet<Arc<str>>>| topics.len() * 32;
        let resolved = self.resolved.iter();
        resolved
            .map(|(pattern, found)| pattern.len() + topics(found))
            .sum()
    }
}

/// Compiles a regular expression that must match whole names.
fn compile_pattern(pattern: &str) -> Result<Regex, Error> {
    if pattern.len() > MAX_PATTERN_LEN {
        let problem = format!("it has {} bytes; the limit is {MAX_PATTERN_LEN}", pattern.len());
        return Err(invalid_pattern(
            &pattern[..pattern.floor_char_boundary(64)],
            &problem,
        ));
    }
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_MATCHING_BYTES)
            .unicode(false)
            .build()
    };
    // Alone first: a parenthesis too many must not end the group around it.
    let compiled = build(pattern).and_then(|_| build(&format!(r"\A(?:{pattern})\z")));
    compiled.map_err(|error| invalid_pattern(pattern, &error.to_string()))
}

fn matching_topics(pattern: &Regex, catalog: &dyn TopicCatalog) -> BTreeSet<Arc<str>> {
    let names = catalog
        .topic_names()
        .filter(|name| pattern.is_match(name.as_bytes()));
    names.map(Arc::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        compile_pattern(pattern).unwrap().is_match(name.as_bytes())
    }

    #[test]
    fn a_pattern_matches_whole_names() {
        assert!(
            matches("orders", "orders") && !matches("orders", "orders-eu") && !matches("rders", "orders")
        );
        assert!(matches("orders.*|bills", "orders-eu") && matches("orders.*|bills", "bills"));
        assert!(!matches("a|b", "ab") && matches("^orders-[0-9]+$", "orders-12"));
        assert!(!matches("(?m)a$", "a\nb"));
    }

    #[test]
    fn a_pattern_that_is_too_large_or_malformed_is_refused() {
        let long = "a".repeat(MAX_PATTERN_LEN + 1);
        for pattern in [
            "(",
            ")",
            "a)(b",
            "[",
            "(?=a)",
            r"\1",
            "a{100000}",
            "(?x)a # )",
            // Their matches would take long.
            "(?:(?:a?b?c?d?e?f?g?h?){699}z)",
            "(?:[a-y]{1,60}){1,155}z",
            long.as_str(),
        ] {
            let error = compile_pattern(pattern).unwrap_err();
            assert_eq!(error.code().number(), 128, "{pattern}");
        }
    }
}
