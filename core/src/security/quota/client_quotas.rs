//! Finds the quota that holds for a client.

use std::{collections::HashMap, net::IpAddr};

use super::{
    entity::{QuotaEntity, QuotaName},
    key::QuotaKey,
};

/// A limit, and which clients share it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuotaLimit {
    /// What all of them may do together in a second, in the unit of the key.
    pub per_second: f64,
    /// Who shares it with the client.
    pub scope: QuotaScope,
}

/// Which clients share a limit. A default limit is not shared by all whom it is for: each user or
/// client id has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QuotaScope {
    /// Those of the same user with the same client id.
    UserAndClientId,
    /// Those of the same user.
    User,
    /// Those with the same client id, of all users.
    ClientId,
}

/// All quotas of a cluster.
#[derive(Debug, Clone)]
pub struct ClientQuotas {
    is_empty: bool,
    users: NamedQuotas<String, UserQuotas>,
    client_ids: NamedQuotas<String, QuotaValues>,
    addresses: NamedQuotas<IpAddr, QuotaValues>,
}

/// Quotas by name, and the default.
#[derive(Debug, Clone)]
struct NamedQuotas<K, T> {
    named: HashMap<K, T>,
    default: T,
}

impl<K, T: Default> Default for NamedQuotas<K, T> {
    fn default() -> Self {
        Self {
            named: HashMap::new(),
            default: T::default(),
        }
    }
}

/// The quotas of a user: for all client ids together, and by client id.
#[derive(Debug, Clone, Default)]
struct UserQuotas {
    own: QuotaValues,
    client_ids: NamedQuotas<String, QuotaValues>,
}

/// The limits of an entity.
#[derive(Debug, Clone, Default)]
struct QuotaValues(Vec<(QuotaKey, f64)>);

impl QuotaValues {
    fn get(&self, key: QuotaKey) -> Option<f64> {
        let mut values = self.0.iter();
        let (_, value) = values.find(|(known, _)| *known == key)?;
        Some(*value)
    }
}

impl<T: Default> NamedQuotas<String, T> {
    fn entry(&mut self, name: QuotaName) -> &mut T {
        match name {
            QuotaName::Default => &mut self.default,
            QuotaName::Named(name) => self.named.entry(name).or_default(),
        }
    }
}

impl NamedQuotas<String, QuotaValues> {
    /// Returns the limit of a name, or else the default one.
    fn limit(&self, key: QuotaKey, name: &str) -> Option<f64> {
        let named = self.named.get(name).and_then(|values| values.get(key));
        named.or_else(|| self.default.get(key))
    }
}

impl UserQuotas {
    fn limit(&self, key: QuotaKey, client_id: &str) -> Option<QuotaLimit> {
        let of_client = self.client_ids.limit(key, client_id);
        let of_client = of_client.map(|limit| QuotaLimit::new(limit, QuotaScope::UserAndClientId));
        of_client.or_else(|| Some(QuotaLimit::new(self.own.get(key)?, QuotaScope::User)))
    }
}

impl QuotaLimit {
    const fn new(per_second: f64, scope: QuotaScope) -> Self {
        Self { per_second, scope }
    }
}

impl Default for ClientQuotas {
    fn default() -> Self {
        Self {
            is_empty: true,
            users: NamedQuotas::default(),
            client_ids: NamedQuotas::default(),
            addresses: NamedQuotas::default(),
        }
    }
}

impl ClientQuotas {
    /// Indexes quotas. Of several for the same entity and key, one holds.
    pub fn new(quotas: impl IntoIterator<Item = (QuotaEntity, QuotaKey, f64)>) -> Self {
        let mut index = Self::default();
        for (entity, key, limit) in quotas {
            index.is_empty = false;
            if let Some(values) = index.values_of(entity) {
                values.0.push((key, limit));
            }
        }
        index
    }

    /// Returns whether no client has a limit.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    fn values_of(&mut self, entity: QuotaEntity) -> Option<&mut QuotaValues> {
        let (user, client_id, ip) = entity.into_parts();
        Some(match (user, client_id, ip) {
            (Some(user), Some(client_id), _) => self.users.entry(user).client_ids.entry(client_id),
            (Some(user), None, _) => &mut self.users.entry(user).own,
            (None, Some(client_id), _) => self.client_ids.entry(client_id),
            (None, None, Some(QuotaName::Default)) => &mut self.addresses.default,
            (None, None, Some(QuotaName::Named(ip))) => {
                self.addresses.named.entry(ip.parse().ok()?).or_default()
            }
            (None, None, None) => return None,
        })
    }

    /// Returns the limit of a client, by the name of its user and its client id. In the order of
    /// Kafka's precedence:
    ///
    /// | user | client id |
    /// |---|---|
    /// | by name | by name |
    /// | by name | default |
    /// | by name | |
    /// | default | by name |
    /// | default | default |
    /// | default | |
    /// | | by name |
    /// | | default |
    ///
    /// A client without a client id is one whose client id is empty, for whom defaults hold; Kafka
    /// leaves some of these clients without a limit.
    ///
    /// # Examples
    ///
    /// ```
    /// use streamhouse_core::security::{
    ///     ClientQuotas, QuotaEntity, QuotaEntityType, QuotaError, QuotaKey, QuotaName, QuotaScope,
    /// };
    ///
    /// let every_user = QuotaEntity::new([(QuotaEntityType::User, QuotaName::Default)])?;
    /// let quotas = ClientQuotas::new([(every_user, QuotaKey::ProducerByteRate, 1e6)]);
    /// let limit = quotas.limit(QuotaKey::ProducerByteRate, "alice", "app").expect("a default");
    /// assert_eq!((limit.per_second, limit.scope), (1e6, QuotaScope::User));
    /// # Ok::<(), QuotaError>(())
    /// ```
    pub fn limit(&self, key: QuotaKey, user: &str, client_id: &str) -> Option<QuotaLimit> {
        let by_name = self.users.named.get(user);
        let by_name = by_name.and_then(|quotas| quotas.limit(key, client_id));
        by_name
            .or_else(|| self.users.default.limit(key, client_id))
            .or_else(|| {
                let limit = self.client_ids.limit(key, client_id)?;
                Some(QuotaLimit::new(limit, QuotaScope::ClientId))
            })
    }

    /// Returns how many connections may be made from an address in a second.
    pub fn connection_rate(&self, address: IpAddr) -> Option<f64> {
        let key = QuotaKey::ConnectionCreationRate;
        let named = self.addresses.named.get(&address.to_canonical());
        let named = named.and_then(|values| values.get(key));
        named.or_else(|| self.addresses.default.get(key))
    }
}
