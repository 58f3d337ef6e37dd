//! Decides whether a principal may do something, as Kafka 4.3.1's `StandardAuthorizer`.
//!
//! The rules of a resource are the literal ones of its name, the prefixed ones whose name it begins
//! with, and the literal ones of `*`. Of these count those of the principal or of `User:*`, from
//! the host or from `*`, for the operation, for one that implies it, or for all. A rule that denies
//! wins over all that allow. If no rule is for the resource, whoever it is for, the configuration
//! decides; if some are but none counts, the answer is no.
//!
//! There is one difference on purpose. Kafka's authorizer overlooks the rules of `*` for resources
//! whose own name begins with `*`, so that a group `*x` escapes a rule that denies all groups; here
//! they hold.
//!
//! An authorizer never changes: the snapshot of an agent holds one, and a change of rules makes
//! another. A decision takes time in proportion to the name's length, not to the number of rules.

mod by_type;
mod decision;
mod prefix_index;
mod resource_rules;

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

pub use decision::AclDecision;

use self::resource_rules::{AclQuery, ResourceTypeRules};
use super::{
    acl::{AclBinding, AclOperation, AclPermission, AclResourceType},
    principal::KafkaPrincipal,
};

/// The rules of a cluster, and what holds without one.
#[derive(Debug, Clone, Default)]
pub struct AclAuthorizer {
    rules: HashMap<AclResourceType, ResourceTypeRules>,
    super_users: HashSet<KafkaPrincipal>,
    allow_everyone_if_no_acl_found: bool,
}

impl AclAuthorizer {
    /// Indexes rules. Super users may do everything, whatever the rules say. A resource that no
    /// rule is for is open to everybody if `allow_everyone_if_no_acl_found`, Kafka's setting
    /// `allow.everyone.if.no.acl.found`.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamhouse_core::security::{
    ///     AclAuthorizer, AclBinding, AclHost, AclOperation, AclPatternType, AclPermission,
    ///     AclResourceType, KafkaPrincipal,
    /// };
    ///
    /// let alice = KafkaPrincipal::user("alice")?;
    /// let rule = AclBinding {
    ///     resource_type: AclResourceType::Topic,
    ///     name: "orders-".to_owned(),
    ///     pattern: AclPatternType::Prefixed,
    ///     principal: alice.clone(),
    ///     host: AclHost::Any,
    ///     operation: AclOperation::Read,
    ///     permission: AclPermission::Allow,
    /// };
    /// let authorizer = AclAuthorizer::new([rule], [], false);
    /// let may = |operation| {
    ///     let decision = authorizer.authorize(&alice, None, operation, AclResourceType::Topic, "orders-eu");
    ///     decision.is_allowed()
    /// };
    /// assert!(may(AclOperation::Read) && may(AclOperation::Describe));
    /// assert!(!may(AclOperation::Write));
    /// # Ok::<(), streamhouse_core::security::PrincipalError>(())
    /// ```
    pub fn new(
        bindings: impl IntoIterator<Item = AclBinding>,
        super_users: impl IntoIterator<Item = KafkaPrincipal>,
        allow_everyone_if_no_acl_found: bool,
    ) -> Self {
        let mut by_type: HashMap<AclResourceType, Vec<Arc<AclBinding>>> = HashMap::new();
        for binding in bindings {
            let rules = by_type.entry(binding.resource_type).or_default();
            rules.push(Arc::new(binding));
        }
        let index = |(resource_type, rules)| (resource_type, ResourceTypeRules::new(rules));
        Self {
            rules: by_type.into_iter().map(index).collect(),
            super_users: super_users.into_iter().collect(),
            allow_everyone_if_no_acl_found,
        }
    }

    /// Decides whether a principal may do something to a resource. A client without an address, as
    /// one of the same process, gets only what is allowed from every host, and is denied what is
    /// denied from any.
    pub fn authorize(
        &self,
        principal: &KafkaPrincipal,
        host: Option<IpAddr>,
        operation: AclOperation,
        resource_type: AclResourceType,
        name: &str,
    ) -> AclDecision<'_> {
        if self.super_users.contains(principal) {
            return AclDecision::SuperUser;
        }
        let query = AclQuery::new(principal, host, operation);
        let (mut allowed, mut found) = (None, false);
        let rules = self.rules.get(&resource_type);
        for rules in rules.iter().flat_map(|rules| rules.of_resource(name)) {
            found = true;
            match rules.deciding(&query) {
                Some(rule) if rule.permission == AclPermission::Deny => return AclDecision::DeniedBy(rule),
                rule => allowed = allowed.or(rule),
            }
        }
        match allowed {
            Some(rule) => AclDecision::AllowedBy(rule),
            None if found => AclDecision::NoRuleMatches,
            None => AclDecision::NoRuleForResource {
                allowed: self.allow_everyone_if_no_acl_found,
            },
        }
    }

    /// Returns all rules, in no order.
    pub fn bindings(&self) -> impl Iterator<Item = &AclBinding> {
        self.rules.values().flat_map(ResourceTypeRules::bindings)
    }

    /// Returns whether a principal may do everything.
    pub fn is_super_user(&self, principal: &KafkaPrincipal) -> bool {
        self.super_users.contains(principal)
    }
}

#[cfg(test)]
mod tests;
