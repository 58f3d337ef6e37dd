//! Stale claims: claims of Topics that no longer exist. Each pass releases them, so that another
//! Topic can claim the name; the topics themselves are kept.

use std::{collections::HashSet, sync::Arc};

use futures::{StreamExt as _, stream};
use streamhouse_metadata::{TopicOwner, TopicsOverview};

use super::{error::TopicError, metered_store::MeteredStore};
use crate::{api_calls::exists, context::OperatorContext, crd::Topic};

/// Number of claims that are checked concurrently.
const MAX_CONCURRENT_CHECKS: usize = 16;

/// Releases stale claims. A Topic that retains its topic leaves its claim behind when it is
/// deleted, and so does one that is deleted while the operator is down. A claim from this cluster's
/// namespace, or one that blocks a Topic, is released if the API server has no such resource.
pub(super) async fn release_stale_claims(
    context: &OperatorContext,
    namespace: &str,
    topics: &[Arc<Topic>],
    store: &MeteredStore,
    overview: &mut TopicsOverview,
) {
    let there: HashSet<&str> = topics.iter().map(|topic| topic.resource_uid()).collect();
    let wanted: HashSet<&str> = topics.iter().map(|topic| topic.topic_name()).collect();
    let suspects: Vec<(String, TopicOwner)> = overview
        .owners
        .iter()
        .filter(|(_, owner)| !there.contains(owner.uid.as_str()))
        .filter(|(name, owner)| owner.namespace == namespace || wanted.contains(name.as_str()))
        .filter(|(_, owner)| context.scope.contains(&owner.namespace))
        .map(|(name, owner)| (name.clone(), owner.clone()))
        .collect();
    let released: Vec<Option<String>> = stream::iter(suspects)
        .map(|(name, owner)| async move {
            match release_stale_claim(context, store, &name, &owner).await {
                Ok(released) => released.then_some(name),
                Err(error) => {
                    tracing::warn!(topic = %name, %owner, %error, "cannot determine whether a claim is stale");
                    None
                }
            }
        })
        .buffer_unordered(MAX_CONCURRENT_CHECKS)
        .collect()
        .await;
    for name in released.into_iter().flatten() {
        overview.owners.remove(&name);
    }
}

async fn release_stale_claim(
    context: &OperatorContext,
    store: &MeteredStore,
    name: &str,
    owner: &TopicOwner,
) -> Result<bool, TopicError> {
    if exists::<Topic>(context, &owner.namespace, &owner.resource, &owner.uid).await? {
        return Ok(false);
    }
    tracing::info!(topic = %name, %owner, "the Topic no longer exists: releasing its claim, keeping the topic");
    Ok(store.release(name, &owner.uid).await?)
}
