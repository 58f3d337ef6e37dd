//! [`TopicPattern`]: a subscription to all topics with matching names, including future ones.

use std::sync::Arc;

use regex_lite::Regex;

use crate::{
    Client,
    error::{Error, Result},
    queries::list_topics,
};

/// A regular expression that matches whole topic names. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::consumer) struct TopicPattern(Arc<Regex>);

impl TopicPattern {
    pub(in crate::consumer) fn new(pattern: &str) -> Result<Self> {
        match Regex::new(&format!("^(?:{pattern})$")) {
            Ok(regex) => Ok(Self(Arc::new(regex))),
            Err(error) => Err(Error::Config(format!(
                "{pattern:?} is not a regular expression: {error}; escape literal special characters with a backslash"
            ))),
        }
    }

    /// Returns the matching topics, sorted by name, without internal ones.
    pub(in crate::consumer) async fn matching_topics(self, client: Client) -> Result<Vec<String>> {
        let topics = list_topics(&client, false, client.api_deadline()).await?;
        let names = topics.into_iter().map(|topic| topic.name);
        Ok(names.filter(|name| self.0.is_match(name)).collect())
    }

    /// Returns whether both are the same subscription, not just equal patterns.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_for_whole_names_and_a_broken_one_is_refused() {
        let pattern = TopicPattern::new("orders|pay.*").unwrap();
        let matches = |name: &str| pattern.0.is_match(name);
        assert!(matches("orders") && matches("payments"));
        assert!(!matches("orders-eu") && !matches("old-orders"));
        let refused = TopicPattern::new("orders(").unwrap_err().to_string();
        assert!(
            refused.contains("\"orders(\" is not a regular expression"),
            "{refused}"
        );
    }
}
