//! A metadata store in front of the real one whose writes for Topics and Users pass a crash point.

use std::sync::Arc;

use async_trait::async_trait;
use streamhouse_metadata::*;

use super::CrashPoint;

#[derive(Debug)]
pub(crate) struct CrashingStore {
    store: Arc<dyn MetadataStore>,
    point: Arc<CrashPoint>,
}

impl CrashingStore {
    pub(crate) fn new(store: Arc<dyn MetadataStore>, point: Arc<CrashPoint>) -> Arc<Self> {
        Arc::new(Self { store, point })
    }
}

/// Delegates the calls that the operator does not use or that only read.
macro_rules! delegate {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        impl MetadataStore for CrashingStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                self.store.$name($($argument),*).await
            })*

            async fn create_topic(&self, topic: &NewTopic) -> Result<TopicEntry> {
                self.point.write("create_topic", self.store.create_topic(topic)).await
            }
            async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicEntry> {
                self.point.write("alter_topic", self.store.alter_topic(name, change)).await
            }
            async fn delete_topic(&self, name: &str) -> Result<()> {
                self.point.write("delete_topic", self.store.delete_topic(name)).await
            }
            async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
                self.point.write("claim_topic", self.store.claim_topic(name, owner)).await
            }
            async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
                self.point.write("release_topic", self.store.release_topic(name, uid)).await
            }
            async fn apply_user(&self, owner: &str, user: &UserRows, unowned: UnownedRows) -> Result<bool> {
                self.point.write("apply_user", self.store.apply_user(owner, user, unowned)).await
            }
            async fn delete_user(&self, owner: &str) -> Result<bool> {
                self.point.write("delete_user", self.store.delete_user(owner)).await
            }
        }
    };
}

for_each_metadata_method!(
    delegate,
    except [
        create_topic,
        alter_topic,
        delete_topic,
        claim_topic,
        release_topic,
        apply_user,
        delete_user
    ]
);
