//! The options that name resources, and those that select ACLs.

use clap::{Args, ValueEnum};
use streamhouse_client::admin::{
    AclFilter, AclOperation, AclPatternFilter, AclPatternType, AclResourceType, KafkaPrincipal,
};
use streamhouse_core::security::CLUSTER_RESOURCE_NAME;

/// Options that name resources.
#[derive(Debug, Args)]
pub(crate) struct AclResources {
    /// Topic; repeat for several, * for all
    #[arg(long, value_name = "NAME")]
    topic: Vec<String>,
    /// Consumer group; repeat for several, * for all
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// Transactional id; repeat for several, * for all
    #[arg(long, value_name = "ID")]
    transactional_id: Vec<String>,
    /// The cluster itself
    #[arg(long)]
    cluster: bool,
}

/// Options of which one names a resource.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct AclResource {
    /// A topic
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// A consumer group
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// A transactional id
    #[arg(long, value_name = "ID")]
    transactional_id: Option<String>,
    /// The cluster itself
    #[arg(long)]
    cluster: bool,
}

impl AclResource {
    /// Returns the type and the name of the resource.
    pub(super) fn named(&self) -> (AclResourceType, &str) {
        let names = [
            (AclResourceType::Topic, &self.topic),
            (AclResourceType::Group, &self.group),
            (AclResourceType::TransactionalId, &self.transactional_id),
        ];
        let named = names
            .into_iter()
            .find_map(|(kind, name)| Some((kind, name.as_deref()?)));
        named.unwrap_or((AclResourceType::Cluster, CLUSTER_RESOURCE_NAME))
    }
}

/// Options that name resources, or prefixes of their names.
#[derive(Debug, Args)]
pub(crate) struct AclResourcePatterns {
    #[command(flatten)]
    resources: AclResources,
    /// Names are prefixes: all resources whose names begin with them
    #[arg(long)]
    prefixed: bool,
}

/// Which patterns are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PatternChoice {
    /// Patterns of this very name
    Any,
    /// Patterns that a resource of this name matches
    Match,
}

/// Options that select ACLs; one that is left out selects all.
#[derive(Debug, Args)]
pub(crate) struct AclSelection {
    /// Principal that the ACL is for, such as User:alice
    #[arg(long)]
    principal: Option<KafkaPrincipal>,
    /// Operation, such as Read
    #[arg(long)]
    operation: Option<AclOperation>,
    #[command(flatten)]
    resources: AclResourcePatterns,
    /// How the names of resources are compared (default: literal, or prefixed with --prefixed)
    #[arg(long, value_enum, conflicts_with = "prefixed")]
    pattern: Option<PatternChoice>,
}

impl AclResources {
    /// Returns the resources with their types.
    pub(super) fn named(&self) -> Vec<(AclResourceType, String)> {
        let of = |resource_type, names: &[String]| {
            let named = names.iter().cloned().map(|name| (resource_type, name));
            named.collect::<Vec<_>>()
        };
        let mut all = of(AclResourceType::Topic, &self.topic);
        all.extend(of(AclResourceType::Group, &self.group));
        all.extend(of(AclResourceType::TransactionalId, &self.transactional_id));
        if self.cluster {
            all.push((AclResourceType::Cluster, CLUSTER_RESOURCE_NAME.to_owned()));
        }
        all
    }
}

impl AclResourcePatterns {
    /// Returns the resources, or the prefixes, with their types.
    pub(super) fn named(&self) -> Vec<(AclResourceType, String)> {
        self.resources.named()
    }

    /// Returns what names stand for.
    pub(super) fn pattern(&self) -> AclPatternType {
        match self.prefixed {
            true => AclPatternType::Prefixed,
            false => AclPatternType::Literal,
        }
    }
}

impl AclSelection {
    /// Returns whether no option narrows the selection.
    pub(super) fn selects_everything(&self) -> bool {
        self.principal.is_none() && self.operation.is_none() && self.resources.named().is_empty()
    }

    /// Returns one filter for each resource, or one for all of them.
    pub(super) fn filters(&self) -> Vec<AclFilter> {
        let mut all = AclFilter {
            principal: self.principal.as_ref().map(ToString::to_string),
            operation: self.operation,
            ..AclFilter::default()
        };
        let resources = self.resources.named();
        if resources.is_empty() {
            if self.resources.prefixed {
                all.pattern = AclPatternFilter::Only(AclPatternType::Prefixed);
            }
            return vec![all];
        }
        let pattern = match self.pattern {
            None => AclPatternFilter::Only(self.resources.pattern()),
            Some(PatternChoice::Any) => AclPatternFilter::Any,
            Some(PatternChoice::Match) => AclPatternFilter::Match,
        };
        let filters = resources.into_iter().map(|(resource_type, name)| AclFilter {
            resource_type: Some(resource_type),
            name: Some(name),
            pattern,
            ..all.clone()
        });
        filters.collect()
    }
}
