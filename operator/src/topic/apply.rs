//! Applies a plan: claims the name, sets the finalizer, creates or alters the topic. Every step is
//! idempotent, and the process may end between any two: the next pass plans the rest. Called by a
//! pass, concurrently for different Topics.

use std::{collections::BTreeMap, sync::Arc};

use streamhouse_metadata::{Error, NewTopic, TopicChange, TopicOwner, TopicRecord};

use super::{
    failure::Failure,
    finalize,
    plan::{Change, Observed, Plan, already_exists, conflict},
    store::Store,
    validate::{Problem, Wanted},
};
use crate::{
    context::Context,
    crd::{Adopt, DeletionPolicy, Topic},
};

/// Result of applying a plan.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// The changes that were made.
    pub(super) done: Vec<Change>,
    /// The topic after the changes, if it was created or altered.
    pub(super) record: Option<TopicRecord>,
    /// Why the plan was aborted: another client was faster.
    pub(super) refused: Option<Problem>,
    /// The resource after the changes, if it was changed.
    pub(super) latest: Option<Arc<Topic>>,
}

/// Returns the owner of the claim: this resource.
pub(super) fn owner(topic: &Topic) -> TopicOwner {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    TopicOwner {
        uid: text(&topic.metadata.uid),
        namespace: text(&topic.metadata.namespace),
        resource: text(&topic.metadata.name),
    }
}

/// Applies the plan.
pub(super) async fn apply(
    context: &Context,
    store: &Store,
    topic: &Arc<Topic>,
    wanted: &Wanted,
    observed: Observed<'_>,
    plan: &Plan,
) -> Result<Applied, Failure> {
    let mut applied = Applied::default();
    let me = owner(topic);
    let mut ours = observed.is_owned_by(&me.uid);
    if plan.changes.contains(&Change::Claim) {
        let winner = store.claim(&wanted.name, &me).await?;
        ours = winner.uid == me.uid;
        if ours {
            applied.done.push(Change::Claim);
        } else {
            applied.refused = Some(conflict(&winner));
        }
    }
    let held = ours && topic.spec.deletion_policy == DeletionPolicy::Delete;
    applied.latest = finalize::hold(context, topic, held).await?;
    if applied.refused.is_some() {
        return Ok(applied);
    }
    if let Some(create) = plan
        .changes
        .iter()
        .find(|change| matches!(change, Change::Create { .. }))
    {
        return self::create(store, &me, wanted, create, applied).await;
    }
    let alterations: Vec<&Change> = plan
        .changes
        .iter()
        .filter(|change| **change != Change::Claim)
        .collect();
    if !alterations.is_empty() {
        let record = store
            .alter(&wanted.name, &in_one(&alterations))
            .await
            .map_err(raced)?;
        applied.done.extend(alterations.into_iter().cloned());
        applied.record = Some(record);
    }
    Ok(applied)
}

async fn create(
    store: &Store,
    me: &TopicOwner,
    wanted: &Wanted,
    create: &Change,
    mut applied: Applied,
) -> Result<Applied, Failure> {
    let Change::Create { partitions, config } = create else {
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
            applied.done.push(create.clone());
        }
        // Created by another client since the query. If the name was only just claimed, the claim
        // must not be kept.
        Err(Error::TopicAlreadyExists(_))
            if wanted.adopt == Adopt::Never && applied.done.contains(&Change::Claim) =>
        {
            store.release(&wanted.name, &me.uid).await?;
            applied.done.clear();
            applied.refused = Some(already_exists());
        }
        Err(error) => return Err(raced(error)),
    }
    Ok(applied)
}

/// Combines all alterations into one transaction.
fn in_one(alterations: &[&Change]) -> TopicChange {
    let mut change = TopicChange {
        partitions: None,
        config: BTreeMap::new(),
    };
    for alteration in alterations {
        match alteration {
            Change::Grow { to, .. } => change.partitions = Some(*to),
            Change::Set { key, to, .. } => drop(change.config.insert(key.clone(), Some(to.clone()))),
            Change::Reset { key, .. } => drop(change.config.insert(key.clone(), None)),
            Change::Claim | Change::Create { .. } => {}
        }
    }
    change
}

/// Classifies errors that only mean that the observed state is outdated.
fn raced(error: Error) -> Failure {
    match error {
        Error::TopicAlreadyExists(_) | Error::UnknownTopic(_) | Error::InvalidPartitions(_) => {
            Failure::Raced(error.to_string())
        }
        other => Failure::Store(other),
    }
}
