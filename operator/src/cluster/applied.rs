//! The children that this process has applied, by cluster: the hash of what was rendered, and what
//! the API server made of it. A child that is missing was deleted by another client only if it is
//! recorded here; otherwise it is new: at the first reconciliation, under another name, or once its
//! API is installed. A child that is still as it was stored need not be applied again.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{
    build::ChildObject,
    children::{ANNOTATION_RENDERED_HASH, ManagedKind},
};
use crate::metadata_stores::ClusterKey;

/// Kind, namespace and name of a child.
type ChildPlace = (ManagedKind, String, String);

/// The applied children.
#[derive(Debug, Default)]
pub(super) struct AppliedHashes(Mutex<HashMap<ClusterKey, HashMap<ChildPlace, AppliedChild>>>);

#[derive(Debug, Clone)]
struct AppliedChild {
    rendered: String,
    /// Hash of the fields of the stored object that the operator may own.
    stored: u64,
}

impl AppliedHashes {
    /// Returns the hash of the stored fields if exactly this child was applied before.
    pub(super) fn stored_fields(&self, key: &ClusterKey, child: &ChildObject) -> Option<u64> {
        let clusters = self.0.lock();
        let known = clusters.get(key)?.get(&place_of(child))?;
        (Some(&known.rendered) == rendered_hash(child)).then_some(known.stored)
    }

    /// Records that a child was applied, and the hash of the stored fields.
    pub(super) fn record(&self, key: &ClusterKey, child: &ChildObject, stored: u64) {
        let Some(rendered) = rendered_hash(child).cloned() else {
            return;
        };
        let mut clusters = self.0.lock();
        let children = clusters.entry(key.clone()).or_default();
        children.insert(place_of(child), AppliedChild { rendered, stored });
    }

    /// Forgets the children of a cluster that are no longer desired.
    pub(super) fn retain(&self, key: &ClusterKey, wanted: &[ChildObject]) {
        if let Some(children) = self.0.lock().get_mut(key) {
            children.retain(|place, _| wanted.iter().any(|child| place_of(child) == *place));
        }
    }

    /// Forgets a cluster that no longer exists.
    pub(super) fn remove(&self, key: &ClusterKey) {
        self.0.lock().remove(key);
    }
}

fn place_of(child: &ChildObject) -> ChildPlace {
    (child.kind, child.namespace().to_owned(), child.name().to_owned())
}

fn rendered_hash(child: &ChildObject) -> Option<&String> {
    child
        .object
        .metadata
        .annotations
        .as_ref()?
        .get(ANNOTATION_RENDERED_HASH)
}
