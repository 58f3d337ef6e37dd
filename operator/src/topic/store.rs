//! The metadata store as used by a pass: the calls about topics, each counted in the metrics.

use std::sync::Arc;

use streamhouse_metadata::{
    MetadataStore, NewTopic, Result, TopicChange, TopicOwner, TopicRecord, TopicsOverview,
};

use crate::metrics::Metrics;

/// The metadata store of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Store {
    store: Arc<dyn MetadataStore>,
    metrics: Arc<Metrics>,
}

impl Store {
    pub(super) fn new(store: Arc<dyn MetadataStore>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics }
    }

    fn counted(&self, call: &str) -> &dyn MetadataStore {
        self.metrics.metadata_queries.with_label_values(&[call]).inc();
        &*self.store
    }

    pub(super) async fn overview(&self) -> Result<TopicsOverview> {
        self.counted("topics_overview").topics_overview().await
    }

    pub(super) async fn claim(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        self.counted("claim_topic").claim_topic(name, owner).await
    }

    pub(super) async fn release(&self, name: &str, uid: &str) -> Result<bool> {
        self.counted("release_topic").release_topic(name, uid).await
    }

    pub(super) async fn create(&self, topic: &NewTopic) -> Result<TopicRecord> {
        self.counted("create_topic").create_topic(topic).await
    }

    pub(super) async fn alter(&self, name: &str, change: &TopicChange) -> Result<TopicRecord> {
        self.counted("alter_topic").alter_topic(name, change).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        self.counted("delete_topic").delete_topic(name).await
    }
}
