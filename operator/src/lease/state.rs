//! What a replica does next about the Lease: a pure state machine from what it has seen of the Lease and when, by its own monotonic
//! clock. Called by the elector. Does no input or output and asks no clock: moments come from outside.

use std::time::Duration;

use tokio::time::Instant;

/// The times of the election; Kubernetes' own defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long another replica must see no sign of life before it takes over.
    pub duration: Duration,
    /// How long after its last successful write a leader stops, at the latest. Shorter than `duration`.
    pub renew_deadline: Duration,
    /// How long between two tries, about.
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
    /// How long work may take to end by itself after the deadline, before it is dropped.
    pub fn grace(&self) -> Duration {
        self.duration.saturating_sub(self.renew_deadline) / 2
    }

    /// How long one call may take: two fit before the deadline.
    pub fn call(&self) -> Duration {
        self.renew_deadline / 2
    }
}

/// What stands in the Lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Who holds it; nobody when it was released.
    pub holder: Option<String>,
    /// How long the holder's sign of life counts.
    pub duration: Option<Duration>,
    /// When the holder took it, in microseconds of its clock: for people.
    pub acquired_us: i64,
    /// When the holder last wrote, in microseconds of its clock: for people, and grows with each write so that each one is a change.
    pub renewed_us: i64,
    /// How often the holder has changed.
    pub transitions: i32,
}

/// A record as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What stands in it.
    pub record: Record,
    /// Changes with every write, and is given back with the next.
    pub version: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read the Lease.
    Look,
    /// Make the Lease, with this in it.
    Create(Record),
    /// Write this over the version.
    Update(Record, String),
    /// Nothing, until the next round: another one holds it.
    Wait,
}

/// One replica's view.
#[derive(Debug)]
pub struct Machine {
    identity: String,
    timing: Timing,
    /// What was seen last; `None` until the first look.
    seen: Option<Seen>,
    /// Whether what was seen is the newest as far as this replica can know: no write of its own is under way or of unknown outcome.
    fresh: bool,
    /// Whether a write was sent and its outcome is not known.
    pending: bool,
    /// The end of the term, if there is one.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Seen {
    stored: Option<Stored>,
    /// From when on it can be taken: the holder has shown no sign of life for long enough.
    free_from: Instant,
}

impl Machine {
    /// A replica that has seen nothing. The identity must be used by no other process, before or after: two of one name could not
    /// tell each other apart.
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

    /// The name it holds the Lease by.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The times it goes by.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// When the term ends, unless a write succeeds before. `None` without a term.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Who holds the Lease, as far as was seen.
    pub fn holder(&self) -> Option<&str> {
        holder(self.seen.as_ref()?.stored.as_ref()?)
    }

    /// Whether there is a term and it goes on.
    pub fn leads(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// A round of steps begins. Who does not lead looks first: what it saw is old.
    pub fn begin_round(&mut self, now: Instant) {
        if !self.leads(now) {
            self.fresh = false;
            self.until = None;
        }
    }

    /// What to do next. `clock_us` is the time of day, for the record.
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

    /// A look gave this, and the answer came `now`. Who led and sees another one's name, or no Lease, does not lead any more.
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
            // Somebody deleted it under the holder, who does not know yet.
            None => self.seen.as_ref().map_or(now, |_| now + self.timing.duration),
        };
        self.seen = Some(Seen { stored, free_from });
    }

    /// A write is about to be sent. Until its outcome is known, nothing that was seen counts.
    pub fn writes(&mut self) {
        self.fresh = false;
        self.pending = true;
    }

    /// Whether a write was sent whose outcome is not known.
    pub fn is_pending(&self) -> bool {
        self.pending
    }

    /// The write that was sent at `sent` succeeded and left this; the answer came `now`.
    pub fn wrote(&mut self, stored: Stored, sent: Instant, now: Instant) {
        self.looked(Some(stored), now);
        // From before the write was sent: whoever saw it, saw it later.
        self.until = (self.holder() == Some(&self.identity)).then(|| sent + self.timing.renew_deadline);
    }

    /// What to write to let others take over at once; `None` when this replica is not the holder as far as it knows.
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

    /// The term is over, whatever the Lease says.
    pub fn end_term(&mut self) {
        self.until = None;
    }

    /// How long without a sign of life until the holder is taken for gone.
    fn patience(&self, record: &Record) -> Duration {
        let stated = record.duration.filter(|duration| !duration.is_zero());
        stated.unwrap_or(self.timing.duration)
    }

    /// Takes over from whoever held it before.
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

    /// Goes on holding it. The time always grows, even if the clock stands still or was set back: a write that changes nothing would
    /// be no sign of life.
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

/// Who holds it; an empty name is nobody's.
fn holder(stored: &Stored) -> Option<&str> {
    stored.record.holder.as_deref().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
