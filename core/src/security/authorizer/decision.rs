//! What an authorizer answers, with the reason.

use std::fmt;

use crate::security::acl::AclBinding;

/// Whether a principal may do something, and what decides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AclDecision<'a> {
    /// Yes: the principal is a super user.
    SuperUser,
    /// Yes: a rule allows it and none denies it. Of several it is one with the most specific
    /// pattern.
    AllowedBy(&'a AclBinding),
    /// No: a rule denies it. Of several it is one with the most specific pattern.
    DeniedBy(&'a AclBinding),
    /// No: there are rules for the resource, but none for this principal, host and operation.
    NoRuleMatches,
    /// There is no rule for the resource, and the configuration decides.
    NoRuleForResource {
        /// Whether everybody may do what no rule is for.
        allowed: bool,
    },
}

impl AclDecision<'_> {
    /// Returns whether the principal may do it.
    pub const fn is_allowed(&self) -> bool {
        match self {
            Self::SuperUser | Self::AllowedBy(_) => true,
            Self::DeniedBy(_) | Self::NoRuleMatches => false,
            Self::NoRuleForResource { allowed } => *allowed,
        }
    }

    /// Returns the rule that decides.
    pub const fn rule(&self) -> Option<&AclBinding> {
        match self {
            Self::AllowedBy(rule) | Self::DeniedBy(rule) => Some(rule),
            _ => None,
        }
    }
}

impl fmt::Display for AclDecision<'_> {
    /// Writes the answer and its reason as a sentence without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuperUser => f.write_str("allowed: the principal is a super user"),
            Self::AllowedBy(rule) => write!(f, "allowed by the rule: {rule}"),
            Self::DeniedBy(rule) => write!(f, "denied by the rule: {rule}"),
            Self::NoRuleMatches => {
                f.write_str("denied: the resource has rules, but none for this principal, host and operation")
            }
            Self::NoRuleForResource { allowed: true } => {
                f.write_str("allowed: the resource has no rule, and such resources are open to everybody")
            }
            Self::NoRuleForResource { allowed: false } => f.write_str("denied: the resource has no rule"),
        }
    }
}
