//! A metadata store with answers that cannot be true, like those of a store that lost its newest
//! commits.

use async_trait::async_trait;
use parking_lot::Mutex;
use streamhouse_metadata::*;

use super::*;
use crate::faulty_metadata::FaultyMetadataStore;

/// Changes the outcome of a commit.
type OutcomeChange = fn(&mut CommitOutcome);

/// A metadata store that changes the answers of another one.
#[derive(Debug)]
pub(crate) struct FalseMetadataStore {
    inner: Arc<FaultyMetadataStore>,
    /// Applied to the outcome of the next commit.
    pub(crate) commit: Mutex<Option<OutcomeChange>>,
    /// Number of records that the bounds leave out.
    pub(crate) behind: Mutex<i64>,
}

impl FalseMetadataStore {
    pub(crate) fn new(inner: Arc<FaultyMetadataStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            commit: Mutex::default(),
            behind: Mutex::default(),
        })
    }
}

macro_rules! delegate_truthful_methods {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for FalseMetadataStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.inner.$name($($argument),*).await
            })*

            async fn commit_object(&self, commit: &ObjectCommit) -> Result<CommitOutcome> {
                let mut outcome = self.inner.commit_object(commit).await?;
                if let Some(lie) = self.commit.lock().take() {
                    lie(&mut outcome);
                }
                Ok(outcome)
            }

            async fn bounds(&self, partitions: &[PartitionUid]) -> Result<Vec<(PartitionUid, LogBounds)>> {
                let mut bounds = self.inner.bounds(partitions).await?;
                for (_, bounds) in &mut bounds {
                    bounds.high_watermark -= *self.behind.lock();
                }
                Ok(bounds)
            }
        }
    };
}

for_each_metadata_method!(delegate_truthful_methods, except [commit_object, bounds]);
