//! For whom a quota is set.

use std::{fmt, net::IpAddr, str::FromStr};

use super::error::QuotaError;

/// What a part of an entity names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaEntityType {
    /// The name of a user principal.
    User,
    /// The client id of a request.
    ClientId,
    /// The address that a client connects from.
    Ip,
}

impl QuotaEntityType {
    /// All types.
    pub const ALL: [Self; 3] = [Self::User, Self::ClientId, Self::Ip];

    /// Returns the name in Kafka's protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ClientId => "client-id",
            Self::Ip => "ip",
        }
    }
}

impl fmt::Display for QuotaEntityType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for QuotaEntityType {
    type Err = QuotaError;

    fn from_str(name: &str) -> Result<Self, QuotaError> {
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| QuotaError::UnknownEntityType(name.to_owned()))
    }
}

/// One name, or all that have no quota of their own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaName {
    /// Each of those that have no quota of their own. They do not share it.
    Default,
    /// The one with a name.
    Named(String),
}

impl QuotaName {
    /// Returns the name; `None` is the default, as in Kafka's protocol.
    pub fn as_deref(&self) -> Option<&str> {
        match self {
            Self::Default => None,
            Self::Named(name) => Some(name),
        }
    }
}

/// Whom a quota is for: a user, a client id, both, or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuotaEntity {
    user: Option<QuotaName>,
    client_id: Option<QuotaName>,
    ip: Option<QuotaName>,
}

impl QuotaEntity {
    /// Makes an entity of its parts.
    ///
    /// # Errors
    ///
    /// Fails if there is no part, one appears twice, an address is combined with another part, a
    /// name is empty, or that of an address is not one.
    pub fn new(parts: impl IntoIterator<Item = (QuotaEntityType, QuotaName)>) -> Result<Self, QuotaError> {
        let mut entity = Self {
            user: None,
            client_id: None,
            ip: None,
        };
        for (kind, name) in parts {
            let name = checked_name(kind, name)?;
            if entity.part_mut(kind).replace(name).is_some() {
                return Err(QuotaError::DuplicateEntityType(kind.name()));
            }
        }
        let is_of_client = entity.user.is_some() || entity.client_id.is_some();
        match (is_of_client, entity.ip.is_some()) {
            (false, false) => Err(QuotaError::EmptyEntity),
            (true, true) => Err(QuotaError::CombinedAddress),
            _ => Ok(entity),
        }
    }

    fn part_mut(&mut self, kind: QuotaEntityType) -> &mut Option<QuotaName> {
        match kind {
            QuotaEntityType::User => &mut self.user,
            QuotaEntityType::ClientId => &mut self.client_id,
            QuotaEntityType::Ip => &mut self.ip,
        }
    }

    /// Returns the part of a type.
    pub const fn part(&self, kind: QuotaEntityType) -> Option<&QuotaName> {
        match kind {
            QuotaEntityType::User => self.user.as_ref(),
            QuotaEntityType::ClientId => self.client_id.as_ref(),
            QuotaEntityType::Ip => self.ip.as_ref(),
        }
    }

    /// Returns all parts.
    pub fn parts(&self) -> impl Iterator<Item = (QuotaEntityType, &QuotaName)> {
        let part = |kind| Some((kind, self.part(kind)?));
        QuotaEntityType::ALL.into_iter().filter_map(part)
    }

    /// Returns the user, the client id and the address.
    pub(super) fn into_parts(self) -> (Option<QuotaName>, Option<QuotaName>, Option<QuotaName>) {
        (self.user, self.client_id, self.ip)
    }

    /// Returns the user.
    pub const fn user(&self) -> Option<&QuotaName> {
        self.user.as_ref()
    }

    /// Returns the client id.
    pub const fn client_id(&self) -> Option<&QuotaName> {
        self.client_id.as_ref()
    }

    /// Returns the address.
    pub const fn ip(&self) -> Option<&QuotaName> {
        self.ip.as_ref()
    }
}

impl fmt::Display for QuotaEntity {
    /// Writes the parts as `kafka-configs` prints them: `user alice, the default client-id`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, name)) in self.parts().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match name {
                QuotaName::Default => write!(f, "{separator}the default {kind}")?,
                QuotaName::Named(name) => write!(f, "{separator}{kind} {name}")?,
            }
        }
        Ok(())
    }
}

/// Returns a name as it is compared: all ways to write an address are the same.
pub(super) fn checked_name(kind: QuotaEntityType, name: QuotaName) -> Result<QuotaName, QuotaError> {
    match name {
        QuotaName::Named(name) if name.is_empty() => Err(QuotaError::EmptyName(kind.name())),
        QuotaName::Named(name) if name.contains('\0') => Err(QuotaError::NulCharacter(kind.name())),
        QuotaName::Named(name) if kind == QuotaEntityType::Ip => {
            let address: Result<IpAddr, _> = name.parse();
            let address = address.map_err(|_| QuotaError::InvalidAddress(name))?;
            Ok(QuotaName::Named(address.to_canonical().to_string()))
        }
        name => Ok(name),
    }
}
