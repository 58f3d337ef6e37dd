//! The connection pools. Leases, writes and reads each have connections and a queue of their own,
//! so that a flood of one kind cannot starve another.
//!
//! A connection is lent to one call at a time and returned only if the call ended cleanly. It is
//! closed at once if the call was cancelled or timed out, or the server is no longer the primary.
//!
//! The driver's own pool does not fit: it pings returned connections without a timeout, so that an
//! unresponsive connection occupies its place indefinitely, and it cannot discard connections that
//! a failover left behind.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use streamhouse_core::backoff::BackoffPolicy;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant, sleep, timeout_at},
};

use super::{
    connection::{PostgresConnector, StoreConnection, TransactionScope},
    errors::{is_starting, store_error},
};
use crate::{ConnectOptions, Error, transaction::TransactionResult};

/// A connection that was idle for longer is pinged before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);
/// The timeout of that ping.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection that was idle for longer is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// A connection is replaced at this age, so that new addresses of the server are found and its
/// memory is released.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(1800);
/// Back-off between attempts to connect.
const RECONNECT_BACKOFF: BackoffPolicy =
    BackoffPolicy::new(Duration::from_millis(10), Duration::from_secs(1));

/// The kind of a call; each kind has its own connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolPurpose {
    /// Registering, renewing, sealing and moving leases.
    Leases,
    /// Commits, segments, groups, offsets, topics.
    Writes,
    /// Reads and garbage collection.
    Reads,
}

/// Divides the connections: at least one for each purpose, two for leases if there are at least
/// four, and the larger half of the rest for writes.
pub(super) fn split_connections(connections: u32) -> [usize; 3] {
    let all = usize::try_from(connections)
        .unwrap_or(usize::MAX)
        .clamp(3, 10_000);
    let leases = if all < 4 { 1 } else { 2 };
    let reads = (all - leases) / 2;
    [leases, all - leases - reads, reads]
}

/// The pools of a store.
#[derive(Debug)]
pub(super) struct ConnectionPools {
    leases: ConnectionPool,
    writes: ConnectionPool,
    reads: ConnectionPool,
}

impl ConnectionPools {
    pub(super) fn new(opening: PostgresConnector, options: &ConnectOptions) -> Self {
        let shared = Arc::new(PoolShared {
            opening,
            acquire_timeout: options.acquire_timeout,
            generation: AtomicU64::new(0),
        });
        let [leases, writes, reads] = split_connections(options.max_connections);
        let lane = |name, size| ConnectionPool {
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

    /// Returns the pool for a purpose.
    pub(super) fn pool_for(&self, purpose: PoolPurpose) -> &ConnectionPool {
        match purpose {
            PoolPurpose::Leases => &self.leases,
            PoolPurpose::Writes => &self.writes,
            PoolPurpose::Reads => &self.reads,
        }
    }

    /// Closes the idle connections cleanly, within `limit` in total.
    pub(super) async fn close(&self, limit: Duration) {
        let until = Instant::now() + limit;
        for lane in [&self.leases, &self.writes, &self.reads] {
            let idle: Vec<IdleConnection> = lane.idle.lock().drain(..).collect();
            for idle in idle {
                let _ = timeout_at(until, idle.conn.close()).await;
            }
        }
    }

    /// Returns the number of idle connections.
    pub(super) fn idle_count(&self) -> usize {
        [&self.leases, &self.writes, &self.reads]
            .iter()
            .map(|lane| lane.idle.lock().len())
            .sum()
    }
}

struct PoolShared {
    opening: PostgresConnector,
    acquire_timeout: Duration,
    /// Connections of an older generation are not used any more.
    generation: AtomicU64,
}

impl std::fmt::Debug for PoolShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the settings: they contain the password.
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// The connections for one purpose, and the queue for them.
#[derive(Debug)]
pub(super) struct ConnectionPool {
    name: &'static str,
    size: usize,
    permits: Arc<Semaphore>,
    idle: Arc<IdleConnections>,
    shared: Arc<PoolShared>,
}

#[derive(Debug, Default)]
struct IdleConnections(Mutex<Vec<IdleConnection>>);

impl IdleConnections {
    fn lock(&self) -> MutexGuard<'_, Vec<IdleConnection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct IdleConnection {
    conn: StoreConnection,
    generation: u64,
    since: Instant,
}

impl ConnectionPool {
    /// Acquires a connection within the acquire timeout and before `deadline`.
    pub(super) async fn acquire(&self, deadline: Instant) -> TransactionResult<PooledConnection> {
        let until = deadline.min(Instant::now() + self.shared.acquire_timeout);
        let permit = match timeout_at(until, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(self.pool_exhausted_error().into()),
        };
        while let Some(mut idle) = self.pop_idle() {
            let trusted = idle.since.elapsed() <= PING_AFTER_IDLE;
            if trusted || is_responsive(&mut idle.conn, until).await {
                return Ok(self.check_out(idle.conn, idle.generation, permit));
            }
            // The others that were idle for as long are no better.
            self.expire_connections();
        }
        let generation = self.shared.generation.load(Ordering::Acquire);
        let conn = self.connect(until).await?;
        Ok(self.check_out(conn, generation, permit))
    }

    /// Discards all open connections of every pool: only those that are opened later are used.
    pub(super) fn expire_connections(&self) {
        self.shared.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn pool_exhausted_error(&self) -> Error {
        Error::Unavailable(format!(
            "no connection was free in time: all {} for {} are busy; if this persists, raise metadata-max-connections",
            self.size, self.name
        ))
    }

    fn pop_idle(&self) -> Option<IdleConnection> {
        let mut idle = self.idle.lock();
        while let Some(found) = idle.pop() {
            if found.generation == self.shared.generation.load(Ordering::Acquire)
                && found.conn.age() < MAX_CONNECTION_AGE
            {
                return Some(found);
            }
        }
        None
    }

    fn check_out(
        &self,
        conn: StoreConnection,
        generation: u64,
        permit: OwnedSemaphorePermit,
    ) -> PooledConnection {
        PooledConnection {
            conn,
            generation,
            in_transaction: false,
            is_committing: false,
            idle: self.idle.clone(),
            permit,
        }
    }

    /// Opens a connection; retries while the server is starting or refuses connections, until
    /// `until`.
    async fn connect(&self, until: Instant) -> TransactionResult<StoreConnection> {
        let mut failures = 0;
        loop {
            let problem = match timeout_at(until, self.shared.opening.open()).await {
                Ok(Ok(conn)) => return Ok(conn),
                Ok(Err(error)) if is_starting(&error) => store_error(error),
                Ok(Err(error)) => return Err(store_error(error).into()),
                Err(_) => return Err(unresponsive_error(&self.shared.opening).into()),
            };
            failures += 1;
            let pause = RECONNECT_BACKOFF.base_delay(failures);
            if Instant::now() + pause >= until {
                return Err(problem.into());
            }
            sleep(pause).await;
        }
    }
}

/// Returns the error for a server that does not respond.
pub(super) fn unresponsive_error(opening: &PostgresConnector) -> Error {
    Error::Unavailable(format!("PostgreSQL at {} does not answer", opening.target()))
}

async fn is_responsive(conn: &mut StoreConnection, until: Instant) -> bool {
    let until = until.min(Instant::now() + PING_TIMEOUT);
    matches!(timeout_at(until, conn.ping()).await, Ok(Ok(())))
}

/// A connection lent to one call. Closed when dropped; [`PooledConnection::return_to_pool`] returns
/// it to its pool.
#[derive(Debug)]
pub(super) struct PooledConnection {
    pub(super) conn: StoreConnection,
    generation: u64,
    /// Whether a transaction is open.
    in_transaction: bool,
    /// Whether a COMMIT was sent: from then on only the server knows its outcome.
    is_committing: bool,
    idle: Arc<IdleConnections>,
    permit: OwnedSemaphorePermit,
}

impl PooledConnection {
    /// Begins what `scope` requires.
    pub(super) async fn begin(&mut self, scope: TransactionScope) -> TransactionResult<()> {
        self.in_transaction = self.conn.begin(scope).await?;
        Ok(())
    }

    /// Ends what [`begin`](Self::begin) began: commits after a success, rolls back otherwise.
    pub(super) async fn end_transaction<T>(&mut self, outcome: TransactionResult<T>) -> TransactionResult<T> {
        if !self.in_transaction {
            return outcome;
        }
        if outcome.is_ok() {
            self.is_committing = true;
            self.conn.commit().await?;
            self.in_transaction = false;
        } else if self.conn.rollback().await.is_ok() {
            // If it fails, the connection is broken, which releases the locks too.
            self.in_transaction = false;
        }
        outcome
    }

    /// Returns whether the failed call may have taken effect; `scope` is what was begun.
    pub(super) fn is_in_doubt(&self, scope: TransactionScope) -> bool {
        self.is_committing || (scope == TransactionScope::Statement && !self.in_transaction)
    }

    /// Returns the connection to its pool, unless a transaction is still open on it.
    pub(super) fn return_to_pool(self) {
        if self.in_transaction {
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
        // The connections that were idle for longest are at the front.
        let stale = idle.partition_point(|idle| now - idle.since > IDLE_TIMEOUT);
        idle.drain(..stale);
        idle.push(IdleConnection {
            conn,
            generation,
            since: now,
        });
        // Only now, so that the next waiter finds the connection.
        drop(idle);
        drop(permit);
    }
}

#[cfg(test)]
mod tests {
    use super::split_connections;

    #[test]
    fn every_purpose_has_a_connection_and_the_sum_stays() {
        assert_eq!(split_connections(1), [1, 1, 1]);
        assert_eq!(split_connections(2), [1, 1, 1]);
        assert_eq!(split_connections(3), [1, 1, 1]);
        assert_eq!(split_connections(4), [2, 1, 1]);
        assert_eq!(split_connections(8), [2, 3, 3]);
        assert_eq!(split_connections(16), [2, 7, 7]);
        for connections in 3..=200 {
            assert_eq!(
                split_connections(connections).iter().sum::<usize>(),
                connections as usize
            );
        }
    }
}
