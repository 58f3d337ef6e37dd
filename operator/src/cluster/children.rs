//! The kinds of objects that a cluster is made of: the one list that drives what is watched, what the operator may do, and where
//! orphans are looked for. And the labels and annotations by which the operator knows its own.

use kube::core::{ApiResource, GroupVersionKind};

use crate::apis::OptionalApi;

/// On every child: the cluster it belongs to.
pub const LABEL_CLUSTER: &str = "streamhouse.io/cluster";
/// On every child: the namespace of that cluster.
pub const LABEL_CLUSTER_NAMESPACE: &str = "streamhouse.io/cluster-namespace";
/// On a child in another namespace, where no owner reference reaches: the cluster's uid.
pub const ANNOTATION_OWNER_UID: &str = "streamhouse.io/owner-uid";
/// On every child: a hash of it as it was rendered. Equal means that there is nothing to do but to look for changes by others.
pub const ANNOTATION_RENDERED_HASH: &str = "streamhouse.io/rendered-hash";
/// On the agents' pods: a hash of their settings and of the Secrets that they read when they start.
pub const ANNOTATION_CONFIG_HASH: &str = "streamhouse.io/config-hash";

macro_rules! kinds {
    ($($kind:ident: $group:literal, $version:literal, $plural:literal, $optional:expr;)+) => {
        /// The kind of a child.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // each is a kind of Kubernetes' own name
        pub enum ManagedKind { $($kind,)+ }

        impl ManagedKind {
            /// All of them, in the order in which they are applied.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// The kind's name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)+ }
            }

            /// Its API group; empty for the core's.
            pub fn group(self) -> &'static str {
                match self { $(Self::$kind => $group,)+ }
            }

            /// The version that is written.
            pub fn version(self) -> &'static str {
                match self { $(Self::$kind => $version,)+ }
            }

            /// Its name in paths and in rules of RBAC.
            pub fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)+ }
            }

            /// The API that must be installed for it, where that is not Kubernetes itself.
            pub fn optional_api(self) -> Option<OptionalApi> {
                match self { $(Self::$kind => $optional,)+ }
            }
        }
    };
}

kinds! {
    ServiceAccount: "", "v1", "serviceaccounts", None;
    ConfigMap: "", "v1", "configmaps", None;
    Service: "", "v1", "services", None;
    Certificate: "cert-manager.io", "v1", "certificates", Some(OptionalApi::CertManager);
    NetworkPolicy: "networking.k8s.io", "v1", "networkpolicies", None;
    PodDisruptionBudget: "policy", "v1", "poddisruptionbudgets", None;
    Job: "batch", "v1", "jobs", None;
    Deployment: "apps", "v1", "deployments", None;
    HorizontalPodAutoscaler: "autoscaling", "v2", "horizontalpodautoscalers", None;
    ServiceMonitor: "monitoring.coreos.com", "v1", "servicemonitors", Some(OptionalApi::Monitoring);
    PrometheusRule: "monitoring.coreos.com", "v1", "prometheusrules", Some(OptionalApi::Monitoring);
}

impl ManagedKind {
    /// What the operator does with each of them, and so must be allowed to.
    pub const VERBS: &'static [&'static str] = &["get", "list", "watch", "create", "patch", "delete"];

    /// Whether the spec may want it in another namespace than the cluster's, where owner references do not reach.
    pub fn may_live_elsewhere(self) -> bool {
        matches!(
            self,
            Self::ConfigMap | Self::ServiceMonitor | Self::PrometheusRule
        )
    }

    /// As the API server's client wants it.
    pub fn api_resource(self) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group(), self.version(), self.as_str());
        ApiResource::from_gvk_with_plural(&kind, self.plural())
    }
}

impl std::fmt::Display for ManagedKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;

    const RULES: &str = include_str!("../../../charts/streamhouse-operator/templates/_rules.tpl");

    /// Verbs by group and resource, as the chart's rules for a namespace give them.
    fn rights() -> BTreeMap<(String, String), BTreeSet<String>> {
        let (_, rest) = RULES
            .split_once("define \"streamhouse-operator.rules\" -}}")
            .unwrap();
        let (rules, _) = rest.split_once("{{- end }}").unwrap();
        let rules: Vec<Value> = serde_yaml_ng::from_str(rules).unwrap();
        let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
        let mut rights: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for rule in &rules {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    rights
                        .entry((group.clone(), resource))
                        .or_default()
                        .extend(texts(&rule["verbs"]));
                }
            }
        }
        rights
    }

    #[test]
    fn the_chart_gives_the_rights_to_these_kinds_and_to_little_else() {
        let mut rights = rights();
        let all: BTreeSet<String> = ManagedKind::VERBS.iter().map(ToString::to_string).collect();
        for kind in ManagedKind::ALL {
            let given = rights.remove(&(kind.group().to_owned(), kind.plural().to_owned()));
            assert_eq!(given.as_ref(), Some(&all), "{kind}");
        }
        rights.retain(|(group, _), _| group != crate::crd::GROUP);
        let rest: Vec<String> = rights
            .iter()
            .map(|((group, resource), verbs)| {
                format!(
                    "{group}/{resource}: {}",
                    Vec::from_iter(verbs.iter().map(String::as_str)).join(",")
                )
            })
            .collect();
        assert_eq!(
            rest,
            [
                "/namespaces: get",
                "/pods: get,list,watch",
                "/secrets: get",
                "events.k8s.io/events: create,patch"
            ]
        );
    }

    #[test]
    fn a_kind_knows_its_place_in_the_api() {
        let deployment = ManagedKind::Deployment.api_resource();
        assert_eq!(
            (deployment.api_version.as_str(), deployment.plural.as_str()),
            ("apps/v1", "deployments")
        );
        assert_eq!(ManagedKind::ConfigMap.api_resource().api_version, "v1");
    }

    #[test]
    fn kinds_of_optional_groups_and_only_those_are_optional() {
        for kind in ManagedKind::ALL {
            let expected = OptionalApi::ALL.iter().find(|api| api.group() == kind.group());
            assert_eq!(kind.optional_api().as_ref(), expected, "{kind}");
        }
    }
}
