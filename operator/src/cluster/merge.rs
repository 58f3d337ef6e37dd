//! Merges a user's override into the operator's pod template, as Kubernetes merges patches: objects
//! by field, lists with a merge key by that key, other lists as a whole; null removes a field. Used
//! by the pod builder, and by `validate` to check the override.

use serde_json::{Map, Value};

/// A list whose elements are identified by a key.
struct MergeKey {
    list: &'static str,
    key: &'static str,
    /// Whether an element of the override replaces the operator's element instead of being merged
    /// into it: two sources of one value must not be combined.
    replaces: bool,
}

const fn merge_key(list: &'static str, key: &'static str, replaces: bool) -> MergeKey {
    MergeKey { list, key, replaces }
}

const MERGE_KEYS: &[MergeKey] = &[
    merge_key("containers", "name", false),
    merge_key("initContainers", "name", false),
    merge_key("env", "name", true),
    merge_key("ports", "containerPort", false),
    merge_key("volumeMounts", "mountPath", true),
    merge_key("volumeDevices", "devicePath", true),
    merge_key("volumes", "name", true),
    merge_key("imagePullSecrets", "name", true),
    merge_key("hostAliases", "ip", true),
    merge_key("topologySpreadConstraints", "topologyKey", false),
];

/// Merges `over` into `base`.
pub(super) fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => merge_fields(base, over),
        (base, over) => *base = strip_nulls(over),
    }
}

fn merge_fields(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (name, value) in over {
        if value.is_null() {
            base.remove(name);
            continue;
        }
        let Some(own) = base.get_mut(name) else {
            base.insert(name.clone(), strip_nulls(value));
            continue;
        };
        let list = MERGE_KEYS.iter().find(|keyed| keyed.list == name);
        match (list, own, value) {
            (Some(list), Value::Array(own), Value::Array(further)) => merge_list(list, own, further),
            (_, own, value) => merge(own, value),
        }
    }
}

fn merge_list(list: &MergeKey, own: &mut Vec<Value>, further: &[Value]) {
    for element in further {
        let key = element.get(list.key);
        let known = own
            .iter_mut()
            .find(|known| key.is_some() && known.get(list.key) == key);
        match known {
            Some(known) if list.replaces => *known = strip_nulls(element),
            Some(known) => merge(known, element),
            None => own.push(strip_nulls(element)),
        }
    }
}

/// Removes nulls, which remove a field when merging but fit no type.
pub(super) fn strip_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            Value::Object(
                kept.map(|(name, value)| (name.clone(), strip_nulls(value)))
                    .collect(),
            )
        }
        Value::Array(values) => Value::Array(values.iter().map(strip_nulls).collect()),
        other => other.clone(),
    }
}

/// Returns the first list with an element that lacks its merge key, and that key.
pub(super) fn find_missing_key(value: &Value) -> Option<(&'static str, &'static str)> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let keyed = MERGE_KEYS.iter().find(|keyed| keyed.list == name);
            let lacks = |keyed: &&MergeKey| {
                value.as_array().is_some_and(|elements| {
                    elements
                        .iter()
                        .any(|element| element.get(keyed.key).is_none_or(Value::is_null))
                })
            };
            keyed
                .filter(lacks)
                .map(|keyed| (keyed.list, keyed.key))
                .or_else(|| find_missing_key(value))
        }),
        Value::Array(values) => values.iter().find_map(find_missing_key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(mut base: Value, over: Value) -> Value {
        merge(&mut base, &over);
        base
    }

    #[test]
    fn containers_are_merged_by_name_and_their_variables_replaced() {
        let base = json!({ "containers": [{ "name": "agent", "image": "a", "args": ["run"],
            "env": [{ "name": "A", "valueFrom": { "fieldRef": {} } }, { "name": "B", "value": "b" }] }] });
        let over = json!({ "containers": [
            { "name": "agent", "env": [{ "name": "A", "value": "a" }, { "name": "C", "value": "c" }] },
            { "name": "sidecar", "image": "s" }] });
        let expected = json!({ "containers": [
            { "name": "agent", "image": "a", "args": ["run"],
              "env": [{ "name": "A", "value": "a" }, { "name": "B", "value": "b" }, { "name": "C", "value": "c" }] },
            { "name": "sidecar", "image": "s" }] });
        assert_eq!(merged(base, over), expected);
    }

    #[test]
    fn lists_without_a_key_are_replaced_and_null_takes_away() {
        let base = json!({ "tolerations": [{ "key": "a" }], "nodeSelector": { "a": "1", "b": "2" }, "x": { "y": 1 } });
        let over =
            json!({ "tolerations": [{ "key": "b" }], "nodeSelector": { "a": null, "c": "3" }, "x": null });
        assert_eq!(
            merged(base, over),
            json!({ "tolerations": [{ "key": "b" }], "nodeSelector": { "b": "2", "c": "3" } })
        );
    }

    #[test]
    fn merging_the_same_twice_changes_nothing_more() {
        let base = json!({ "volumes": [{ "name": "a", "secret": {} }], "containers": [{ "name": "agent" }] });
        let over = json!({ "volumes": [{ "name": "a", "emptyDir": {} }, { "name": "b", "emptyDir": {} }],
            "containers": [{ "name": "agent", "volumeMounts": [{ "name": "b", "mountPath": "/b" }] }] });
        let once = merged(base, over.clone());
        assert_eq!(merged(once.clone(), over), once);
    }

    #[test]
    fn elements_without_their_key_are_found() {
        assert_eq!(
            find_missing_key(&json!({ "containers": [{ "image": "a" }] })),
            Some(("containers", "name"))
        );
        let inside = json!({ "containers": [{ "name": "agent", "volumeMounts": [{ "name": "a" }] }] });
        assert_eq!(find_missing_key(&inside), Some(("volumeMounts", "mountPath")));
        assert_eq!(
            find_missing_key(&json!({ "containers": [{ "name": "agent" }], "tolerations": [{}] })),
            None
        );
    }
}
