//! The connections to PostgreSQL, in lanes: each kind of call has connections and a queue of its own, so that no flood of one kind
//! takes them from another. A connection is given to one call at a time and comes back only when the call left it in order;
//! cut off in the middle, silent or no longer the primary's, it is closed at once.
//!
//! Why not the driver's pool: it asks a connection that comes back for a sign of life without a bound, so that one silent
//! connection keeps its place for ever, and it cannot throw away those that a fail-over has left behind.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{
    connection::{Opening, PgConnection, Scope},
    errors::{is_starting, refusal},
};
use crate::{ConnectOptions, Error, failure::Outcome};

/// A connection that lay idle for longer is asked whether it still lives before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// A connection that nobody needed for so long is closed.
const LONGEST_IDLE: Duration = Duration::from_secs(600);
/// A connection is replaced at this age, so that new addresses of the server are found and its memory is given back.
const LONGEST_LIFE: Duration = Duration::from_secs(1800);
/// Pauses before connecting again: doubling between these.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What a call is for; each has its own connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Registering, renewing, sealing and moving leases.
    Leases,
    /// Commits, segments, groups, offsets, topics.
    Writes,
    /// Everything that only looks, and tidying.
    Reads,
}

/// Divides the connections: at least one for each purpose, two for leases once there are four, and of the rest the greater half
/// for writes.
pub(super) fn split(connections: u32) -> [usize; 3] {
    let all = usize::try_from(connections)
        .unwrap_or(usize::MAX)
        .clamp(3, 10_000);
    let leases = if all < 4 { 1 } else { 2 };
    let reads = (all - leases) / 2;
    [leases, all - leases - reads, reads]
}

/// All lanes of a store.
#[derive(Debug)]
pub(super) struct Lanes {
    leases: Lane,
    writes: Lane,
    reads: Lane,
}

impl Lanes {
    pub(super) fn new(opening: Opening, options: &ConnectOptions) -> Self {
        let shared = Arc::new(Shared {
            opening,
            acquire_timeout: options.acquire_timeout,
            generation: AtomicU64::new(0),
        });
        let [leases, writes, reads] = split(options.max_connections);
        let lane = |name, size| Lane {
            name,
            size,
            permits: Arc::new(Semaphore::new(size)),
            idle: Arc::default(),
            shared: shared.clone(),
        };
        Self {
            leases: lane("leases", leases),
            writes: lane("writes", writes),
            reads: lane("reads", reads),
        }
    }

    /// The lane for a purpose.
    pub(super) fn of(&self, purpose: Purpose) -> &Lane {
        match purpose {
            Purpose::Leases => &self.leases,
            Purpose::Writes => &self.writes,
            Purpose::Reads => &self.reads,
        }
    }

    /// Closes the connections that lie idle, each with a word to the server within `limit` in all.
    pub(super) async fn close(&self, limit: Duration) {
        let until = Instant::now() + limit;
        for lane in [&self.leases, &self.writes, &self.reads] {
            let idle: Vec<Idle> = lane.idle.lock().drain(..).collect();
            for idle in idle {
                let _ = timeout_at(until, idle.conn.close()).await;
            }
        }
    }

    /// How many connections lie idle.
    pub(super) fn idle(&self) -> usize {
        [&self.leases, &self.writes, &self.reads]
            .iter()
            .map(|lane| lane.idle.lock().len())
            .sum()
    }
}

struct Shared {
    opening: Opening,
    acquire_timeout: Duration,
    /// Connections of an older generation are not used any more.
    generation: AtomicU64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the settings: they hold the password.
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The connections for one purpose, and the queue for them.
#[derive(Debug)]
pub(super) struct Lane {
    name: &'static str,
    size: usize,
    permits: Arc<Semaphore>,
    idle: Arc<IdleConnections>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct IdleConnections(Mutex<Vec<Idle>>);

impl IdleConnections {
    fn lock(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Idle {
    conn: PgConnection,
    generation: u64,
    since: Instant,
}

impl Lane {
    /// Gives out a connection within the time for that, and not after `deadline`.
    pub(super) async fn acquire(&self, deadline: Instant) -> Outcome<Lent> {
        let until = deadline.min(Instant::now() + self.shared.acquire_timeout);
        let permit = match timeout_at(until, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(self.busy().into()),
        };
        while let Some(mut idle) = self.pop() {
            let trusted = idle.since.elapsed() <= TRUSTED_IDLE;
            if trusted || answers(&mut idle.conn, until).await {
                return Ok(self.lend(idle.conn, idle.generation, permit));
            }
            // The others that lay idle as long are no better.
            self.expire();
        }
        let generation = self.shared.generation.load(Ordering::Acquire);
        let conn = self.connect(until).await?;
        Ok(self.lend(conn, generation, permit))
    }

    /// From now on only connections that are opened later are used, in every lane.
    pub(super) fn expire(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn busy(&self) -> Error {
        Error::Unavailable(format!(
            "no connection in time: all {} for {} are busy; if that goes on, raise metadata-max-connections",
            self.size, self.name
        ))
    }

    fn pop(&self) -> Option<Idle> {
        let mut idle = self.idle.lock();
        while let Some(found) = idle.pop() {
            if found.generation == self.shared.generation.load(Ordering::Acquire)
                && found.conn.age() < LONGEST_LIFE
            {
                return Some(found);
            }
        }
        None
    }

    fn lend(&self, conn: PgConnection, generation: u64, permit: OwnedSemaphorePermit) -> Lent {
        Lent {
            conn,
            generation,
            open: false,
            committing: false,
            idle: self.idle.clone(),
            permit,
        }
    }

    /// Opens a connection; again and again while the server is starting or refuses, until the time is up.
    async fn connect(&self, until: Instant) -> Outcome<PgConnection> {
        let mut pause = RECONNECT.0;
        loop {
            let problem = match timeout_at(until, self.shared.opening.open()).await {
                Ok(Ok(conn)) => return Ok(conn),
                Ok(Err(error)) if is_starting(&error) => refusal(error),
                Ok(Err(error)) => return Err(refusal(error).into()),
                Err(_) => return Err(silent(&self.shared.opening).into()),
            };
            if Instant::now() + pause >= until {
                return Err(problem.into());
            }
            sleep(pause).await;
            pause = (pause * 2).min(RECONNECT.1);
        }
    }
}

/// What is said when no connection comes about.
pub(super) fn silent(opening: &Opening) -> Error {
    Error::Unavailable(format!("PostgreSQL at {} does not answer", opening.target()))
}

async fn answers(conn: &mut PgConnection, until: Instant) -> bool {
    let until = until.min(Instant::now() + SIGN_OF_LIFE);
    matches!(timeout_at(until, conn.ping()).await, Ok(Ok(())))
}

/// A connection given to one call. Dropped, it is closed; [`Lent::keep`] keeps it.
#[derive(Debug)]
pub(super) struct Lent {
    pub(super) conn: PgConnection,
    generation: u64,
    /// A transaction is open.
    open: bool,
    /// The commit is under way: from now on only the server knows what became of it.
    committing: bool,
    idle: Arc<IdleConnections>,
    permit: OwnedSemaphorePermit,
}

impl Lent {
    /// Begins what `scope` says.
    pub(super) async fn begin(&mut self, scope: Scope) -> Outcome<()> {
        self.open = self.conn.begin(scope).await?;
        Ok(())
    }

    /// Ends what [`begin`](Self::begin) began: commits after a success, rolls back otherwise.
    pub(super) async fn end<T>(&mut self, outcome: Outcome<T>) -> Outcome<T> {
        if !self.open {
            return outcome;
        }
        if outcome.is_ok() {
            self.committing = true;
            self.conn.commit().await?;
            self.open = false;
        } else if self.conn.rollback().await.is_ok() {
            // When it could not, the connection is broken and the locks are free anyway.
            self.open = false;
        }
        outcome
    }

    /// Whether the call may have happened though it failed; `scope` is what was begun.
    pub(super) fn is_in_doubt(&self, scope: Scope) -> bool {
        self.committing || (scope == Scope::Statement && !self.open)
    }

    /// Keeps the connection for the next call, unless a transaction is still open on it.
    pub(super) fn keep(self) {
        if self.open {
            return;
        }
        let Self {
            conn,
            generation,
            idle,
            permit,
            ..
        } = self;
        let now = Instant::now();
        let mut idle = idle.lock();
        // The longest idle ones lie at the front.
        let stale = idle.partition_point(|idle| now - idle.since > LONGEST_IDLE);
        idle.drain(..stale);
        idle.push(Idle {
            conn,
            generation,
            since: now,
        });
        // After it lies there: who waited finds it.
        drop(idle);
        drop(permit);
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn every_purpose_has_a_connection_and_the_sum_stays() {
        assert_eq!(split(1), [1, 1, 1]);
        assert_eq!(split(2), [1, 1, 1]);
        assert_eq!(split(3), [1, 1, 1]);
        assert_eq!(split(4), [2, 1, 1]);
        assert_eq!(split(8), [2, 3, 3]);
        assert_eq!(split(16), [2, 7, 7]);
        for connections in 3..=200 {
            assert_eq!(split(connections).iter().sum::<usize>(), connections as usize);
        }
    }
}
