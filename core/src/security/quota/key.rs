//! What is limited, and by which values.

use std::{fmt, str::FromStr};

use super::{entity::QuotaEntity, error::QuotaError};

/// A quota, by its name in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuotaKey {
    /// Bytes that a client produces in a second.
    ProducerByteRate,
    /// Bytes that a client fetches in a second.
    ConsumerByteRate,
    /// Time that requests of a client are served, in percent of one processor.
    RequestPercentage,
    /// Partitions that a client creates or deletes in a second.
    ControllerMutationRate,
    /// Connections that are made from an address in a second.
    ConnectionCreationRate,
}

impl QuotaKey {
    /// All quotas.
    pub const ALL: [Self; 5] = [
        Self::ProducerByteRate,
        Self::ConsumerByteRate,
        Self::RequestPercentage,
        Self::ControllerMutationRate,
        Self::ConnectionCreationRate,
    ];

    /// Returns the name, such as `producer_byte_rate`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ProducerByteRate => "producer_byte_rate",
            Self::ConsumerByteRate => "consumer_byte_rate",
            Self::RequestPercentage => "request_percentage",
            Self::ControllerMutationRate => "controller_mutation_rate",
            Self::ConnectionCreationRate => "connection_creation_rate",
        }
    }

    /// Returns the largest value, and whether it is a whole number.
    const fn bounds(self) -> (f64, bool) {
        match self {
            Self::ProducerByteRate | Self::ConsumerByteRate => (i64::MAX as f64, true),
            Self::RequestPercentage | Self::ControllerMutationRate => (f64::MAX, false),
            Self::ConnectionCreationRate => (i32::MAX as f64, true),
        }
    }

    /// Checks whether a quota may be set for an entity, as Kafka does.
    ///
    /// # Errors
    ///
    /// Fails if quotas of such entities have other keys, or if the value is not positive, is not
    /// whole where it must be, or is too large.
    pub fn validate(self, entity: &QuotaEntity, value: f64) -> Result<(), QuotaError> {
        let is_of_address = self == Self::ConnectionCreationRate;
        if is_of_address != entity.ip().is_some() {
            let entity = if is_of_address {
                "users and client-ids"
            } else {
                "an ip"
            };
            return Err(QuotaError::KeyOfOtherEntity {
                key: self.name(),
                entity,
            });
        }
        let (largest, is_whole) = self.bounds();
        let is_allowed = value > 0.0 && value <= largest && (!is_whole || value.fract() <= 1e-6);
        if is_allowed {
            return Ok(());
        }
        Err(QuotaError::InvalidValue {
            key: self.name(),
            allowed: match is_whole {
                true => "a positive whole number",
                false => "a positive number",
            },
            value,
        })
    }
}

impl fmt::Display for QuotaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for QuotaKey {
    type Err = QuotaError;

    fn from_str(name: &str) -> Result<Self, QuotaError> {
        let found = Self::ALL.into_iter().find(|key| key.name() == name);
        found.ok_or_else(|| QuotaError::UnknownKey {
            name: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}
