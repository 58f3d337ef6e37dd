//! Publishes Kubernetes events, as shown by `kubectl describe`. Best effort: an event that cannot
//! be written is logged and never delays a reconciliation or deletion. Called by the
//! reconciliations for occurrences, not for states.

use std::time::Duration;

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use crate::crd::{ConditionReason, FIELD_MANAGER};

/// Timeout for publishing a pending event.
const EVENT_TIMEOUT: Duration = Duration::from_secs(5);

/// An event to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingEvent {
    /// Whether the event is a warning.
    pub(crate) warning: bool,
    pub(crate) reason: ConditionReason,
    pub(crate) message: String,
}

impl PendingEvent {
    pub(crate) fn normal(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self {
            warning: false,
            reason,
            message: message.into(),
        }
    }

    pub(crate) fn warning(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self {
            warning: true,
            reason,
            message: message.into(),
        }
    }

    /// Returns whether the event reports that a change by another client was undone.
    pub(crate) fn is_drift(&self) -> bool {
        matches!(
            self.reason,
            ConditionReason::DriftCorrected | ConditionReason::Recreated
        )
    }
}

/// Publishes events.
#[derive(Clone)]
pub struct EventPublisher {
    recorder: Recorder,
}

impl std::fmt::Debug for EventPublisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl EventPublisher {
    /// Creates a publisher that reports as `instance` (the pod's name).
    pub fn new(client: Client, instance: Option<String>) -> Self {
        let reporter = Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance,
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Publishes a normal event.
    pub async fn publish_normal<K>(&self, of: &K, reason: ConditionReason, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(of, EventType::Normal, reason, message.into()).await;
    }

    /// Publishes a warning.
    pub async fn publish_warning<K>(&self, of: &K, reason: ConditionReason, message: impl Into<String>)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(of, EventType::Warning, reason, message.into()).await;
    }

    /// Publishes an event that was computed before.
    pub(crate) async fn publish_pending<K>(&self, of: &K, event: PendingEvent)
    where
        K: Resource<DynamicType = ()>,
    {
        let type_ = match event.warning {
            true => EventType::Warning,
            false => EventType::Normal,
        };
        let publishing = self.publish(of, type_, event.reason, event.message);
        if tokio::time::timeout(EVENT_TIMEOUT, publishing).await.is_err() {
            tracing::warn!(reason = %event.reason, "publishing an event timed out");
        }
    }

    async fn publish<K>(&self, of: &K, type_: EventType, reason: ConditionReason, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        let event = Event {
            type_,
            reason: reason.as_str().to_owned(),
            // The API accepts 1 KiB.
            note: Some(note.chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &of.object_ref(&())).await {
            tracing::warn!(%error, %reason, "cannot write an event");
        }
    }
}
