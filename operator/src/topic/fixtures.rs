//! Topics for the unit tests of this module.

use serde_json::{Value, json};

use crate::crd::Topic;

/// Returns the Topic `orders` of generation 1 with these fields in its spec beside the cluster.
pub(super) fn topic(spec: Value) -> Topic {
    let mut whole = json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "Topic",
        "metadata": { "name": "orders", "namespace": "shop", "uid": "uid-1", "generation": 1, "resourceVersion": "7" },
        "spec": { "clusterRef": { "name": "main" } }
    });
    for (key, value) in spec.as_object().unwrap() {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}
