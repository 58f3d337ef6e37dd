//! A metadata store in front of the real one that suspends the first write of a user, so that a
//! test can act between two steps of the operator.

use std::sync::Arc;

use async_trait::async_trait;
use streamhouse_metadata::*;
use tokio::sync::{Notify, OnceCell};

#[derive(Debug)]
pub(crate) struct SuspendedStore {
    store: Arc<dyn MetadataStore>,
    first: OnceCell<()>,
    suspended: Notify,
    resumed: Notify,
}

impl SuspendedStore {
    pub(crate) fn new(store: Arc<dyn MetadataStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            first: OnceCell::new(),
            suspended: Notify::new(),
            resumed: Notify::new(),
        })
    }

    /// Resolves when the first write is suspended.
    pub(crate) async fn suspended(&self) {
        self.suspended.notified().await;
    }

    /// Resumes the first write.
    pub(crate) fn resume(&self) {
        self.resumed.notify_one();
    }
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for SuspendedStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.store.$name($($argument),*).await
            })*

            async fn apply_user(&self, owner: &str, user: &UserRows, unowned: UnownedRows) -> Result<bool> {
                let suspend = async || {
                    self.suspended.notify_one();
                    self.resumed.notified().await;
                };
                self.first.get_or_init(suspend).await;
                self.store.apply_user(owner, user, unowned).await
            }
        }
    };
}

for_each_metadata_method!(delegate, except[apply_user]);
