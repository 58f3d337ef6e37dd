//! Quotas of clients in Kafka's terms: for which users, client ids and addresses they are set,
//! which one holds for a client, and how long a client that exceeds it is throttled.

mod client_quotas;
mod entity;
mod error;
mod filter;
mod key;
mod token_bucket;

pub use client_quotas::{ClientQuotas, QuotaLimit, QuotaScope};
pub use entity::{QuotaEntity, QuotaEntityType, QuotaName};
pub use error::QuotaError;
pub use filter::{QuotaFilter, QuotaMatch};
pub use key::QuotaKey;
pub use token_bucket::{TokenBucket, TokenRate};

#[cfg(test)]
mod tests;
