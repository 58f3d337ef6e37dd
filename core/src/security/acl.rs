//! Access control lists in Kafka's terms: bindings of a resource pattern to what a principal may or
//! may not do, and filters that select bindings.
//!
//! Codes are those of Kafka's protocol, names those that `kafka-acls` prints and takes.

mod binding;
mod error;
mod filter;
mod kinds;

pub use binding::{AclBinding, AclHost, CLUSTER_RESOURCE_NAME, WILDCARD_RESOURCE_NAME};
pub use error::AclError;
pub use filter::{AclFilter, AclPatternFilter};
pub use kinds::{AclOperation, AclPatternType, AclPermission, AclResourceType};

#[cfg(test)]
mod tests;
