//! Reconciles one Topic within a pass: applies its plan and writes its status, or finalizes its
//! deletion. Called by the pass for each Topic that is due. Every error ends up in the status if
//! the resource still exists.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use streamhouse_metadata::TopicsOverview;

use super::{
    apply::{Applied, apply},
    failure::Failure,
    finalize::{self, Removal, Surroundings, removal},
    news::{self, News},
    pass::{Ground, uid},
    plan::{Observed, Plan, plan},
    status::{self, Facts, Known, Numbers},
    store::Store,
    validate::{Problem, Wanted, validate},
};
use crate::{
    conditions::State,
    context::Context,
    crd::{Reason, Topic},
    events::Events,
    metrics::Outcome,
};

/// Timeout for publishing an event.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a Topic needs from the pass.
pub(super) struct One<'a> {
    pub(super) context: &'a Context,
    pub(super) events: &'a Events,
    pub(super) ground: &'a Ground,
    pub(super) around: &'a Result<Surroundings, Failure>,
    pub(super) refresh: bool,
}

/// Result for one Topic.
pub(super) struct Handled {
    /// The resource as last known.
    pub(super) topic: Arc<Topic>,
    /// Whether it was written: the watch lags behind for a moment.
    pub(super) written: bool,
    /// Whether it was deleted, for example because the last finalizer was removed.
    pub(super) gone: bool,
    pub(super) outcome: Outcome,
    /// Whether to retry without a change.
    pub(super) again: bool,
}

/// Status, outcome and events that follow from a reconciliation.
struct Verdict {
    facts: Option<Facts>,
    outcome: Outcome,
    again: bool,
    news: Vec<News>,
}

impl Verdict {
    /// Creates a verdict that waits for a change.
    fn waits(state: State, problem: Problem) -> Self {
        Self {
            facts: Some(Facts {
                known: Known::AsBefore,
                ready: (state, problem.reason, problem.message),
                paused: None,
            }),
            outcome: Outcome::Terminal,
            again: false,
            news: Vec::new(),
        }
    }

    fn failed(failure: &Failure) -> Self {
        let gone = matches!(failure, Failure::Gone);
        let facts = failure.ready().map(|(state, problem)| Facts {
            known: Known::AsBefore,
            ready: (state, problem.reason, problem.message),
            paused: None,
        });
        Self {
            facts,
            outcome: if gone { Outcome::Ok } else { Outcome::Error },
            again: !gone,
            news: Vec::new(),
        }
    }
}

impl One<'_> {
    /// Reconciles the Topic.
    pub(super) async fn handle(&self, topic: Arc<Topic>) -> Handled {
        let mut handled = Handled {
            topic,
            written: false,
            gone: false,
            outcome: Outcome::Ok,
            again: false,
        };
        let verdict = if handled.topic.metadata.deletion_timestamp.is_some() {
            self.end(&mut handled).await
        } else {
            match self.ground {
                Ground::Open { store, overview } => self.reconcile(store, overview, &mut handled).await,
                Ground::Shut {
                    problem,
                    everyone,
                    outcome,
                } => {
                    let tell = *everyone || !status::is_settled(&handled.topic);
                    let mut verdict = Verdict::waits(State::Unknown, problem.clone());
                    verdict.facts = verdict.facts.filter(|_| tell);
                    verdict.outcome = *outcome;
                    verdict
                }
            }
        };
        self.conclude(&mut handled, verdict).await;
        handled
    }

    /// Reconciles a Topic that is not being deleted.
    async fn reconcile(&self, store: &Store, overview: &TopicsOverview, handled: &mut Handled) -> Verdict {
        let topic = handled.topic.clone();
        let wanted = match validate(&topic) {
            Ok(wanted) => wanted,
            Err(problem) => return Verdict::waits(State::False, problem),
        };
        let observed = Observed::of(overview, &wanted.name);
        let plan = plan(&wanted, observed, uid(&topic));
        if topic.spec.paused {
            return paused(&topic, observed, &plan);
        }
        match apply(self.context, store, &topic, &wanted, observed, &plan).await {
            Ok(applied) => {
                if let Some(latest) = &applied.latest {
                    handled.topic = latest.clone();
                    handled.written = true;
                }
                applied_verdict(&topic, &wanted, observed, &plan, applied)
            }
            Err(failure) => {
                handled.gone = matches!(failure, Failure::Gone);
                tracing::warn!(topic = %wanted.name, error = %failure, "a topic could not be reconciled");
                Verdict::failed(&failure)
            }
        }
    }

    /// Finalizes a Topic that is being deleted.
    async fn end(&self, handled: &mut Handled) -> Verdict {
        match self.remove(handled).await {
            Ok(verdict) => verdict,
            Err(Failure::Gone) => {
                handled.gone = true;
                Verdict {
                    facts: None,
                    ..Verdict::failed(&Failure::Gone)
                }
            }
            Err(failure) => {
                let facts = pending(format!("the deletion failed and is retried: {failure}"));
                Verdict {
                    facts,
                    ..Verdict::failed(&failure)
                }
            }
        }
    }

    async fn remove(&self, handled: &mut Handled) -> Result<Verdict, Failure> {
        let topic = handled.topic.clone();
        let name = topic.topic_name();
        let done = |news| Verdict {
            facts: None,
            outcome: Outcome::Ok,
            again: false,
            news,
        };
        let (store, observed, why) = match self.ground {
            Ground::Open { store, overview } => (Some(store), Some(Observed::of(overview, name)), ""),
            Ground::Shut { problem, .. } => (None, None, problem.message.as_str()),
        };
        let held = finalize::is_held(&topic);
        let around = match self.around {
            Ok(around) => *around,
            Err(_) if !held => Surroundings::Stay,
            Err(failure) => return Err(Failure::Api(failure.to_string())),
        };
        let Removal::Proceed {
            delete,
            release,
            kept,
        } = removal(&topic, around, observed)
        else {
            let verdict = Verdict::waits(State::False, Problem::new(Reason::DeletePending, ""));
            let why = format!("the topic is deleted once the metadata store is available: {why}");
            return Ok(Verdict {
                facts: pending(why),
                ..verdict
            });
        };
        if let Some(store) = store {
            self.leave(store, name, uid(&topic), delete, release, kept.is_some())
                .await?;
        }
        if !held {
            return Ok(done(Vec::new()));
        }
        finalize::hold(self.context, &topic, false).await?;
        handled.gone = true;
        Ok(done(match kept {
            Some(why) => vec![News::normal(
                Reason::Retained,
                format!("topic {name} is kept: {why}"),
            )],
            None if delete => vec![News::normal(
                Reason::Deleted,
                format!("topic {name} was deleted"),
            )],
            None => Vec::new(),
        }))
    }

    /// Removes the Topic from the metadata store. `lightly`: an error of the store does not delay
    /// the deletion of the resource.
    async fn leave(
        &self,
        store: &Store,
        name: &str,
        uid: &str,
        delete: bool,
        release: bool,
        lightly: bool,
    ) -> Result<(), Failure> {
        if delete {
            match store.delete(name).await {
                Ok(()) | Err(streamhouse_metadata::Error::UnknownTopic(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if release {
            match store.release(name, uid).await {
                Ok(_) => {}
                // A later pass finds the stale claim.
                Err(error) if lightly => {
                    tracing::warn!(topic = %name, %error, "cannot release a claim")
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Writes the status, then publishes the events.
    async fn conclude(&self, handled: &mut Handled, mut verdict: Verdict) {
        handled.outcome = verdict.outcome;
        handled.again = verdict.again;
        let before = handled.topic.clone();
        if let Some(facts) = &verdict.facts {
            verdict.news.extend(news::of_problem(&before, &facts.ready));
            match self.write(&before, facts).await {
                Ok(Some(written)) => {
                    handled.topic = Arc::new(written);
                    handled.written = true;
                }
                Ok(None) => {}
                Err(Failure::Gone) => handled.gone = true,
                Err(failure) => {
                    tracing::warn!(topic = %before.topic_name(), error = %failure, "cannot write a status");
                    handled.outcome = Outcome::Error;
                    handled.again = true;
                }
            }
        }
        for news in verdict.news {
            if news.is_drift() {
                self.context
                    .metrics
                    .drift_corrected
                    .with_label_values(&["Topic"])
                    .inc();
            }
            self.tell(&before, news).await;
        }
    }

    async fn write(&self, topic: &Topic, facts: &Facts) -> Result<Option<Topic>, Failure> {
        let now = Timestamp::from_millisecond(self.context.clock.now_ms()).unwrap_or_default();
        // Rounded to seconds, as the API server stores it.
        let now = Timestamp::from_second(now.as_second()).unwrap_or_default();
        let status = status::compute(topic, facts, self.refresh, now);
        status::write(self.context, topic, &status).await
    }

    async fn tell(&self, topic: &Topic, news: News) {
        let News {
            warning,
            reason,
            message,
        } = news;
        let telling = async {
            if warning {
                self.events.warning(topic, reason, message).await;
            } else {
                self.events.normal(topic, reason, message).await;
            }
        };
        if tokio::time::timeout(PATIENCE, telling).await.is_err() {
            tracing::warn!(%reason, "publishing an event timed out");
        }
    }
}

/// Returns the status of a deletion that waits.
fn pending(message: String) -> Option<Facts> {
    Some(Facts {
        known: Known::AsBefore,
        ready: (State::False, Reason::DeletePending, message),
        paused: None,
    })
}

/// Returns the status of a paused Topic, with the changes that would be made.
fn paused(topic: &Topic, observed: Observed<'_>, plan: &Plan) -> Verdict {
    let would = match plan.changes.is_empty() {
        true => "spec.paused is set".to_owned(),
        false => format!("paused; pending changes: {}", plan.summary()),
    };
    let ready = match (plan.is_at_rest(), plan.problems.first()) {
        (true, _) => (State::True, Reason::Reconciled, String::new()),
        (false, Some(problem)) if plan.changes.is_empty() => {
            (State::False, problem.reason, problem.message.clone())
        }
        _ => (State::False, Reason::Paused, would.clone()),
    };
    // A different topic under the name is reported once the Topic is no longer paused.
    let before = topic
        .status
        .as_ref()
        .and_then(|status| status.topic_id.as_deref());
    let known = match numbers(observed) {
        Known::Topic(numbers)
            if observed.is_owned_by(uid(topic)) && before.is_none_or(|id| id == numbers.topic_id) =>
        {
            Known::Topic(numbers)
        }
        _ => Known::AsBefore,
    };
    Verdict {
        facts: Some(Facts {
            known,
            ready,
            paused: Some(would),
        }),
        outcome: Outcome::Ok,
        again: false,
        news: Vec::new(),
    }
}

/// Returns the observed topic's id, partitions, records and size.
fn numbers(observed: Observed<'_>) -> Known {
    match observed.topic {
        Some(topic) => Known::Topic(Numbers {
            topic_id: topic.topic_id.to_string(),
            partitions: topic.partitions,
            records: topic.high_watermark,
            size_bytes: topic.size_bytes,
        }),
        None => Known::AsBefore,
    }
}

/// Returns the status and events of an applied plan.
fn applied_verdict(
    topic: &Topic,
    wanted: &Wanted,
    observed: Observed<'_>,
    plan: &Plan,
    applied: Applied,
) -> Verdict {
    let problem = applied.refused.as_ref().or(plan.problems.first());
    let elsewhere =
        |problem: &Problem| matches!(problem.reason, Reason::ResourceConflict | Reason::AlreadyExists);
    let known = match (&applied.record, problem) {
        (Some(record), _) => {
            let same = observed.topic.filter(|topic| topic.topic_id == record.topic_id);
            Known::Topic(Numbers {
                topic_id: record.topic_id.to_string(),
                partitions: i32::try_from(record.partitions.len()).unwrap_or(i32::MAX),
                records: same.map_or(0, |topic| topic.high_watermark),
                size_bytes: same.map_or(0, |topic| topic.size_bytes),
            })
        }
        (None, Some(problem)) if elsewhere(problem) => Known::None,
        (None, _) => numbers(observed),
    };
    let news = match &known {
        Known::Topic(numbers) => news::of_changes(topic, &applied.done, &numbers.topic_id),
        Known::AsBefore | Known::None => Vec::new(),
    };
    if !applied.done.is_empty() {
        tracing::info!(topic = %wanted.name, changes = %super::plan::summary(&applied.done), "changed a topic");
    }
    let ready = match problem {
        None => (State::True, Reason::Reconciled, String::new()),
        Some(problem) if applied.refused.is_some() => (State::False, problem.reason, problem.message.clone()),
        Some(problem) => {
            let all: Vec<&str> = plan
                .problems
                .iter()
                .map(|problem| problem.message.as_str())
                .collect();
            (State::False, problem.reason, all.join("; "))
        }
    };
    Verdict {
        outcome: match problem {
            None => Outcome::Ok,
            Some(_) => Outcome::Terminal,
        },
        facts: Some(Facts {
            known,
            ready,
            paused: None,
        }),
        again: false,
        news,
    }
}
