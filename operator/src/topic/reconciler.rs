//! Reconciles one Topic within a pass: applies its plan and writes its status, or finalizes its
//! deletion. Called by the pass for each Topic that is due. Every error ends up in the status if
//! the resource still exists.

use std::sync::Arc;

use jiff::Timestamp;
use streamhouse_metadata::TopicsOverview;

use super::{
    apply::apply_plan,
    error::TopicError,
    finalize::{DeletionPlan, OwnerState, TopicHeirs, TopicRemoval, plan_deletion},
    metered_store::MeteredStore,
    pending_events,
    plan::{ObservedTopic, plan_changes},
    refresh::RefreshTurn,
    status::{self, StatusFacts},
    validate::{TopicProblem, validate},
    verdict::{TopicVerdict, applied_verdict, paused_verdict, pending_deletion},
};
use crate::{
    conditions::ConditionStatus,
    context::OperatorContext,
    crd::{ConditionReason, Topic},
    events::{EventPublisher, PendingEvent},
    finalizer::{has_finalizer, set_finalizer},
    metrics::ReconcileOutcome,
};

/// What a Topic needs from the pass.
pub(super) struct TopicReconciler<'a> {
    pub(super) context: &'a OperatorContext,
    pub(super) events: &'a EventPublisher,
    pub(super) metadata: &'a MetadataAccess,
    pub(super) owner_state: &'a Result<OwnerState, TopicError>,
    pub(super) heirs: &'a TopicHeirs,
    pub(super) refresh: Option<RefreshTurn>,
}

/// Result for one Topic.
pub(super) struct TopicOutcome {
    /// The resource as last known.
    pub(super) topic: Arc<Topic>,
    /// Whether it was written: the watch lags behind for a moment.
    pub(super) written: bool,
    /// Whether it was deleted, for example because the last finalizer was removed.
    pub(super) gone: bool,
    pub(super) outcome: ReconcileOutcome,
    /// Whether to retry without a change.
    pub(super) retry: bool,
}

/// Access of a pass to the metadata store.
pub(super) enum MetadataAccess {
    /// The store was queried.
    Open {
        store: MeteredStore,
        overview: TopicsOverview,
    },
    /// The store is not available.
    Unavailable {
        problem: TopicProblem,
        /// Whether Topics that were ready are reported as unknown, too.
        affects_ready: bool,
        outcome: ReconcileOutcome,
    },
}

impl TopicReconciler<'_> {
    /// Reconciles the Topic.
    pub(super) async fn reconcile_topic(&self, topic: Arc<Topic>) -> TopicOutcome {
        let mut handled = TopicOutcome {
            topic,
            written: false,
            gone: false,
            outcome: ReconcileOutcome::Ok,
            retry: false,
        };
        let verdict = if handled.topic.metadata.deletion_timestamp.is_some() {
            self.finalize(&mut handled).await
        } else {
            match self.metadata {
                MetadataAccess::Open { store, overview } => {
                    self.apply_spec(store, overview, &mut handled).await
                }
                MetadataAccess::Unavailable {
                    problem,
                    affects_ready: everyone,
                    outcome,
                } => {
                    let tell = *everyone || !status::is_reconciled(&handled.topic);
                    let mut verdict = TopicVerdict::blocked(ConditionStatus::Unknown, problem.clone());
                    verdict.facts = verdict.facts.filter(|_| tell);
                    verdict.outcome = *outcome;
                    verdict
                }
            }
        };
        self.record_verdict(&mut handled, verdict).await;
        handled
    }

    /// Reconciles a Topic that is not being deleted.
    async fn apply_spec(
        &self,
        store: &MeteredStore,
        overview: &TopicsOverview,
        handled: &mut TopicOutcome,
    ) -> TopicVerdict {
        let topic = handled.topic.clone();
        let wanted = match validate(&topic) {
            Ok(wanted) => wanted,
            Err(problem) => return TopicVerdict::blocked(ConditionStatus::False, problem),
        };
        let observed = ObservedTopic::from_overview(overview, &wanted.name);
        let plan = plan_changes(&wanted, observed, topic.resource_uid());
        if topic.spec.paused {
            return paused_verdict(&topic, observed, &plan);
        }
        match apply_plan(self.context, store, &topic, &wanted, observed, &plan).await {
            Ok(applied) => {
                if let Some(latest) = &applied.latest_topic {
                    handled.topic = latest.clone();
                    handled.written = true;
                }
                applied_verdict(&topic, &wanted, observed, &plan, applied)
            }
            Err(failure) => {
                handled.gone = matches!(failure, TopicError::Gone);
                tracing::warn!(topic = %wanted.name, error = %failure, "a topic could not be reconciled");
                TopicVerdict::from_error(&failure)
            }
        }
    }

    /// Finalizes a Topic that is being deleted.
    async fn finalize(&self, handled: &mut TopicOutcome) -> TopicVerdict {
        match self.delete_topic(handled).await {
            Ok(verdict) => verdict,
            Err(TopicError::Gone) => {
                handled.gone = true;
                TopicVerdict {
                    facts: None,
                    ..TopicVerdict::from_error(&TopicError::Gone)
                }
            }
            Err(failure) => {
                let facts = pending_deletion(format!("the deletion failed and is retried: {failure}"));
                TopicVerdict {
                    facts,
                    ..TopicVerdict::from_error(&failure)
                }
            }
        }
    }

    async fn delete_topic(&self, handled: &mut TopicOutcome) -> Result<TopicVerdict, TopicError> {
        let topic = handled.topic.clone();
        let name = topic.topic_name();
        let done = |news| TopicVerdict {
            facts: None,
            outcome: ReconcileOutcome::Ok,
            retry: false,
            events: news,
        };
        let (store, observed, why) = match self.metadata {
            MetadataAccess::Open { store, overview } => (
                Some(store),
                Some(ObservedTopic::from_overview(overview, name)),
                "",
            ),
            MetadataAccess::Unavailable { problem, .. } => (None, None, problem.message.as_str()),
        };
        let held = has_finalizer(&topic.metadata);
        let around = match self.owner_state {
            Ok(around) => *around,
            Err(_) if !held => OwnerState::Present,
            Err(failure) => return Err(TopicError::Api(failure.to_string())),
        };
        let DeletionPlan::Proceed(removal) = plan_deletion(&topic, around, observed, self.heirs.of(&topic))
        else {
            let verdict = TopicVerdict::blocked(
                ConditionStatus::False,
                TopicProblem::new(ConditionReason::DeletePending, ""),
            );
            let why = format!("the topic is deleted once the metadata store is available: {why}");
            return Ok(TopicVerdict {
                facts: pending_deletion(why),
                outcome: ReconcileOutcome::Waiting,
                ..verdict
            });
        };
        if let Some(store) = store {
            self.remove_topic(store, &topic, &removal).await?;
        }
        if !held {
            return Ok(done(Vec::new()));
        }
        let released = set_finalizer(self.context, &*topic, false).await;
        released.map_err(TopicError::of_finalizer)?;
        handled.gone = true;
        Ok(done(match removal.retained {
            Some(why) => vec![PendingEvent::normal(
                ConditionReason::Retained,
                format!("topic {name} is kept: {why}"),
            )],
            None if removal.delete => vec![PendingEvent::normal(
                ConditionReason::Deleted,
                format!("topic {name} was deleted"),
            )],
            None => Vec::new(),
        }))
    }

    /// Removes the Topic from the metadata store. If the topic is kept, an error of the store does
    /// not delay the deletion of the resource.
    async fn remove_topic(
        &self,
        store: &MeteredStore,
        topic: &Topic,
        removal: &TopicRemoval,
    ) -> Result<(), TopicError> {
        let name = topic.topic_name();
        if removal.delete {
            match store.delete(name).await {
                Ok(()) | Err(streamhouse_metadata::Error::UnknownTopic(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if removal.release {
            match store.release(name, topic.resource_uid()).await {
                Ok(_) => {}
                // A later pass finds the stale claim.
                Err(error) if removal.retained.is_some() => {
                    tracing::warn!(topic = %name, %error, "cannot release a claim")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes the status, then publishes the events.
    async fn record_verdict(&self, handled: &mut TopicOutcome, mut verdict: TopicVerdict) {
        handled.outcome = verdict.outcome;
        handled.retry = verdict.retry;
        let before = handled.topic.clone();
        if let Some(facts) = &verdict.facts {
            verdict
                .events
                .extend(pending_events::event_of_problem(&before, &facts.ready));
            match self.write_status(&before, facts).await {
                Ok(Some(written)) => {
                    handled.topic = Arc::new(written);
                    handled.written = true;
                }
                Ok(None) => {}
                Err(TopicError::Gone) => handled.gone = true,
                Err(failure) => {
                    tracing::warn!(topic = %before.topic_name(), error = %failure, "cannot write a status");
                    handled.outcome = ReconcileOutcome::Error;
                    handled.retry = true;
                }
            }
        }
        for news in verdict.events {
            if news.is_drift() {
                self.context
                    .metrics
                    .drift_corrected
                    .with_label_values(&["Topic"])
                    .inc();
            }
            self.events.publish_pending(&*before, news).await;
        }
    }

    async fn write_status(&self, topic: &Topic, facts: &StatusFacts) -> Result<Option<Topic>, TopicError> {
        let now = Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap_or_default();
        // Rounded to seconds, as the API server stores it.
        let now = Timestamp::from_second(now.as_second()).unwrap_or_default();
        let refresh = self
            .refresh
            .is_some_and(|turn| turn.includes(topic.resource_uid()));
        let status = status::compute_status(topic, facts, refresh, now);
        status::write_status(self.context, topic, &status).await
    }
}
