//! Builds the ConfigMap with the agents' OAuth file, which says whose tokens they accept. Agents
//! read the file again when it changes.

use serde_json::{Value, json};

use super::{CONTAINER_NAME, ChildObject, object::ObjectBuilder};
use crate::cluster::{children::ManagedKind, desired::DesiredCluster, merge::merge, paths};

/// The OAuth file in the ConfigMap.
const OAUTH_FILE: &str = "oauth.yaml";
/// Volume of the ConfigMap.
const OAUTH_VOLUME: &str = "oauth";

/// Builds the ConfigMap, if agents accept tokens.
pub(super) fn oauth_config(desired: &DesiredCluster) -> Option<ChildObject> {
    let file = desired.oauth_file.as_ref()?;
    let draft = ObjectBuilder::new(desired, ManagedKind::ConfigMap, oauth_config_name(desired));
    Some(draft.build(json!({ "data": { OAUTH_FILE: file } })))
}

/// Adds the directory of the ConfigMap to the agents' pods. The file alone cannot be mounted, since
/// Kubernetes does not update it then.
pub(super) fn add_to_pod(desired: &DesiredCluster, spec: &mut Value) {
    if desired.oauth_file.is_none() {
        return;
    }
    let mount = json!({ "name": OAUTH_VOLUME, "mountPath": paths::OAUTH_DIR, "readOnly": true });
    let config = json!({ "name": oauth_config_name(desired) });
    let further = json!({
        "containers": [{ "name": CONTAINER_NAME, "volumeMounts": [mount] }],
        "volumes": [{ "name": OAUTH_VOLUME, "configMap": config }],
    });
    merge(spec, &further);
}

fn oauth_config_name(desired: &DesiredCluster) -> String {
    format!("{}-oauth", desired.name)
}
