//! Selects bindings to list or to delete.

use std::str::FromStr;

use super::{
    binding::AclBinding,
    error::AclError,
    kinds::{AclOperation, AclPatternType, AclPermission, AclResourceType},
};

/// Which patterns a filter selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AclPatternFilter {
    /// Patterns of any type whose name is that of the filter.
    #[default]
    Any,
    /// Patterns that a resource with the filter's name matches: literal, prefixed or `*`.
    Match,
    /// Patterns of one type whose name is that of the filter.
    Only(AclPatternType),
}

impl AclPatternFilter {
    /// Returns the filter with a number in Kafka's protocol.
    ///
    /// # Errors
    ///
    /// Fails for numbers that are unknown.
    pub fn from_code(code: i8) -> Result<Self, AclError> {
        match code {
            1 => Ok(Self::Any),
            2 => Ok(Self::Match),
            code => AclPatternType::from_code(code).map(Self::Only),
        }
    }

    /// Returns the number in Kafka's protocol.
    pub const fn code(self) -> i8 {
        match self {
            Self::Any => 1,
            Self::Match => 2,
            Self::Only(pattern) => pattern.code(),
        }
    }
}

impl FromStr for AclPatternFilter {
    type Err = AclError;

    /// Reads `any`, `match`, `literal` or `prefixed`, as `kafka-acls` takes it.
    fn from_str(name: &str) -> Result<Self, AclError> {
        match name.to_ascii_lowercase().as_str() {
            "any" => Ok(Self::Any),
            "match" => Ok(Self::Match),
            _ => name.parse().map(Self::Only),
        }
    }
}

/// A filter of bindings; `None` selects every value. Matches as Kafka's `AclBindingFilter`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AclFilter {
    /// Type of the resource.
    pub resource_type: Option<AclResourceType>,
    /// Name of the pattern, or of the resource if the pattern is [`AclPatternFilter::Match`].
    pub name: Option<String>,
    /// How the name is compared.
    pub pattern: AclPatternFilter,
    /// The principal as it is written. The wildcard selects rules for everybody only.
    pub principal: Option<String>,
    /// The host as it is written; `*` selects rules for every host only.
    pub host: Option<String>,
    /// The operation; [`AclOperation::All`] selects rules for all operations only.
    pub operation: Option<AclOperation>,
    /// What the rules say.
    pub permission: Option<AclPermission>,
}

impl AclFilter {
    /// Returns whether the filter selects a binding.
    pub fn matches(&self, binding: &AclBinding) -> bool {
        is_selected(self.resource_type, binding.resource_type)
            && self.matches_pattern(binding)
            && is_selected(self.operation, binding.operation)
            && is_selected(self.permission, binding.permission)
            && self.matches_principal(binding)
            && self.matches_host(binding)
    }

    fn matches_pattern(&self, binding: &AclBinding) -> bool {
        if let AclPatternFilter::Only(pattern) = self.pattern
            && pattern != binding.pattern
        {
            return false;
        }
        let Some(name) = &self.name else {
            return true;
        };
        match (self.pattern, binding.pattern) {
            (AclPatternFilter::Match, AclPatternType::Literal) => {
                *name == binding.name || binding.is_wildcard()
            }
            (AclPatternFilter::Match, AclPatternType::Prefixed) => name.starts_with(&binding.name),
            _ => *name == binding.name,
        }
    }

    fn matches_principal(&self, binding: &AclBinding) -> bool {
        let written = self.principal.as_deref();
        written.is_none_or(|principal| binding.principal.is_written(principal))
    }

    fn matches_host(&self, binding: &AclBinding) -> bool {
        let written = self.host.as_deref();
        written.is_none_or(|host| host.parse() == Ok(binding.host))
    }
}

impl From<&AclBinding> for AclFilter {
    /// Returns the filter that selects this binding only.
    fn from(binding: &AclBinding) -> Self {
        Self {
            resource_type: Some(binding.resource_type),
            name: Some(binding.name.clone()),
            pattern: AclPatternFilter::Only(binding.pattern),
            principal: Some(binding.principal.to_string()),
            host: Some(binding.host.to_string()),
            operation: Some(binding.operation),
            permission: Some(binding.permission),
        }
    }
}

fn is_selected<T: PartialEq>(filter: Option<T>, value: T) -> bool {
    filter.is_none_or(|wanted| wanted == value)
}
