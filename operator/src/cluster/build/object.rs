//! Builds what all children have in common: name, labels, owner reference and the hash of the
//! object. Each builder ends here.

use std::collections::BTreeMap;

use kube::core::{DynamicObject, ObjectMeta};
use serde_json::{Value, json};

use super::ChildObject;
pub(super) use crate::cluster::names::short_hash;
use crate::cluster::{
    children::{ANNOTATION_OWNER_UID, ANNOTATION_RENDERED_HASH, ManagedKind},
    desired::DesiredCluster,
    labels,
    names::truncate_name,
};

/// An object under construction; its body is everything beside `metadata`.
#[derive(Debug)]
pub(super) struct ObjectBuilder<'a> {
    desired: &'a DesiredCluster,
    kind: ManagedKind,
    name: String,
    namespace: &'a str,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    owned: bool,
}

impl<'a> ObjectBuilder<'a> {
    /// Starts an object with this name in the cluster's namespace.
    pub(super) fn new(desired: &'a DesiredCluster, kind: ManagedKind, name: impl Into<String>) -> Self {
        Self {
            desired,
            kind,
            name: name.into(),
            namespace: &desired.namespace,
            labels: labels::common_labels(desired, labels::AGENT_COMPONENT),
            annotations: BTreeMap::new(),
            owned: true,
        }
    }

    /// Leaves the owner reference out, so that the object survives a foreground deletion of the
    /// cluster.
    pub(super) fn without_owner(mut self) -> Self {
        self.owned = false;
        self
    }

    /// Sets a component other than the agents.
    pub(super) fn component(mut self, component: &str) -> Self {
        self.labels.extend(labels::common_labels(self.desired, component));
        self
    }

    /// Sets the namespace. In a namespace other than the cluster's, the name includes the cluster's
    /// namespace to keep it unique.
    pub(super) fn namespace(mut self, namespace: &'a str) -> Self {
        if namespace != self.desired.namespace {
            self.name = truncate_name(&format!("{}-{}", self.desired.namespace, self.name));
        }
        self.namespace = namespace;
        self
    }

    /// Adds labels; the operator's own labels take precedence.
    pub(super) fn labels(mut self, further: &BTreeMap<String, String>) -> Self {
        let ours = std::mem::replace(&mut self.labels, further.clone());
        self.labels.extend(ours);
        self
    }

    /// Adds annotations.
    pub(super) fn annotations(mut self, further: impl IntoIterator<Item = (String, String)>) -> Self {
        self.annotations.extend(further);
        self
    }

    /// Builds the object with this body.
    pub(super) fn build(mut self, body: Value) -> ChildObject {
        let owned = self.owned && self.namespace == self.desired.namespace;
        if !owned {
            self.annotations
                .insert(ANNOTATION_OWNER_UID.to_owned(), self.desired.uid.clone());
        }
        let mut object = DynamicObject::new(&self.name, &self.kind.api_resource());
        object.metadata = ObjectMeta {
            namespace: Some(self.namespace.to_owned()),
            labels: Some(self.labels),
            annotations: Some(self.annotations),
            owner_references: self
                .desired
                .owner
                .clone()
                .filter(|_| owned)
                .map(|owner| vec![owner]),
            ..object.metadata
        };
        object.data = body;
        let hash = short_hash(&json!([object.metadata, object.data]).to_string());
        let annotations = object.metadata.annotations.get_or_insert_default();
        annotations.insert(ANNOTATION_RENDERED_HASH.to_owned(), hash);
        ChildObject {
            kind: self.kind,
            object,
        }
    }
}
