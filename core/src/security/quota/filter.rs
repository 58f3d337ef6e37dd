//! Selects entities to list their quotas.

use super::{
    entity::{QuotaEntity, QuotaEntityType, QuotaName, checked_name},
    error::QuotaError,
};

/// Which names of a type a filter selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuotaMatch {
    /// The default or the one with a name.
    Only(QuotaName),
    /// The default and every name.
    Any,
}

impl QuotaMatch {
    /// Returns the match with a number in Kafka's protocol, and the name that it comes with.
    ///
    /// # Errors
    ///
    /// Fails for numbers that are unknown, and if a name is missing or superfluous.
    pub fn from_code(code: i8, name: Option<String>) -> Result<Self, QuotaError> {
        match (code, name) {
            (0, Some(name)) => Ok(Self::Only(QuotaName::Named(name))),
            (1, None) => Ok(Self::Only(QuotaName::Default)),
            (2, None) => Ok(Self::Any),
            (0..=2, _) => Err(QuotaError::MatchName),
            _ => Err(QuotaError::UnknownMatchType(code)),
        }
    }
}

/// A filter of entities, as in Kafka's `DescribeClientQuotas`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaFilter {
    components: Vec<(QuotaEntityType, QuotaMatch)>,
    is_strict: bool,
}

impl QuotaFilter {
    /// Makes a filter of its components. A strict one selects only entities without further parts.
    ///
    /// # Errors
    ///
    /// Fails if a type appears twice, if addresses are combined with users or client ids, or if a
    /// name is one that no entity can have.
    pub fn new(
        components: impl IntoIterator<Item = (QuotaEntityType, QuotaMatch)>,
        is_strict: bool,
    ) -> Result<Self, QuotaError> {
        let mut checked: Vec<(QuotaEntityType, QuotaMatch)> = Vec::new();
        for (kind, wanted) in components {
            if checked.iter().any(|(known, _)| *known == kind) {
                return Err(QuotaError::DuplicateEntityType(kind.name()));
            }
            let wanted = match wanted {
                QuotaMatch::Only(name) => QuotaMatch::Only(checked_name(kind, name)?),
                QuotaMatch::Any => QuotaMatch::Any,
            };
            checked.push((kind, wanted));
        }
        let has_address = checked.iter().any(|(kind, _)| *kind == QuotaEntityType::Ip);
        if has_address && checked.len() > 1 {
            return Err(QuotaError::CombinedAddress);
        }
        Ok(Self {
            components: checked,
            is_strict,
        })
    }

    /// Returns whether the filter selects an entity: it has a part for every component.
    pub fn matches(&self, entity: &QuotaEntity) -> bool {
        if self.is_strict && entity.parts().count() != self.components.len() {
            return false;
        }
        let mut components = self.components.iter();
        components.all(|(kind, wanted)| match (entity.part(*kind), wanted) {
            (Some(_), QuotaMatch::Any) => true,
            (Some(name), QuotaMatch::Only(wanted)) => name == wanted,
            (None, _) => false,
        })
    }
}
