//! Applies a plan: claims the name, sets the finalizer, creates or alters the topic. Every step is
//! idempotent, and the process may end between any two: the next pass plans the rest. Called by a
//! pass, concurrently for different Topics.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_metadata::{Error, NewTopic, TopicChange, TopicEntry, TopicOwner};

use super::{
    error::TopicError,
    metered_store::MeteredStore,
    plan::{ObservedTopic, PlannedChange, TopicPlan, already_exists, ownership_conflict},
    validate::{DesiredTopic, TopicProblem},
};
use crate::{
    context::OperatorContext,
    crd::{AdoptionPolicy, DeletionPolicy, Topic},
    finalizer::set_finalizer,
};

/// Result of applying a plan.
#[derive(Debug, Default)]
pub(super) struct AppliedPlan {
    /// The changes that were made.
    pub(super) changes: Vec<PlannedChange>,
    /// The topic after the changes, if it was created or altered.
    pub(super) record: Option<TopicEntry>,
    /// Why the plan was aborted: another client was faster.
    pub(super) conflict: Option<TopicProblem>,
    /// The resource after the changes, if it was changed.
    pub(super) latest_topic: Option<Arc<Topic>>,
}

/// Returns the owner of the claim: this resource.
pub(super) fn owner_of(topic: &Topic) -> TopicOwner {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    TopicOwner {
        uid: text(&topic.metadata.uid),
        namespace: text(&topic.metadata.namespace),
        resource: text(&topic.metadata.name),
    }
}

/// Applies the plan.
pub(super) async fn apply_plan(
    context: &OperatorContext,
    store: &MeteredStore,
    topic: &Arc<Topic>,
    wanted: &DesiredTopic,
    observed: ObservedTopic<'_>,
    plan: &TopicPlan,
) -> Result<AppliedPlan, TopicError> {
    let mut applied = AppliedPlan::default();
    let me = owner_of(topic);
    let mut ours = observed.is_owned_by(&me.uid);
    if plan.changes.contains(&PlannedChange::Claim) {
        let winner = store.claim(&wanted.name, &me).await?;
        ours = winner.uid == me.uid;
        if ours {
            applied.changes.push(PlannedChange::Claim);
        } else {
            applied.conflict = Some(ownership_conflict(&winner));
        }
    }
    let held = ours && topic.spec.deletion_policy == DeletionPolicy::Delete;
    let latest = set_finalizer(context, &**topic, held).await;
    applied.latest_topic = latest.map_err(TopicError::of_finalizer)?.map(Arc::new);
    if applied.conflict.is_some() {
        return Ok(applied);
    }
    if let Some(create) = plan
        .changes
        .iter()
        .find(|change| matches!(change, PlannedChange::Create { .. }))
    {
        return self::create_topic(store, &me, wanted, create, applied).await;
    }
    let alterations: Vec<&PlannedChange> = plan
        .changes
        .iter()
        .filter(|change| **change != PlannedChange::Claim)
        .collect();
    if !alterations.is_empty() {
        let record = store
            .alter(&wanted.name, &combine_changes(&alterations))
            .await
            .map_err(classify_store_error)?;
        applied.changes.extend(alterations.into_iter().cloned());
        applied.record = Some(record);
    }
    Ok(applied)
}

async fn create_topic(
    store: &MeteredStore,
    me: &TopicOwner,
    wanted: &DesiredTopic,
    create: &PlannedChange,
    mut applied: AppliedPlan,
) -> Result<AppliedPlan, TopicError> {
    let PlannedChange::Create { partitions, config } = create else {
        return Ok(applied);
    };
    let new = NewTopic {
        name: wanted.name.clone(),
        partitions: *partitions,
        config: config.clone(),
    };
    match store.create(&new).await {
        Ok(record) => {
            applied.record = Some(record);
            applied.changes.push(create.clone());
        }
        // Created by another client since the query. If the name was only just claimed, the claim
        // must not be kept.
        Err(Error::TopicAlreadyExists(_))
            if wanted.adopt == AdoptionPolicy::Never && applied.changes.contains(&PlannedChange::Claim) =>
        {
            store.release(&wanted.name, &me.uid).await?;
            applied.changes.clear();
            applied.conflict = Some(already_exists());
        }
        Err(error) => return Err(classify_store_error(error)),
    }
    Ok(applied)
}

/// Combines all alterations into one transaction.
fn combine_changes(alterations: &[&PlannedChange]) -> TopicChange {
    let mut change = TopicChange {
        partitions: None,
        config: BTreeMap::new(),
    };
    for alteration in alterations {
        match alteration {
            PlannedChange::AddPartitions { to, .. } => change.partitions = Some(*to),
            PlannedChange::Set { key, to, .. } => drop(change.config.insert(key.clone(), Some(to.clone()))),
            PlannedChange::Reset { key, .. } => drop(change.config.insert(key.clone(), None)),
            PlannedChange::Claim | PlannedChange::Create { .. } => {}
        }
    }
    change
}

/// Classifies errors that only mean that the observed state is outdated.
fn classify_store_error(error: Error) -> TopicError {
    match error {
        Error::TopicAlreadyExists(_) | Error::UnknownTopic(_) | Error::InvalidPartitions(_) => {
            TopicError::Conflict(error.to_string())
        }
        other => TopicError::Store(other),
    }
}
