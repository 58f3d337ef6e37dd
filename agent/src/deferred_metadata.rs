//! A [`MetadataStore`] whose connection is made later: until then every call returns `Unavailable`,
//! which all callers retry. This lets the agent bind its ports and answer `/health` while the
//! database is unavailable.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use streamhouse_metadata::{Error, MetadataStore, Result, for_each_metadata_method};
use tokio_util::sync::CancellationToken;

/// A metadata store that is connected after it is handed out.
#[derive(Debug, Default)]
pub struct DeferredMetadataStore {
    store: OnceLock<Arc<dyn MetadataStore>>,
    connected: CancellationToken,
    /// While set, every call fails.
    #[cfg(test)]
    pub(crate) disconnected: std::sync::atomic::AtomicBool,
    /// Number of calls of each method.
    #[cfg(test)]
    pub(crate) calls: parking_lot::Mutex<std::collections::BTreeMap<&'static str, usize>>,
}

impl DeferredMetadataStore {
    /// Sends all further calls to this store. Only the first call of this method has an effect.
    pub fn set_store(&self, store: Arc<dyn MetadataStore>) {
        let _ = self.store.set(store);
        self.connected.cancel();
    }

    /// Returns whether the store is connected.
    pub fn is_connected(&self) -> bool {
        self.store.get().is_some()
    }

    /// Waits until the store is connected.
    pub async fn wait_connected(&self) {
        self.connected.cancelled().await;
    }

    fn store(&self) -> Result<&Arc<dyn MetadataStore>> {
        #[cfg(test)]
        if self.disconnected.load(std::sync::atomic::Ordering::Acquire) {
            return Err(Error::Unavailable("disconnected by a test".to_owned()));
        }
        self.store
            .get()
            .ok_or_else(|| Error::Unavailable("this agent has not connected to it yet".to_owned()))
    }
}

/// Implements each method by forwarding it.
macro_rules! delegate_methods {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for DeferredMetadataStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                #[cfg(test)]
                {
                    *self.calls.lock().entry(stringify!($name)).or_default() += 1;
                }
                self.store()?.$name($($argument),*).await
            })*
        }
    };
}

for_each_metadata_method!(delegate_methods);

#[cfg(test)]
mod tests {
    use streamhouse_metadata::ConnectOptions;

    use super::*;

    #[tokio::test]
    async fn calls_wait_for_the_connection() {
        let deferred = DeferredMetadataStore::default();
        assert!(matches!(deferred.ping().await, Err(Error::Unavailable(_))));
        deferred.set_store(
            streamhouse_metadata::connect("sqlite::memory:", &ConnectOptions::default())
                .await
                .unwrap(),
        );
        deferred.wait_connected().await;
        deferred.ping().await.unwrap();
    }
}
