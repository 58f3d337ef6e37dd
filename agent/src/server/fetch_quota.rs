//! The quota of consumers that fetch by gRPC.

use streamhouse_core::{protocol::v1, security::QuotaKey};
use tokio::time::{Duration, sleep};

use crate::{listeners::CallOrigin, security::ClientAccess};

/// An answer has at most what the client's quota allows in this time, as in Kafka.
pub(crate) const QUOTA_WINDOW: Duration = Duration::from_secs(10);

/// How much a client may fetch; `None` if it has no quota, or another agent has forwarded the call,
/// which has recorded it.
pub(super) struct FetchQuota<'a>(Option<(&'a ClientAccess, f64)>);

impl<'a> FetchQuota<'a> {
    pub(super) fn of(access: &'a ClientAccess, origin: &CallOrigin) -> Self {
        if origin.is_forwarded() || !access.has_quotas() {
            return Self(None);
        }
        let quota = access.quota(QuotaKey::ConsumerByteRate, access.client_id());
        Self(quota.map(|per_second| (access, per_second)))
    }

    /// Waits, with no memory taken, until the client has paid for what it fetched before, and
    /// limits what it gets at once.
    pub(super) async fn wait(&self, wanted: &mut v1::FetchRequest) {
        let Some((access, per_second)) = self.0 else {
            return;
        };
        let at_once = (per_second * QUOTA_WINDOW.as_secs_f64()) as u32;
        wanted.max_bytes = wanted.max_bytes.min(at_once);
        let delay = access.throttle_time(QuotaKey::ConsumerByteRate, access.client_id());
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    /// Records what the client gets, and tells it for how long it is throttled.
    pub(super) fn record(&self, answer: &mut v1::FetchResponse) {
        let Some((access, _)) = self.0 else {
            return;
        };
        let bytes: usize = answer.partitions.iter().map(|part| part.records.len()).sum();
        let delay = access.record_use(QuotaKey::ConsumerByteRate, access.client_id(), bytes as f64);
        let delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX);
        answer.throttle_ms = answer.throttle_ms.max(delay_ms);
    }
}
