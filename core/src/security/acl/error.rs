//! Why a binding or a filter is invalid.

use thiserror::Error;

use crate::security::principal::PrincipalError;

/// Why a binding, a filter or a part of one is invalid; the message says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AclError {
    /// A number stands for nothing in Kafka's protocol.
    #[error("{code} is no {what}")]
    UnknownCode {
        /// What was to be read.
        what: &'static str,
        /// The number.
        code: i8,
    },
    /// A name stands for nothing.
    #[error("`{name}` is no {what}: one of {known}")]
    UnknownName {
        /// What was to be read.
        what: &'static str,
        /// The name.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// The name of a resource of this type is empty.
    #[error("the name of the resource must not be empty; * is every {0}")]
    EmptyResourceName(&'static str),
    /// The name of the resource contains a NUL character, which databases cannot store.
    #[error("the name of the resource must not contain a NUL character")]
    NulCharacter,
    /// The cluster has another name.
    #[error("the only valid name of the Cluster resource is kafka-cluster, not `{0}`")]
    ClusterName(String),
    /// No request needs the operation on such a resource.
    #[error("{resource_type} resources have no operation {operation}: one of {known}")]
    UnsupportedOperation {
        /// The type of the resource.
        resource_type: &'static str,
        /// The operation.
        operation: &'static str,
        /// The operations of the type, separated by commas.
        known: String,
    },
    /// The host is neither every host nor an address.
    #[error("a host is * or an IP address, not `{0}`: names and networks are not supported")]
    InvalidHost(String),
    /// The principal is malformed.
    #[error(transparent)]
    Principal(#[from] PrincipalError),
}
