//! Metrics of listeners, and of calls that are forwarded to other agents.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Result};
use streamhouse_core::ErrorCode;

use super::register::MetricRegistrar;

/// The bytes that clients and a listener exchange, without those of TLS itself.
#[derive(Debug, Clone)]
pub struct ListenerTraffic {
    /// From clients.
    pub received: IntCounter,
    /// To clients.
    pub sent: IntCounter,
}

/// Bytes by listener.
#[derive(Debug)]
pub(super) struct ListenerMetrics {
    received: IntCounterVec,
    sent: IntCounterVec,
}

impl ListenerMetrics {
    pub(super) fn new(new: &MetricRegistrar) -> Result<Self> {
        Ok(Self {
            received: new.counters(
                "listener_received_bytes_total",
                "Bytes that a listener received from its clients, without those of TLS.",
                &["listener"],
            )?,
            sent: new.counters(
                "listener_sent_bytes_total",
                "Bytes that a listener sent to its clients, without those of TLS.",
                &["listener"],
            )?,
        })
    }

    /// Returns the counters of a listener; its series exist from then on.
    pub(super) fn traffic(&self, listener: &str) -> ListenerTraffic {
        ListenerTraffic {
            received: self.received.with_label_values(&[listener]),
            sent: self.sent.with_label_values(&[listener]),
        }
    }
}

/// What is forwarded to another agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardKind {
    /// Requests of a produce stream.
    Produce,
    /// Single calls: of consumer groups, and deletions of records.
    Call,
}

impl ForwardKind {
    const ALL: [Self; 2] = [Self::Produce, Self::Call];

    /// Returns the label value.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Call => "call",
        }
    }
}

/// Counters of what is forwarded.
#[derive(Debug)]
pub struct ForwardMetrics {
    requests: IntCounterVec,
    bytes: IntCounter,
    errors: IntCounterVec,
    connections: IntGaugeVec,
}

impl ForwardMetrics {
    pub(super) fn new(new: &MetricRegistrar) -> Result<Self> {
        let metrics = Self {
            requests: new.counters(
                "forwarded_requests_total",
                "Requests of clients that were forwarded to the agent that leads.",
                &["kind"],
            )?,
            bytes: new.counter(
                "forwarded_bytes_total",
                "Bytes of records that were forwarded to the agents that lead.",
            )?,
            errors: new.counters(
                "forward_errors_total",
                "Forwarded requests, or partitions of them, that failed, by error code.",
                &["kind", "code"],
            )?,
            connections: new.gauges(
                "forward_connections",
                "Connections to other agents for forwarded requests.",
                &["kind"],
            )?,
        };
        for kind in ForwardKind::ALL {
            metrics.requests.with_label_values(&[kind.name()]);
            metrics.connections.with_label_values(&[kind.name()]);
            let unreachable = ErrorCode::NetworkException.name();
            metrics.errors.with_label_values(&[kind.name(), unreachable]);
        }
        Ok(metrics)
    }

    /// Counts a forwarded request with this many bytes of records.
    pub fn record_request(&self, kind: ForwardKind, bytes: usize) {
        self.requests.with_label_values(&[kind.name()]).inc();
        self.bytes.inc_by(bytes as u64);
    }

    /// Counts a failure.
    pub fn record_error(&self, kind: ForwardKind, code: ErrorCode) {
        self.errors.with_label_values(&[kind.name(), code.name()]).inc();
    }

    /// Counts connections that were opened (positive) or dropped.
    pub fn add_connections(&self, kind: ForwardKind, change: i64) {
        self.connections.with_label_values(&[kind.name()]).add(change);
    }
}
