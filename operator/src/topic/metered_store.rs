//! The metadata store as used by a pass: the calls about topics, each counted in the metrics.

use std::sync::Arc;

use streamhouse_metadata::{
    MetadataStore, NewTopic, Result, TopicChange, TopicEntry, TopicOwner, TopicsOverview,
};

use crate::metrics::OperatorMetrics;

/// The metadata store of one cluster.
#[derive(Debug, Clone)]
pub(super) struct MeteredStore {
    store: Arc<dyn MetadataStore>,
    metrics: Arc<OperatorMetrics>,
}

impl MeteredStore {
    pub(super) fn new(store: Arc<dyn MetadataStore>, metrics: Arc<OperatorMetrics>) -> Self {
        Self { store, metrics }
    }

    fn count_call(&self, call: &str) -> &dyn MetadataStore {
        self.metrics.metadata_queries.with_label_values(&[call]).inc();
        &*self.store
    }

    pub(super) async fn overview(&self) -> Result<TopicsOverview> {
        self.count_call("topics_overview").topics_overview().await
    }

    pub(super) async fn claim(&self, name: &str, owner: &TopicOwner) -> Result<TopicOwner> {
        self.count_call("claim_topic").claim_topic(name, owner).await
    }

    pub(super) async fn release(&self, name: &str, uid: &str) -> Result<bool> {
        self.count_call("release_topic").release_topic(name, uid).await
    }

    pub(super) async fn create(&self, topic: &NewTopic) -> Result<TopicEntry> {
        self.count_call("create_topic").create_topic(topic).await
    }

    pub(super) async fn alter(&self, name: &str, change: &TopicChange) -> Result<TopicEntry> {
        self.count_call("alter_topic").alter_topic(name, change).await
    }

    pub(super) async fn delete(&self, name: &str) -> Result<()> {
        self.count_call("delete_topic").delete_topic(name).await
    }
}
