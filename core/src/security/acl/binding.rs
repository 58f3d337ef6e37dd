//! One entry of the list: who may or may not do what, to which resources, from where.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    error::AclError,
    kinds::{AclOperation, AclPatternType, AclPermission, AclResourceType, join_names},
};
use crate::security::principal::KafkaPrincipal;

/// The only name of the resource of type [`AclResourceType::Cluster`].
pub const CLUSTER_RESOURCE_NAME: &str = "kafka-cluster";
/// The name of a literal pattern that stands for all resources of its type.
pub const WILDCARD_RESOURCE_NAME: &str = "*";

/// How every host is written.
const ANY_HOST: &str = "*";

/// The host that a client connects from.
///
/// Kafka compares addresses as texts and writes those of IPv6 without `::`; here they are compared
/// as addresses, so all ways to write one are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AclHost {
    /// Every host: `*`.
    Any,
    /// The host with an address. An IPv4 address that is mapped to IPv6 is the IPv4 address.
    Address(IpAddr),
}

impl fmt::Display for AclHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str(ANY_HOST),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for AclHost {
    type Err = AclError;

    fn from_str(text: &str) -> Result<Self, AclError> {
        if text == ANY_HOST {
            return Ok(Self::Any);
        }
        let address: Result<IpAddr, _> = text.parse();
        address
            .map(|address| Self::Address(address.to_canonical()))
            .map_err(|_| AclError::InvalidHost(text.to_owned()))
    }
}

impl TryFrom<String> for AclHost {
    type Error = AclError;

    fn try_from(text: String) -> Result<Self, AclError> {
        text.parse()
    }
}

impl From<AclHost> for String {
    fn from(host: AclHost) -> Self {
        host.to_string()
    }
}

/// A rule for a principal and a pattern of resources.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AclBinding {
    /// Type of the resources.
    pub resource_type: AclResourceType,
    /// Name of the resource, or what names begin with; the literal name `*` is every resource.
    pub name: String,
    /// How names are compared.
    pub pattern: AclPatternType,
    /// Whom the rule is for; [`KafkaPrincipal::WILDCARD`] is everybody.
    pub principal: KafkaPrincipal,
    /// The host from which the rule holds.
    pub host: AclHost,
    /// What the principal does.
    pub operation: AclOperation,
    /// Whether it may.
    pub permission: AclPermission,
}

impl AclBinding {
    /// Checks what the types do not say. Kafka's brokers check the names, its tools the operation.
    ///
    /// # Errors
    ///
    /// Fails if the resource has no name, if the cluster has another name than its own, or if no
    /// request needs the operation on such a resource.
    pub fn validate(&self) -> Result<(), AclError> {
        let Self {
            resource_type,
            operation,
            ..
        } = *self;
        if self.name.is_empty() {
            return Err(AclError::EmptyResourceName(resource_type.name()));
        }
        if self.name.contains('\0') {
            return Err(AclError::NulCharacter);
        }
        if resource_type == AclResourceType::Cluster && self.name != CLUSTER_RESOURCE_NAME {
            return Err(AclError::ClusterName(self.name.clone()));
        }
        let operations = resource_type.operations();
        if operation != AclOperation::All && !operations.contains(&operation) {
            return Err(AclError::UnsupportedOperation {
                resource_type: resource_type.name(),
                operation: operation.name(),
                known: format!("{}, {}", AclOperation::All, join_names(operations)),
            });
        }
        Ok(())
    }

    /// Returns whether the binding stands for all resources of its type.
    pub fn is_wildcard(&self) -> bool {
        self.pattern == AclPatternType::Literal && self.name == WILDCARD_RESOURCE_NAME
    }
}

impl fmt::Display for AclBinding {
    /// Writes a sentence: `Allow User:alice Read on Topic orders (Literal) from *`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {} on {} {} ({}) from {}",
            self.permission,
            self.principal,
            self.operation,
            self.resource_type,
            self.name,
            self.pattern,
            self.host
        )
    }
}
