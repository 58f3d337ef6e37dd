//! A metadata store in front of the real one that fails the first queries.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use streamhouse_metadata::*;

#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: Arc<dyn MetadataStore>,
    failing_overviews: AtomicI64,
}

impl FaultyStore {
    /// Creates a store whose first overviews fail.
    pub(crate) fn fail_first_overviews(store: Arc<dyn MetadataStore>, looks: i64) -> Arc<Self> {
        Arc::new(Self {
            store,
            failing_overviews: AtomicI64::new(looks),
        })
    }
}

macro_rules! delegate {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for FaultyStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.store.$name($($argument),*).await
            })*

            async fn topics_overview(&self) -> Result<TopicsOverview> {
                if self.failing_overviews.fetch_sub(1, Ordering::AcqRel) > 0 {
                    return Err(Error::Unavailable("a test blinded it".to_owned()));
                }
                self.store.topics_overview().await
            }
        }
    };
}

for_each_metadata_method!(delegate, except[topics_overview]);
