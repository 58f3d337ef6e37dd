//! Compares two objects as a unified diff of their YAML, without the fields that the API server
//! maintains. Called by `diff`. Shows no Secrets, since a cluster's objects include none.

use serde_json::Value;
use similar::TextDiff;

/// Fields of `metadata` that the API server maintains.
const SERVER_FIELDS: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Returns the difference between `before` and `after`; `None` if they are equal. `None` as an
/// argument stands for a missing object.
pub(super) fn unified_diff(
    title: &str,
    before: Option<&Value>,
    after: Option<&Value>,
) -> anyhow::Result<Option<String>> {
    let (before, after) = (
        before.map(without_server_fields),
        after.map(without_server_fields),
    );
    if before == after {
        return Ok(None);
    }
    let yaml = |value: &Option<Value>| match value {
        Some(value) => serde_yaml_ng::to_string(value),
        None => Ok(String::new()),
    };
    let (old, new) = (yaml(&before)?, yaml(&after)?);
    let name = |there: bool, side: &str| {
        if there {
            format!("{side}/{title}")
        } else {
            "/dev/null".to_owned()
        }
    };
    let diff = TextDiff::from_lines(&old, &new);
    let text = diff
        .unified_diff()
        .context_radius(3)
        .header(&name(before.is_some(), "live"), &name(after.is_some(), "new"))
        .to_string();
    Ok(Some(text))
}

/// Returns the object without its status and without the fields that the API server maintains.
fn without_server_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for name in SERVER_FIELDS {
            metadata.remove(*name);
        }
        for owner in metadata
            .get_mut("ownerReferences")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            // The uid of an owner that is not applied yet differs in each dry run.
            if let Some(owner) = owner.as_object_mut() {
                owner.remove("uid");
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_somebody_wants_is_compared() {
        let object = |replicas: i32, generation: i64| {
            json!({
                "kind": "Deployment",
                "metadata": { "name": "a", "uid": generation.to_string(), "generation": generation,
                    "ownerReferences": [{ "name": "main", "uid": generation.to_string() }] },
                "spec": { "replicas": replicas },
                "status": { "replicas": generation },
            })
        };
        assert_eq!(
            unified_diff("x", Some(&object(1, 1)), Some(&object(1, 2))).unwrap(),
            None
        );
        let text = unified_diff("Deployment default/a", Some(&object(1, 1)), Some(&object(3, 2)))
            .unwrap()
            .unwrap();
        assert!(
            text.starts_with("--- live/Deployment default/a\n+++ new/Deployment default/a\n"),
            "{text}"
        );
        assert!(text.contains("\n-  replicas: 1\n+  replicas: 3\n"), "{text}");
        assert!(!text.contains("generation"), "{text}");
    }

    #[test]
    fn what_is_not_there_is_dev_null() {
        let object = json!({ "kind": "Service" });
        let made = unified_diff("x", None, Some(&object)).unwrap().unwrap();
        assert!(
            made.starts_with("--- /dev/null\n+++ new/x\n") && made.contains("+kind: Service"),
            "{made}"
        );
        let gone = unified_diff("x", Some(&object), None).unwrap().unwrap();
        assert!(
            gone.contains("+++ /dev/null\n") && gone.contains("-kind: Service"),
            "{gone}"
        );
    }
}
