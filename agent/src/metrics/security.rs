//! Metrics of authentication and authorization. Label values are names of the protocol.

use prometheus::{CounterVec, IntCounterVec, IntGauge, Result};
use streamhouse_core::{
    security::{AclOperation, AclResourceType, QuotaKey},
    settings::SaslMechanism,
};
use tokio::time::Duration;

use super::register::MetricRegistrar;

/// How an authentication ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticationOutcome {
    /// The client has proven who it is.
    Ok,
    /// It has not.
    Failed,
}

impl AuthenticationOutcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
        }
    }
}

/// Authentications, and what was denied.
#[derive(Debug)]
pub struct SecurityMetrics {
    unauthenticated_access: IntGauge,
    authentications: IntCounterVec,
    denied: IntCounterVec,
    throttles: IntCounterVec,
    throttle_times: CounterVec,
}

impl SecurityMetrics {
    pub(super) fn new(new: &MetricRegistrar) -> Result<Self> {
        let metrics = Self {
            unauthenticated_access: new.gauge(
                "unauthenticated_access",
                "1 if whoever reaches the agent may do everything and the setting allow-unauthenticated is off, else 0.",
            )?,
            authentications: new.counters(
                "authentications_total",
                "Authentications of clients, by mechanism and outcome (ok, failed).",
                &["mechanism", "outcome"],
            )?,
            denied: new.counters(
                "authorization_denied_total",
                "Requests for a resource that no ACL allows, by operation and type of the resource.",
                &["operation", "resource"],
            )?,
            throttles: new.counters(
                "quota_throttled_total",
                "Requests and connections that exceeded a quota, by the quota's name.",
                &["quota"],
            )?,
            throttle_times: new.float_counters(
                "quota_throttle_seconds_total",
                "For how long clients that exceeded a quota were told to wait, in seconds, by the quota's name.",
                "quota",
            )?,
        };
        for quota in QuotaKey::ALL {
            metrics.throttles.with_label_values(&[quota.name()]);
            metrics.throttle_times.with_label_values(&[quota.name()]);
        }
        // From the start, so that the first one is an increase.
        for mechanism in SaslMechanism::ALL {
            for outcome in [AuthenticationOutcome::Ok, AuthenticationOutcome::Failed] {
                metrics
                    .authentications
                    .with_label_values(&[mechanism.name(), outcome.name()]);
            }
        }
        for operation in [AclOperation::Read, AclOperation::Write] {
            let labels = [operation.kafka_name(), AclResourceType::Topic.kafka_name()];
            metrics.denied.with_label_values(&labels);
        }
        Ok(metrics)
    }

    /// Sets whether clients need not authenticate although no setting says that it is intended.
    pub fn set_unauthenticated_access(&self, open: bool) {
        self.unauthenticated_access.set(i64::from(open));
    }

    /// Counts an authentication.
    pub fn record_authentication(&self, mechanism: &str, outcome: AuthenticationOutcome) {
        self.authentications
            .with_label_values(&[mechanism, outcome.name()])
            .inc();
    }

    /// Counts a request or connection that exceeds a quota, if it does.
    pub fn record_throttle(&self, quota: QuotaKey, delay: Duration) {
        if !delay.is_zero() {
            self.throttles.with_label_values(&[quota.name()]).inc();
            let seconds = self.throttle_times.with_label_values(&[quota.name()]);
            seconds.inc_by(delay.as_secs_f64());
        }
    }

    /// Counts a request that was denied.
    pub fn record_denied(&self, operation: &str, resource_type: &str) {
        self.denied.with_label_values(&[operation, resource_type]).inc();
    }
}
