//! A value that may be written as a number, a string or a boolean. Used where the schema says
//! `x-kubernetes-int-or-string`: the API server accepts integers of any size there, unlike
//! `IntOrString` of the API types, and one resource that cannot be deserialized would break the
//! watch.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number, a string or a boolean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ScalarValue {
    /// An integer.
    Integer(i64),
    /// A number that does not fit into 64 bits as an integer.
    Number(f64),
    /// A string.
    Text(String),
    /// A boolean. The schema accepts it only for settings that are switches.
    Switch(bool),
}

impl fmt::Display for ScalarValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(number) => number.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Switch(on) => on.fmt(f),
        }
    }
}

impl From<i64> for ScalarValue {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<&str> for ScalarValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_can_be_read_and_keep_their_digits() {
        for (written, shown) in [
            ("8388608", "8388608"),
            ("604800000000", "604800000000"),
            ("-1", "-1"),
            ("1e30", "1000000000000000000000000000000"),
            ("\"8MiB\"", "8MiB"),
            ("\"-1\"", "-1"),
            ("true", "true"),
        ] {
            assert_eq!(
                serde_json::from_str::<ScalarValue>(written).unwrap().to_string(),
                shown
            );
        }
    }
}
