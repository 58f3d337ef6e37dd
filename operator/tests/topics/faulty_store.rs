//! A metadata store in front of the real one: it suspends one of the operator's calls, before or
//! after it has taken effect, or fails the first queries. An operator that is killed at that point
//! has done exactly the calls before.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use async_trait::async_trait;
use streamhouse_metadata::*;
use tokio::sync::Notify;

/// Where a call is suspended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopPoint {
    Before,
    After,
}

#[derive(Debug)]
pub(crate) struct FaultyStore {
    store: Arc<dyn MetadataStore>,
    calls_before_stop: AtomicI64,
    stop: StopPoint,
    stopped: Notify,
    failing_overviews: AtomicI64,
}

impl FaultyStore {
    /// Creates a store whose first overviews fail.
    pub(crate) fn fail_first_overviews(store: Arc<dyn MetadataStore>, looks: i64) -> Arc<Self> {
        Arc::new(Self {
            store,
            calls_before_stop: AtomicI64::new(i64::MAX),
            stop: StopPoint::Before,
            stopped: Notify::new(),
            failing_overviews: AtomicI64::new(looks),
        })
    }

    /// Creates a store that passes `calls` of the changing calls and suspends the next one.
    pub(crate) fn new(store: Arc<dyn MetadataStore>, calls: i64, stop: StopPoint) -> Arc<Self> {
        Arc::new(Self {
            store,
            calls_before_stop: AtomicI64::new(calls),
            stop,
            stopped: Notify::new(),
            failing_overviews: AtomicI64::new(0),
        })
    }

    /// Resolves when a call has been suspended.
    pub(crate) async fn stopped(&self) {
        self.stopped.notified().await;
    }

    async fn intercept<T: Send>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if self.calls_before_stop.fetch_sub(1, Ordering::AcqRel) > 0 {
            return call.await;
        }
        if self.stop == StopPoint::After {
            // The next operator has to find out whether it succeeded.
            drop(call.await);
        }
        self.stopped.notify_one();
        std::future::pending().await
    }
}

/// Delegates the calls that the operator does not use or that only read.
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
            async fn create_topic(&self, topic: &NewTopic) -> Result<TopicEntry> {
                self.intercept(self.store.create_topic(topic)).await
            }
            async fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<TopicEntry> {
                self.intercept(self.store.alter_topic(name, change)).await
            }
            async fn delete_topic(&self, name: &str) -> Result<()> {
                self.intercept(self.store.delete_topic(name)).await
            }
            async fn claim_topic(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
                self.intercept(self.store.claim_topic(name, owner)).await
            }
            async fn release_topic(&self, name: &str, uid: &str) -> Result<bool> {
                self.intercept(self.store.release_topic(name, uid)).await
            }
        }
    };
}

for_each_metadata_method!(
    delegate,
    except [topics_overview, create_topic, alter_topic, delete_topic, claim_topic, release_topic]
);
