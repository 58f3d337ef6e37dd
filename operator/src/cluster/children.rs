//! The kinds of objects that a cluster consists of: the single list that determines what is
//! watched, which rights the operator needs, and where children are searched for deletion. Also the
//! labels and annotations of managed objects.

use kube::core::{ApiResource, GroupVersionKind};

use crate::apis::{OptionalApi, OptionalApis};

/// Label of every child: name of its cluster.
pub const LABEL_CLUSTER: &str = "streamhouse.io/cluster";
/// Label of every child: namespace of its cluster.
pub const LABEL_CLUSTER_NAMESPACE: &str = "streamhouse.io/cluster-namespace";
/// Label of an agent's pod, and of the Services and routes for that agent: its slot. The operator
/// writes it on the pod; no two agents have the same.
pub const LABEL_AGENT_SLOT: &str = "streamhouse.io/agent-slot";
/// Annotation of an agent's pod: hash of the file with the addresses of its listeners. A kubelet
/// looks at a mounted ConfigMap about once a minute, and whenever the pod changes.
pub const ANNOTATION_LISTENERS_HASH: &str = "streamhouse.io/listeners-hash";
/// Label of the objects of the listener for Kafka clients and of an additional listener: its name.
pub const LABEL_LISTENER: &str = "streamhouse.io/listener";
/// Annotation of a child in another namespace, where owner references do not reach: uid of its
/// cluster.
pub const ANNOTATION_OWNER_UID: &str = "streamhouse.io/owner-uid";
/// Annotation of every child: hash of the rendered object. If it is unchanged, a difference is a
/// change by another client.
pub const ANNOTATION_RENDERED_HASH: &str = "streamhouse.io/rendered-hash";
/// Annotation of the agents' pods: hash of their settings and of the Secrets that they read at
/// start.
pub const ANNOTATION_CONFIG_HASH: &str = "streamhouse.io/config-hash";

macro_rules! managed_kinds {
    ($($kind:ident: $group:literal, $version:literal, $plural:literal, $optional:expr;)+) => {
        /// Kind of a child.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs)] // the variants are names of Kubernetes kinds
        pub enum ManagedKind { $($kind,)+ }

        impl ManagedKind {
            /// All kinds, in the order in which they are applied.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Returns the name of the kind.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)+ }
            }

            /// Returns the API group; empty for the core group.
            pub fn group(self) -> &'static str {
                match self { $(Self::$kind => $group,)+ }
            }

            /// Returns the preferred API version.
            pub fn version(self) -> &'static str {
                match self { $(Self::$kind => $version,)+ }
            }

            /// Returns the plural name in paths and RBAC rules.
            pub fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)+ }
            }

            /// Returns the API that must be installed for this kind, unless it is part of
            /// Kubernetes.
            pub fn optional_api(self) -> Option<OptionalApi> {
                match self { $(Self::$kind => $optional,)+ }
            }
        }
    };
}

managed_kinds! {
    ServiceAccount: "", "v1", "serviceaccounts", None;
    ConfigMap: "", "v1", "configmaps", None;
    Service: "", "v1", "services", None;
    Certificate: "cert-manager.io", "v1", "certificates", Some(OptionalApi::CertManager);
    NetworkPolicy: "networking.k8s.io", "v1", "networkpolicies", None;
    PodDisruptionBudget: "policy", "v1", "poddisruptionbudgets", None;
    Job: "batch", "v1", "jobs", None;
    Deployment: "apps", "v1", "deployments", None;
    HorizontalPodAutoscaler: "autoscaling", "v2", "horizontalpodautoscalers", None;
    Ingress: "networking.k8s.io", "v1", "ingresses", None;
    GRPCRoute: "gateway.networking.k8s.io", "v1", "grpcroutes", Some(OptionalApi::GrpcRoute);
    TLSRoute: "gateway.networking.k8s.io", "v1", "tlsroutes", Some(OptionalApi::TlsRoute);
    ServiceMonitor: "monitoring.coreos.com", "v1", "servicemonitors", Some(OptionalApi::Monitoring);
    PrometheusRule: "monitoring.coreos.com", "v1", "prometheusrules", Some(OptionalApi::Monitoring);
}

impl ManagedKind {
    /// Verbs that the operator uses on each kind.
    pub const VERBS: &'static [&'static str] = &["get", "list", "watch", "create", "patch", "delete"];

    /// Returns whether the spec can place this kind in another namespace, where owner references do
    /// not reach.
    pub fn can_be_in_other_namespace(self) -> bool {
        matches!(
            self,
            Self::ConfigMap | Self::ServiceMonitor | Self::PrometheusRule
        )
    }

    /// Returns the resource for a dynamic API client, in the preferred version.
    pub fn api_resource(self) -> ApiResource {
        self.api_resource_in(self.version())
    }

    /// Returns the resource for a dynamic API client, in the version that the API server serves.
    pub fn served_resource(self, apis: &OptionalApis) -> ApiResource {
        let served = self.optional_api().and_then(|api| apis.version(api));
        self.api_resource_in(served.unwrap_or(self.version()))
    }

    fn api_resource_in(self, version: &str) -> ApiResource {
        let kind = GroupVersionKind::gvk(self.group(), version, self.as_str());
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

    /// Returns the verbs by group and resource from the chart's rules for a namespace.
    fn chart_rules() -> BTreeMap<(String, String), BTreeSet<String>> {
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
        let mut rights = chart_rules();
        let all: BTreeSet<String> = ManagedKind::VERBS.iter().map(ToString::to_string).collect();
        for kind in ManagedKind::ALL {
            let given = rights.remove(&(kind.group().to_owned(), kind.plural().to_owned()));
            assert_eq!(given.as_ref(), Some(&all), "{kind}");
        }
        rights.retain(|(group, _), _| group != crate::crd::API_GROUP);
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
                "/pods: get,list,patch,watch",
                "/secrets: create,get,patch",
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
            let is_of =
                |api: &&OptionalApi| api.group() == kind.group() && api.kinds().contains(&kind.as_str());
            let expected = OptionalApi::ALL.iter().find(is_of);
            assert_eq!(kind.optional_api().as_ref(), expected, "{kind}");
        }
    }
}
