//! Decides what a replica does next about the Lease: a pure state machine over what it has observed
//! and when, by its own monotonic clock. Called by the elector. Performs no I/O and reads no clock:
//! times are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// Times of the election; the defaults are those of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElectionTiming {
    /// How long another replica must observe no renewal before it takes over.
    pub lease_duration: Duration,
    /// How long after its last successful write a leader stops, at the latest. Shorter than
    /// `lease_duration`.
    pub renew_deadline: Duration,
    /// Approximate interval between two attempts.
    pub retry_period: Duration,
}

impl Default for ElectionTiming {
    fn default() -> Self {
        Self {
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl ElectionTiming {
    /// Returns how long the work may take to end after the deadline before it is dropped.
    pub fn grace_period(&self) -> Duration {
        self.lease_duration.saturating_sub(self.renew_deadline) / 2
    }

    /// Returns the time limit of one call: two calls fit before the deadline.
    pub fn call_timeout(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// Content of the Lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaseRecord {
    /// Identity of the holder; none if it was released.
    pub holder: Option<String>,
    /// How long a renewal of the holder is valid.
    pub duration: Option<Duration>,
    /// When the holder acquired the Lease, in microseconds of its clock; informational.
    pub acquired_us: i64,
    /// When the holder last wrote, in microseconds of its clock; informational. Increases with each
    /// write, so that each one is a change.
    pub renewed_us: i64,
    /// How often the holder has changed.
    pub transitions: i32,
}

/// A record with its version in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedLease {
    /// The record.
    pub record: LeaseRecord,
    /// Changes with every write and is passed to the next one.
    pub version: String,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElectionStep {
    /// Read the Lease.
    Read,
    /// Create the Lease with this record.
    Create(LeaseRecord),
    /// Replace this version with this record.
    Update(LeaseRecord, String),
    /// Wait for the next round: another replica holds the Lease.
    Wait,
}

/// State of one replica.
#[derive(Debug)]
pub struct ElectionState {
    identity: String,
    timing: ElectionTiming,
    /// The last observation; `None` before the first read.
    observed: Option<ObservedLease>,
    /// Whether the observation is the newest known state: no own write is in flight or has an
    /// unknown outcome.
    fresh: bool,
    /// Whether an own write has an unknown outcome.
    pending: bool,
    /// End of the current term, if any.
    term_end: Option<Instant>,
}

#[derive(Debug)]
struct ObservedLease {
    stored: Option<VersionedLease>,
    /// When the Lease can be taken over: the holder has not renewed it for long enough.
    free_from: Instant,
}

impl ElectionState {
    /// Creates the state of a replica that has observed nothing. No other process may use the
    /// identity, before or after: two processes with one identity could not be distinguished.
    pub fn new(identity: String, timing: ElectionTiming) -> Self {
        Self {
            identity,
            timing,
            observed: None,
            fresh: false,
            pending: false,
            term_end: None,
        }
    }

    /// Returns the identity in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns the times of the election.
    pub fn timing(&self) -> ElectionTiming {
        self.timing
    }

    /// Returns the end of the term unless a write succeeds before; `None` without a term.
    pub fn term_end(&self) -> Option<Instant> {
        self.term_end
    }

    /// Returns the observed holder of the Lease.
    pub fn holder(&self) -> Option<&str> {
        holder_of(self.observed.as_ref()?.stored.as_ref()?)
    }

    /// Returns whether a term is running.
    pub fn is_leading(&self, now: Instant) -> bool {
        self.term_end.is_some_and(|until| now < until)
    }

    /// Begins a round of steps. A replica without a term reads first, because its observation is
    /// outdated.
    pub fn begin_round(&mut self, now: Instant) {
        if !self.is_leading(now) {
            self.fresh = false;
            self.term_end = None;
        }
    }

    /// Returns the next step. `clock_us` is the wall-clock time for the record.
    pub fn next_step(&self, now: Instant, clock_us: i64) -> ElectionStep {
        let Some(seen) = self.observed.as_ref().filter(|_| self.fresh) else {
            return ElectionStep::Read;
        };
        match &seen.stored {
            Some(stored) if holder_of(stored) == Some(&self.identity) => ElectionStep::Update(
                self.renewal_record(&stored.record, clock_us),
                stored.version.clone(),
            ),
            _ if now < seen.free_from => ElectionStep::Wait,
            Some(stored) => ElectionStep::Update(
                self.claim_record(&stored.record, clock_us),
                stored.version.clone(),
            ),
            None => ElectionStep::Create(self.claim_record(&LeaseRecord::default(), clock_us)),
        }
    }

    /// Records the result of a read, received at `now`. A leader that observes another holder or no
    /// Lease has lost its term.
    pub fn observe(&mut self, stored: Option<VersionedLease>, now: Instant) {
        self.fresh = true;
        self.pending = false;
        let ours = stored
            .as_ref()
            .is_some_and(|stored| holder_of(stored) == Some(&self.identity));
        if !ours {
            self.term_end = None;
        }
        let version = |stored: &Option<VersionedLease>| stored.as_ref().map(|stored| stored.version.clone());
        if let Some(seen) = &self.observed
            && version(&seen.stored) == version(&stored)
        {
            return;
        }
        let free_from = match &stored {
            Some(held) if holder_of(held).is_some() => now + self.holder_timeout(&held.record),
            Some(_) => now,
            // The Lease was deleted while held; the holder may not have noticed yet.
            None => self
                .observed
                .as_ref()
                .map_or(now, |_| now + self.timing.lease_duration),
        };
        self.observed = Some(ObservedLease { stored, free_from });
    }

    /// Records that a write is about to be sent. Until its outcome is known, no observation is
    /// valid.
    pub fn begin_write(&mut self) {
        self.fresh = false;
        self.pending = true;
    }

    /// Returns whether a write has an unknown outcome.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Records a successful write that was sent at `sent` and answered at `now`.
    pub fn finish_write(&mut self, stored: VersionedLease, sent: Instant, now: Instant) {
        self.observe(Some(stored), now);
        // Counted from before the write was sent: every observer has seen it later.
        self.term_end = (self.holder() == Some(&self.identity)).then(|| sent + self.timing.renew_deadline);
    }

    /// Returns the write that releases the Lease; `None` if this replica is not known to be the
    /// holder.
    pub fn release_record(&self, clock_us: i64) -> Option<(LeaseRecord, String)> {
        let stored = self.observed.as_ref().filter(|_| self.fresh)?.stored.as_ref()?;
        (holder_of(stored) == Some(&self.identity)).then(|| {
            let record = LeaseRecord {
                holder: None,
                ..self.renewal_record(&stored.record, clock_us)
            };
            (record, stored.version.clone())
        })
    }

    /// Ends the term regardless of the Lease.
    pub fn end_term(&mut self) {
        self.term_end = None;
    }

    /// Returns how long the holder may go without a renewal until it is considered gone.
    fn holder_timeout(&self, record: &LeaseRecord) -> Duration {
        let stated = record.duration.filter(|duration| !duration.is_zero());
        stated.unwrap_or(self.timing.lease_duration)
    }

    /// Returns the record that takes over the Lease.
    fn claim_record(&self, before: &LeaseRecord, clock_us: i64) -> LeaseRecord {
        let renewal = self.renewal_record(before, clock_us);
        LeaseRecord {
            acquired_us: renewal.renewed_us,
            transitions: before
                .transitions
                .saturating_add(i32::from(before.renewed_us != 0)),
            ..renewal
        }
    }

    /// Returns the record that renews the Lease. Its time always increases, even if the clock
    /// stands still or was set back: a write that changes nothing would not be a renewal.
    fn renewal_record(&self, before: &LeaseRecord, clock_us: i64) -> LeaseRecord {
        LeaseRecord {
            holder: Some(self.identity.clone()),
            duration: Some(self.timing.lease_duration),
            acquired_us: before.acquired_us,
            renewed_us: clock_us.max(before.renewed_us.saturating_add(1)),
            transitions: before.transitions,
        }
    }
}

/// Returns the holder; an empty name means that the Lease is free.
fn holder_of(stored: &VersionedLease) -> Option<&str> {
    stored.record.holder.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
