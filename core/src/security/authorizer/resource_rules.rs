//! The rules of one type of resources, found by name and principal.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    net::IpAddr,
    sync::Arc,
};

use super::prefix_index::PrefixIndex;
use crate::security::{
    acl::{AclBinding, AclHost, AclOperation, AclPatternType, AclPermission, WILDCARD_RESOURCE_NAME},
    principal::KafkaPrincipal,
};

/// Who asks for what.
#[derive(Debug)]
pub(super) struct AclQuery<'a> {
    principal: &'a KafkaPrincipal,
    host: Option<IpAddr>,
    operation: AclOperation,
}

impl<'a> AclQuery<'a> {
    pub(super) fn new(principal: &'a KafkaPrincipal, host: Option<IpAddr>, operation: AclOperation) -> Self {
        Self {
            principal,
            host: host.map(|host| host.to_canonical()),
            operation,
        }
    }

    /// Returns whether a rule of the principal and the resource counts.
    fn is_matched_by(&self, rule: &AclBinding) -> bool {
        self.is_from_host_of(rule)
            && match rule.permission {
                AclPermission::Allow => is_implied(self.operation, rule.operation),
                AclPermission::Deny => self.is_named_by(rule),
            }
    }

    /// Returns whether a rule is for the operation itself, or for all.
    pub(super) fn is_named_by(&self, rule: &AclBinding) -> bool {
        rule.operation == AclOperation::All || rule.operation == self.operation
    }

    /// Returns whether a rule holds for the host. A host that is not known may be the denied one.
    pub(super) fn is_from_host_of(&self, rule: &AclBinding) -> bool {
        match (rule.host, self.host) {
            (AclHost::Any, _) => true,
            (AclHost::Address(address), Some(host)) => address == host,
            (AclHost::Address(_), None) => rule.permission == AclPermission::Deny,
        }
    }
}

/// Returns whether who may do one operation may do another.
fn is_implied(asked: AclOperation, allowed: AclOperation) -> bool {
    use AclOperation::*;
    match (asked, allowed) {
        (_, All) | (Describe, Read | Write | Delete | Alter) | (DescribeConfigs, AlterConfigs) => true,
        (asked, allowed) => asked == allowed,
    }
}

/// Rules by whom they are for.
#[derive(Debug, Clone, Default)]
pub(super) struct PrincipalRules {
    by_principal: HashMap<KafkaPrincipal, Vec<Arc<AclBinding>>>,
    for_everybody: Vec<Arc<AclBinding>>,
}

impl PrincipalRules {
    fn insert(&mut self, rule: Arc<AclBinding>) {
        if rule.principal.is_wildcard() {
            self.for_everybody.push(rule);
        } else {
            let rules = self.by_principal.entry(rule.principal.clone()).or_default();
            rules.push(rule);
        }
    }

    fn bindings(&self) -> impl Iterator<Item = &AclBinding> {
        let of_principals = self.by_principal.values().flatten();
        of_principals.chain(&self.for_everybody).map(Arc::as_ref)
    }

    /// Returns the rules of a principal, then those for everybody.
    pub(super) fn of_principal(&self, principal: &KafkaPrincipal) -> impl Iterator<Item = &AclBinding> {
        let own = self.by_principal.get(principal);
        let own = own.map(Vec::as_slice).unwrap_or_default();
        own.iter().chain(&self.for_everybody).map(Arc::as_ref)
    }

    /// Returns a rule that counts: one that denies, or else the first that allows.
    pub(super) fn deciding(&self, query: &AclQuery<'_>) -> Option<&AclBinding> {
        let mut allowing = None;
        for rule in self.of_principal(query.principal) {
            if !query.is_matched_by(rule) {
                continue;
            }
            if rule.permission == AclPermission::Deny {
                return Some(rule);
            }
            allowing = allowing.or(Some(rule));
        }
        allowing
    }
}

/// The rules of one type of resources.
#[derive(Debug, Clone, Default)]
pub(super) struct ResourceTypeRules {
    literal: HashMap<String, PrincipalRules>,
    prefixed: PrefixIndex<PrincipalRules>,
    /// All rules of the type.
    pub(super) all: PrincipalRules,
}

impl ResourceTypeRules {
    pub(super) fn new(rules: Vec<Arc<AclBinding>>) -> Self {
        let mut index = Self::default();
        let mut prefixed: BTreeMap<String, PrincipalRules> = BTreeMap::new();
        for rule in rules {
            let name = rule.name.clone();
            index.all.insert(Arc::clone(&rule));
            let of_name = match rule.pattern {
                AclPatternType::Literal => index.literal.entry(name).or_default(),
                AclPatternType::Prefixed => prefixed.entry(name).or_default(),
            };
            of_name.insert(rule);
        }
        index.prefixed = PrefixIndex::new(prefixed);
        index
    }

    pub(super) fn bindings(&self) -> impl Iterator<Item = &AclBinding> {
        self.all.bindings()
    }

    /// Returns the rules that are for a resource, the most specific first.
    pub(super) fn of_resource(&self, name: &str) -> impl Iterator<Item = &PrincipalRules> {
        let wildcard = (name != WILDCARD_RESOURCE_NAME).then_some(WILDCARD_RESOURCE_NAME);
        let wildcard = wildcard.and_then(|wildcard| self.literal.get(wildcard));
        iter::empty()
            .chain(self.literal.get(name))
            .chain(self.prefixed.prefixes_of(name))
            .chain(wildcard)
    }
}
