//! Reads manifests from files or standard input, including multiple documents and lists. Called by
//! `diff`. Rejects every kind except StreamHouseCluster, Topic and User by name, so that no
//! manifest is skipped silently.

use std::{fs, io::Read, path::Path};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::crd::{API_GROUP, API_VERSION};

/// A manifest as given by the user.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    pub(super) kind: ManifestKind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) value: Value,
}

/// Kind of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ManifestKind {
    StreamHouseCluster,
    Topic,
    User,
}

impl ManifestKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::StreamHouseCluster => "StreamHouseCluster",
            Self::Topic => "Topic",
            Self::User => "User",
        }
    }
}

/// Reads the manifests of a file; `-` is standard input.
pub(super) fn read_manifests(path: &Path, namespace: &str) -> anyhow::Result<Vec<Manifest>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return parse_manifests(&text, namespace).context("standard input");
    }
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    parse_manifests(&text, namespace).context(shown)
}

/// Parses the manifests in a text.
pub(super) fn parse_manifests(text: &str, namespace: &str) -> anyhow::Result<Vec<Manifest>> {
    let mut found = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).context("invalid YAML")?;
        collect_manifests(value, namespace, &mut found)?;
    }
    Ok(found)
}

fn collect_manifests(mut value: Value, namespace: &str, found: &mut Vec<Manifest>) -> anyhow::Result<()> {
    // A document may be empty.
    if value.is_null() {
        return Ok(());
    }
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (version, kind) = (text(&value, "apiVersion"), text(&value, "kind"));
    if version == "v1" && kind == "List" {
        let items = value["items"]
            .as_array_mut()
            .map(std::mem::take)
            .unwrap_or_default();
        return items
            .into_iter()
            .try_for_each(|item| collect_manifests(item, namespace, found));
    }
    let name = text(&value["metadata"], "name");
    let kind = match kind.as_str() {
        "StreamHouseCluster" => ManifestKind::StreamHouseCluster,
        "Topic" => ManifestKind::Topic,
        "User" => ManifestKind::User,
        "" => bail!("a document has no kind"),
        other => bail!(
            "{other} {name:?}: only StreamHouseClusters, Topics and Users can be compared; use kubectl diff for other kinds"
        ),
    };
    if version != format!("{API_GROUP}/{API_VERSION}") {
        bail!(
            "{} {name:?} has apiVersion {version:?}, expected {API_GROUP}/{API_VERSION}",
            kind.as_str()
        );
    }
    if name.is_empty() {
        bail!("a {} has no metadata.name", kind.as_str());
    }
    let own = text(&value["metadata"], "namespace");
    let namespace = if own.is_empty() { namespace.to_owned() } else { own };
    value["metadata"]["namespace"] = namespace.clone().into();
    found.push(Manifest {
        kind,
        namespace,
        name,
        value,
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "apiVersion: streamhouse.io/v1alpha1\nkind: Topic\nmetadata: {name: a}\nspec: {}\n";

    #[test]
    fn several_documents_and_lists_are_read_and_empty_ones_are_not() {
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: streamhouse.io/v1alpha1, kind: StreamHouseCluster, \
            metadata: {name: b, namespace: x}}\n";
        let text = format!("---\n# nothing\n---\n{TOPIC}---\n{list}");
        let found = parse_manifests(&text, "default").unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|m| (m.kind, m.namespace.as_str(), m.name.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                (ManifestKind::Topic, "default", "a"),
                (ManifestKind::StreamHouseCluster, "x", "b")
            ]
        );
        assert_eq!(found[0].value["metadata"]["namespace"], "default");
    }

    #[test]
    fn what_cannot_be_compared_is_refused_by_name() {
        for (text, says) in [
            ("kind: Secret\nmetadata: {name: s}\n", "Secret \"s\""),
            ("kind: Topic\nmetadata: {name: t}\n", "apiVersion"),
            (
                "apiVersion: streamhouse.io/v1alpha1\nkind: Topic\n",
                "metadata.name",
            ),
            ("just words", "no kind"),
            ("a: [", "invalid YAML"),
        ] {
            let error = format!("{:#}", parse_manifests(text, "default").unwrap_err());
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }
}
