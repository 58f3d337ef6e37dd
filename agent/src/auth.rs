//! Who a client is and what it may do. Clients are not authenticated yet: each is anonymous and may
//! do everything.

use streamhouse_core::{Error, kafka::ApiKey};

/// A client, as far as it has proven who it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ClientPrincipal {
    /// A client that has proven nothing; Kafka's `User:ANONYMOUS`.
    #[default]
    Anonymous,
}

impl ClientPrincipal {
    /// Checks whether the client may send requests of this API. Each request is checked once,
    /// before it is decoded.
    ///
    /// # Errors
    /// If it may not; its connection then ends.
    pub fn authorize_request(&self, _api: ApiKey) -> Result<(), Error> {
        match self {
            Self::Anonymous => Ok(()),
        }
    }
}
