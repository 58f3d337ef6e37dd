//! The outcome of a reconciliation, derived from its findings without side effects.

use std::time::Duration;

use super::{
    POLL_INTERVAL, memory::ReconcileResult, preflight::BucketCheck, problem::ClusterProblem,
    status::ReconcileFindings,
};
use crate::{crd::ConditionReason, metrics::ReconcileOutcome};

/// What remains to be done after the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextReconcile {
    /// Nothing: the resource no longer exists.
    Gone,
    /// Nothing, unless there are problems.
    Settled,
    /// Something is under way that no watch may report.
    Poll(Duration),
}

/// Summarizes a reconciliation; `next` is `None` if it was aborted.
pub(super) fn summarize(next: Option<NextReconcile>, findings: &ReconcileFindings) -> ReconcileResult {
    let listeners = findings
        .listeners
        .as_ref()
        .and_then(|report| report.problem.as_ref());
    let problems: Vec<&ClusterProblem> = findings.problems.iter().chain(listeners).collect();
    // The discovery reports the change.
    let unresolved = |problem: &&ClusterProblem| problem.reason != ConditionReason::MonitoringApiMissing;
    let waits = |problem: &ClusterProblem| {
        matches!(
            problem.reason,
            ConditionReason::AddressPending
                | ConditionReason::DeletePending
                | ConditionReason::Progressing
                | ConditionReason::CertificatePending
                | ConditionReason::CertManagerMissing
        )
    };
    let failed = |problem: &ClusterProblem| !problem.reason.needs_user() && !waits(problem);
    let bucket_failed = matches!(findings.bucket, Some(BucketCheck::Failed(_)));
    let (poll, pending) = match next {
        Some(NextReconcile::Poll(poll)) => (poll, true),
        _ => (POLL_INTERVAL, false),
    };
    let mut counted = problems.iter().copied().filter(unresolved);
    let outcome = if next.is_none() || bucket_failed || counted.clone().any(failed) {
        ReconcileOutcome::Error
    } else if counted.clone().any(|problem| problem.reason.needs_user()) {
        ReconcileOutcome::Blocked
    } else if pending || counted.next().is_some() {
        ReconcileOutcome::Waiting
    } else {
        ReconcileOutcome::Ok
    };
    ReconcileResult {
        outcome,
        reasons: problems.iter().map(|problem| problem.reason).collect(),
        poll,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::ConditionType;

    fn outcome(next: Option<NextReconcile>, reasons: &[ConditionReason]) -> ReconcileOutcome {
        let problem = |reason: &ConditionReason| ClusterProblem {
            condition: ConditionType::Ready,
            reason: *reason,
            message: String::new(),
        };
        let findings = ReconcileFindings {
            problems: reasons.iter().map(problem).collect(),
            ..ReconcileFindings::default()
        };
        summarize(next, &findings).outcome
    }

    #[test]
    fn outcomes_tell_what_is_done_what_waits_what_needs_a_user_and_what_fails() {
        let (settled, polling) = (
            Some(NextReconcile::Settled),
            Some(NextReconcile::Poll(POLL_INTERVAL)),
        );
        for (next, reasons, expected) in [
            (settled, &[][..], ReconcileOutcome::Ok),
            (
                settled,
                &[ConditionReason::MonitoringApiMissing],
                ReconcileOutcome::Ok,
            ),
            (polling, &[], ReconcileOutcome::Waiting),
            (
                settled,
                &[ConditionReason::CertificatePending],
                ReconcileOutcome::Waiting,
            ),
            (
                polling,
                &[ConditionReason::DeletePending],
                ReconcileOutcome::Waiting,
            ),
            (
                polling,
                &[ConditionReason::SecretMissing],
                ReconcileOutcome::Blocked,
            ),
            (
                settled,
                &[ConditionReason::InvalidSpec],
                ReconcileOutcome::Blocked,
            ),
            (
                settled,
                &[ConditionReason::MetadataUnreachable],
                ReconcileOutcome::Error,
            ),
            (
                polling,
                &[ConditionReason::SecretMissing, ConditionReason::ApplyFailed],
                ReconcileOutcome::Error,
            ),
            (None, &[], ReconcileOutcome::Error),
        ] {
            assert_eq!(outcome(next, reasons), expected, "{next:?} {reasons:?}");
        }
    }

    #[test]
    fn a_bucket_that_fails_is_an_error() {
        let findings = ReconcileFindings {
            bucket: Some(BucketCheck::Failed("denied".to_owned())),
            ..ReconcileFindings::default()
        };
        let result = summarize(Some(NextReconcile::Poll(POLL_INTERVAL)), &findings);
        assert_eq!(result.outcome, ReconcileOutcome::Error);
    }
}
