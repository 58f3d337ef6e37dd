//! Label values: how many names have their own, and what the others share.

use std::collections::HashSet;

use parking_lot::Mutex;

/// Label value that topics, groups and partitions beyond the limits share.
pub(super) const OTHER_LABEL: &str = "_other";

/// The names that have a label value of their own: the first ones, up to a limit.
pub(super) struct BoundedLabels {
    names: Mutex<HashSet<String>>,
    limit: usize,
}

impl BoundedLabels {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            names: Mutex::default(),
            limit,
        }
    }

    /// Returns the name itself if it is within the limit, otherwise [`OTHER_LABEL`].
    pub(super) fn label(&self, name: &str) -> String {
        let mut names = self.names.lock();
        if names.contains(name) || names.len() < self.limit {
            names.insert(name.to_owned());
            return name.to_owned();
        }
        OTHER_LABEL.to_owned()
    }
}
