//! Whether a principal may do something to any resource of a type, as Kafka's default
//! `Authorizer.authorizeByResourceType`: idempotent producers need the right to write to some
//! topic.

use std::{collections::HashSet, net::IpAddr};

use super::{
    AclAuthorizer, AclDecision,
    resource_rules::{AclQuery, ResourceTypeRules},
};
use crate::security::{
    acl::{AclBinding, AclOperation, AclPatternType, AclPermission, AclResourceType},
    principal::KafkaPrincipal,
};

/// A name that Kafka asks for first, to learn of super users and of what holds without rules.
const ARBITRARY_NAME: &str = "hardcode";

impl AclAuthorizer {
    /// Decides whether there is a name such that a principal may do something to the resource of
    /// this type with that name. Operations that imply this one do not count, as in Kafka. Takes
    /// time in proportion to the rules of the principal for the type.
    pub fn authorize_by_resource_type(
        &self,
        principal: &KafkaPrincipal,
        host: Option<IpAddr>,
        operation: AclOperation,
        resource_type: AclResourceType,
    ) -> AclDecision<'_> {
        let decision = self.authorize(principal, host, operation, resource_type, ARBITRARY_NAME);
        if decision.is_allowed() {
            return decision;
        }
        let Some(rules) = self.rules.get(&resource_type) else {
            return decision;
        };
        let query = AclQuery::new(principal, host, operation);
        let denied = DeniedNames::new(rules, principal, &query);
        if let Some(rule) = denied.everything {
            return AclDecision::DeniedBy(rule);
        }
        let mut allowing = counting(rules, principal, &query, AclPermission::Allow);
        match allowing.find(|rule| !denied.covers(rule)) {
            Some(rule) => AclDecision::AllowedBy(rule),
            None => AclDecision::NoRuleMatches,
        }
    }
}

/// Returns the rules that name the operation and say one thing.
fn counting<'a>(
    rules: &'a ResourceTypeRules,
    principal: &KafkaPrincipal,
    query: &AclQuery<'_>,
    permission: AclPermission,
) -> impl Iterator<Item = &'a AclBinding> {
    rules
        .all
        .of_principal(principal)
        .filter(move |rule| rule.permission == permission)
        .filter(|rule| query.is_named_by(rule) && query.is_from_host_of(rule))
}

/// What is denied to a principal.
#[derive(Default)]
struct DeniedNames<'a> {
    everything: Option<&'a AclBinding>,
    literal: HashSet<&'a str>,
    prefixed: HashSet<&'a str>,
}

impl<'a> DeniedNames<'a> {
    fn new(rules: &'a ResourceTypeRules, principal: &KafkaPrincipal, query: &AclQuery<'_>) -> Self {
        let mut denied = Self::default();
        for rule in counting(rules, principal, query, AclPermission::Deny) {
            if rule.is_wildcard() {
                denied.everything = Some(rule);
            }
            match rule.pattern {
                AclPatternType::Literal => denied.literal.insert(&rule.name),
                AclPatternType::Prefixed => denied.prefixed.insert(&rule.name),
            };
        }
        denied
    }

    /// Returns whether all that a rule allows is denied by one other rule.
    fn covers(&self, rule: &AclBinding) -> bool {
        if rule.is_wildcard() {
            return false;
        }
        let name = rule.name.as_str();
        if rule.pattern == AclPatternType::Literal && self.literal.contains(name) {
            return true;
        }
        let mut prefixes = name
            .char_indices()
            .map(|(at, letter)| &name[..at + letter.len_utf8()]);
        prefixes.any(|prefix| self.prefixed.contains(prefix))
    }
}
