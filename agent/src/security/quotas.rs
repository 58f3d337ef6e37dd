//! Measures what clients do against their quotas, and says how long to throttle them. As in Kafka,
//! each agent does so for itself: a client that uses several agents has its limit at each.
//!
//! Nothing is refused, except the creation and deletion of partitions: what exceeds a limit is
//! counted, and the client is told to wait until its debt is paid. Who does not is not read from.

use std::{collections::HashMap, net::IpAddr};

use parking_lot::Mutex;
use streamhouse_core::{
    Error, ErrorCode,
    security::{ClientQuotas, KafkaPrincipal, QuotaKey, QuotaScope, TokenBucket, TokenRate},
};
use tokio::time::{Duration, Instant};

use super::{ClientAccess, ClientSecurity};

/// How much of its limit a client that was idle may use at once, as the time in which it gets it.
const BURST: Duration = Duration::from_secs(1);
/// The same for partitions: a topic has many.
const MUTATION_BURST: Duration = Duration::from_secs(10);
/// The longest time for which a client is throttled at once. A larger debt is forgiven.
pub(super) const MAX_THROTTLE: Duration = Duration::from_secs(30);
/// Clients whose use is measured one by one; with more, all others share one measure for each
/// limit.
const MAX_BUCKETS: usize = 10_000;
/// How often those of idle clients are looked for when there are too many.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Who shares a limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum BucketOwner {
    Client {
        user: Option<Box<str>>,
        client_id: Option<Box<str>>,
    },
    Address(IpAddr),
    /// All for whom there is no room.
    Others(QuotaScope),
}

/// What clients have left of their limits.
#[derive(Debug)]
pub(super) struct QuotaBuckets {
    begun: Instant,
    buckets: Mutex<BucketTable>,
}

#[derive(Debug, Default)]
struct BucketTable {
    by_owner: HashMap<(QuotaKey, BucketOwner), TokenBucket>,
    swept: Duration,
}

impl Default for QuotaBuckets {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            buckets: Mutex::default(),
        }
    }
}

/// The limit of some clients.
#[derive(Debug)]
struct Limit {
    key: QuotaKey,
    owner: BucketOwner,
    scope: QuotaScope,
    per_second: f64,
}

impl Limit {
    /// Returns the limit of a client; `None` if it has none.
    fn of_client(
        quotas: &ClientQuotas,
        key: QuotaKey,
        principal: &KafkaPrincipal,
        client_id: &str,
    ) -> Option<Self> {
        let limit = quotas.limit(key, principal.name(), client_id)?;
        let (of_user, of_client_id) = match limit.scope {
            QuotaScope::UserAndClientId => (true, true),
            QuotaScope::User => (true, false),
            QuotaScope::ClientId => (false, true),
        };
        Some(Self {
            key,
            owner: BucketOwner::Client {
                user: of_user.then(|| principal.name().into()),
                client_id: of_client_id.then(|| client_id.into()),
            },
            scope: limit.scope,
            per_second: limit.per_second,
        })
    }

    fn rate(&self) -> TokenRate {
        let burst = match self.key {
            QuotaKey::ControllerMutationRate => MUTATION_BURST,
            _ => BURST,
        };
        TokenRate::new(self.per_second, burst, MAX_THROTTLE)
    }
}

impl QuotaBuckets {
    /// Does something with the bucket of a limit, at the present time.
    fn with<T>(&self, limit: Limit, act: impl FnOnce(&mut TokenBucket, Duration) -> T) -> T {
        let now = self.begun.elapsed();
        let mut buckets = self.buckets.lock();
        act(buckets.bucket(limit, now), now)
    }
}

impl BucketTable {
    fn bucket(&mut self, limit: Limit, now: Duration) -> &mut TokenBucket {
        let rate = limit.rate();
        let mut id = (limit.key, limit.owner);
        if !self.by_owner.contains_key(&id) && !self.has_room(now) {
            id.1 = BucketOwner::Others(limit.scope);
        }
        let bucket = self
            .by_owner
            .entry(id)
            .or_insert_with(|| TokenBucket::new(rate, now));
        if bucket.rate() != rate {
            bucket.set_rate(rate, now);
        }
        bucket
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.by_owner.len() >= MAX_BUCKETS && now >= self.swept + SWEEP_INTERVAL {
            self.swept = now;
            self.by_owner.retain(|_, bucket| !bucket.is_full(now));
        }
        self.by_owner.len() < MAX_BUCKETS
    }
}

impl ClientSecurity {
    /// Does something with what a client has left of a limit; `None` if it has no limit.
    fn with_quota<T>(
        &self,
        key: QuotaKey,
        principal: &KafkaPrincipal,
        client_id: &str,
        act: impl FnOnce(&mut TokenBucket, Duration) -> T,
    ) -> Option<T> {
        let view = self.view.load();
        let quotas = view.as_ref()?.quotas();
        if quotas.is_empty() {
            return None;
        }
        let limit = Limit::of_client(quotas, key, principal, client_id)?;
        Some(self.quotas.with(limit, act))
    }

    /// Records that a connection was made from an address, and returns how long not to serve it.
    pub fn record_connection(&self, address: IpAddr) -> Duration {
        let view = self.view.load();
        let key = QuotaKey::ConnectionCreationRate;
        let quotas = view.as_ref().map(|view| view.quotas());
        let Some(per_second) = quotas.and_then(|quotas| quotas.connection_rate(address)) else {
            return Duration::ZERO;
        };
        let limit = Limit {
            key,
            owner: BucketOwner::Address(address.to_canonical()),
            scope: QuotaScope::ClientId,
            per_second,
        };
        let delay = self.quotas.with(limit, |bucket, now| bucket.record(1.0, now));
        self.metrics.security.record_throttle(key, delay);
        delay
    }
}

impl ClientAccess {
    /// Returns whether any client has a quota.
    pub fn has_quotas(&self) -> bool {
        let view = self.security().view.load();
        view.as_ref().is_some_and(|view| !view.quotas().is_empty())
    }

    /// Returns what this client, with this client id, may do in a second; `None` if it is not
    /// limited.
    pub fn quota(&self, key: QuotaKey, client_id: &str) -> Option<f64> {
        let view = self.security().view.load();
        let limit = view
            .as_ref()?
            .quotas()
            .limit(key, self.principal().name(), client_id)?;
        Some(limit.per_second)
    }

    /// Records what this client did, and returns how long it is to be throttled.
    pub fn record_use(&self, key: QuotaKey, client_id: &str, amount: f64) -> Duration {
        let record = |bucket: &mut TokenBucket, now| bucket.record(amount, now);
        let security = self.security();
        let delay = security.with_quota(key, self.principal(), client_id, record);
        let delay = delay.unwrap_or_default();
        security.metrics.security.record_throttle(key, delay);
        delay
    }

    /// Returns how long this client is to be throttled if it does nothing more.
    pub fn throttle_time(&self, key: QuotaKey, client_id: &str) -> Duration {
        let throttle_time = |bucket: &mut TokenBucket, now| bucket.throttle_time(now);
        let delay = self
            .security()
            .with_quota(key, self.principal(), client_id, throttle_time);
        delay.unwrap_or_default()
    }

    /// Records that this client is about to create or delete partitions.
    ///
    /// # Errors
    /// `ResourceExhausted` if it has exceeded its quota: then nothing is recorded.
    pub fn check_mutation(&self, client_id: &str, partitions: usize) -> Result<(), Error> {
        let key = QuotaKey::ControllerMutationRate;
        let admit = |bucket: &mut TokenBucket, now| match bucket.is_exhausted(now) {
            true => Err(bucket.throttle_time(now)),
            false => {
                bucket.record(partitions as f64, now);
                Ok(())
            }
        };
        let security = self.security();
        let Some(Err(delay)) = security.with_quota(key, self.principal(), client_id, admit) else {
            return Ok(());
        };
        security.metrics.security.record_throttle(key, delay);
        let delay_ms = u32::try_from(delay.as_millis()).unwrap_or(u32::MAX).max(1);
        let message = format!(
            "{} creates and deletes more partitions than its quota allows; try again in {delay_ms} ms",
            self.principal()
        );
        Err(Error::new(ErrorCode::ResourceExhausted, message).with_retry_after_ms(delay_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(owner: BucketOwner) -> Limit {
        Limit {
            key: QuotaKey::ProducerByteRate,
            owner,
            scope: QuotaScope::ClientId,
            per_second: 10.0,
        }
    }

    fn client(number: usize) -> BucketOwner {
        BucketOwner::Client {
            user: None,
            client_id: Some(format!("client {number}").into()),
        }
    }

    #[test]
    fn clients_for_whom_there_is_no_room_share_a_limit_until_others_are_idle() {
        let mut table = BucketTable::default();
        let second = Duration::from_secs(1);
        for number in 0..MAX_BUCKETS {
            table
                .bucket(limit(client(number)), Duration::ZERO)
                .record(20.0, Duration::ZERO);
        }
        for number in 0..100 {
            let bucket = table.bucket(limit(client(MAX_BUCKETS + number)), Duration::ZERO);
            bucket.record(1.0, Duration::ZERO);
        }
        assert_eq!(table.by_owner.len(), MAX_BUCKETS + 1);
        let mut others = limit(BucketOwner::Others(QuotaScope::ClientId));
        assert_eq!(table.bucket(others, second).throttle_time(second), 8 * second);
        // All have paid by then, and are forgotten.
        let later = 60 * second;
        let delay = table
            .bucket(limit(client(MAX_BUCKETS)), later)
            .record(20.0, later);
        assert_eq!((table.by_owner.len(), delay), (1, second));
        others = limit(client(MAX_BUCKETS));
        others.per_second = 1.0;
        assert_eq!(
            table.bucket(others, later).throttle_time(later),
            10 * second,
            "a new rate"
        );
    }
}
