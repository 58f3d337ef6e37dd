//! Decides what a replica does next about the Lease: a pure state machine over what it has observed
//! and when, by its own monotonic clock. Called by the elector. Performs no I/O and reads no clock:
//! times are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// Times of the election; the defaults are those of Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long another replica must observe no renewal before it takes over.
    pub duration: Duration,
    /// How long after its last successful write a leader stops, at the latest. Shorter than
    /// `duration`.
    pub renew_deadline: Duration,
    /// Approximate interval between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Returns how long the work may take to end after the deadline before it is dropped.
    pub fn grace(&self) -> Duration {
        self.duration.saturating_sub(self.renew_deadline) / 2
    }

    /// Returns the time limit of one call: two calls fit before the deadline.
    pub fn call(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// Content of the Lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
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
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Changes with every write and is passed to the next one.
    pub version: String,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read the Lease.
    Look,
    /// Create the Lease with this record.
    Create(Record),
    /// Replace this version with this record.
    Update(Record, String),
    /// Wait for the next round: another replica holds the Lease.
    Wait,
}

/// State of one replica.
#[derive(Debug)]
pub struct Machine {
    identity: String,
    timing: Timing,
    /// The last observation; `None` before the first read.
    seen: Option<Seen>,
    /// Whether the observation is the newest known state: no own write is in flight or has an
    /// unknown outcome.
    fresh: bool,
    /// Whether an own write has an unknown outcome.
    pending: bool,
    /// End of the current term, if any.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    stored: Option<Stored>,
    /// When the Lease can be taken over: the holder has not renewed it for long enough.
    free_from: Instant,
}

impl Machine {
    /// Creates the state of a replica that has observed nothing. No other process may use the
    /// identity, before or after: two processes with one identity could not be distinguished.
    pub fn new(identity: String, timing: Timing) -> Self {
        Self {
            identity,
            timing,
            seen: None,
            fresh: false,
            pending: false,
            until: None,
        }
    }

    /// Returns the identity in the Lease.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Returns the times of the election.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Returns the end of the term unless a write succeeds before; `None` without a term.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Returns the observed holder of the Lease.
    pub fn holder(&self) -> Option<&str> {
        holder(self.seen.as_ref()?.stored.as_ref()?)
    }

    /// Returns whether a term is running.
    pub fn leads(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Begins a round of steps. A replica without a term reads first, because its observation is
    /// outdated.
    pub fn begin_round(&mut self, now: Instant) {
        if !self.leads(now) {
            self.fresh = false;
            self.until = None;
        }
    }

    /// Returns the next step. `clock_us` is the wall-clock time for the record.
    pub fn next(&self, now: Instant, clock_us: i64) -> Step {
        let Some(seen) = self.seen.as_ref().filter(|_| self.fresh) else {
            return Step::Look;
        };
        match &seen.stored {
            Some(stored) if holder(stored) == Some(&self.identity) => {
                Step::Update(self.renewal(&stored.record, clock_us), stored.version.clone())
            }
            _ if now < seen.free_from => Step::Wait,
            Some(stored) => Step::Update(self.claim(&stored.record, clock_us), stored.version.clone()),
            None => Step::Create(self.claim(&Record::default(), clock_us)),
        }
    }

    /// Records the result of a read, received at `now`. A leader that observes another holder or no
    /// Lease has lost its term.
    pub fn looked(&mut self, stored: Option<Stored>, now: Instant) {
        self.fresh = true;
        self.pending = false;
        let ours = stored
            .as_ref()
            .is_some_and(|stored| holder(stored) == Some(&self.identity));
        if !ours {
            self.until = None;
        }
        let version = |stored: &Option<Stored>| stored.as_ref().map(|stored| stored.version.clone());
        if let Some(seen) = &self.seen
            && version(&seen.stored) == version(&stored)
        {
            return;
        }
        let free_from = match &stored {
            Some(held) if holder(held).is_some() => now + self.patience(&held.record),
            Some(_) => now,
            // The Lease was deleted while held; the holder may not have noticed yet.
            None => self.seen.as_ref().map_or(now, |_| now + self.timing.duration),
        };
        self.seen = Some(Seen { stored, free_from });
    }

    /// Records that a write is about to be sent. Until its outcome is known, no observation is
    /// valid.
    pub fn writes(&mut self) {
        self.fresh = false;
        self.pending = true;
    }

    /// Returns whether a write has an unknown outcome.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// Records a successful write that was sent at `sent` and answered at `now`.
    pub fn wrote(&mut self, stored: Stored, sent: Instant, now: Instant) {
        self.looked(Some(stored), now);
        // Counted from before the write was sent: every observer has seen it later.
        self.until = (self.holder() == Some(&self.identity)).then(|| sent + self.timing.renew_deadline);
    }

    /// Returns the write that releases the Lease; `None` if this replica is not known to be the
    /// holder.
    pub fn release(&self, clock_us: i64) -> Option<(Record, String)> {
        let stored = self.seen.as_ref().filter(|_| self.fresh)?.stored.as_ref()?;
        (holder(stored) == Some(&self.identity)).then(|| {
            let record = Record {
                holder: None,
                ..self.renewal(&stored.record, clock_us)
            };
            (record, stored.version.clone())
        })
    }

    /// Ends the term regardless of the Lease.
    pub fn end_term(&mut self) {
        self.until = None;
    }

    /// Returns how long the holder may go without a renewal until it is considered gone.
    fn patience(&self, record: &Record) -> Duration {
        let stated = record.duration.filter(|duration| !duration.is_zero());
        stated.unwrap_or(self.timing.duration)
    }

    /// Returns the record that takes over the Lease.
    fn claim(&self, before: &Record, clock_us: i64) -> Record {
        let renewal = self.renewal(before, clock_us);
        Record {
            acquired_us: renewal.renewed_us,
            transitions: before
                .transitions
                .saturating_add(i32::from(before.renewed_us != 0)),
            ..renewal
        }
    }

    /// Returns the record that renews the Lease. Its time always increases, even if the clock
    /// stands still or was set back: a write that changes nothing would not be a renewal.
    fn renewal(&self, before: &Record, clock_us: i64) -> Record {
        Record {
            holder: Some(self.identity.clone()),
            duration: Some(self.timing.duration),
            acquired_us: before.acquired_us,
            renewed_us: clock_us.max(before.renewed_us.saturating_add(1)),
            transitions: before.transitions,
        }
    }
}

/// Returns the holder; an empty name means that the Lease is free.
fn holder(stored: &Stored) -> Option<&str> {
    stored.record.holder.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
