//! A metadata store with injected faults: the counterpart of `store/fault.rs` for
//! [`MetadataStore`]. Wraps any store; without faults it only counts calls. Used by the unit tests
//! of the whole crate.
//!
//! Nothing here sleeps: a call blocks until its fault is released, and a test waits until calls are
//! blocked. While a call runs in the inner store, tokio's paused clock does not advance.

use std::{
    collections::HashMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use parking_lot::Mutex;
use streamhouse_metadata::*;
use tokio::sync::watch;

/// How a call fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MetadataFaultKind {
    /// Blocks before the call is made. The call is not made if the caller gives up first.
    Hang,
    /// Makes the call at once; its answer blocks.
    HangAfter,
    /// Blocks the caller, and makes the call when released, even if the caller gave up long before.
    HangLate,
    /// Returns `Unavailable` at once; the call is made when released.
    Late,
    /// Returns `Unavailable` without making the call.
    LoseBefore,
    /// Makes the call and returns `Unavailable`.
    LoseAfter,
    /// Returns this error without making the call.
    Fail(fn() -> Error),
}

/// One fault: how which calls fail, and how often.
#[derive(Debug, Clone)]
pub(crate) struct MetadataFault {
    kind: MetadataFaultKind,
    methods: Vec<MetadataMethod>,
    about: Option<String>,
    times: u64,
}

impl MetadataFault {
    /// Affects every call of these methods ([`MetadataMethod::ALL`] for any) until it is released.
    pub(crate) fn new(kind: MetadataFaultKind, methods: impl Into<Vec<MetadataMethod>>) -> Self {
        Self {
            kind,
            methods: methods.into(),
            about: None,
            times: u64::MAX,
        }
    }

    /// Limits the number of affected calls.
    pub(crate) fn with_limit(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Limits the fault to calls whose arguments contain this in their `Debug` text: `"\"g\""`,
    /// `"Incarnation(3)"`.
    pub(crate) fn with_argument(mut self, text: impl Into<String>) -> Self {
        self.about = Some(text.into());
        self
    }
}

/// An active fault.
#[derive(Debug)]
struct ActiveMetadataFault {
    fault: MetadataFault,
    left: AtomicU64,
    hits: AtomicU64,
    released: watch::Sender<bool>,
    /// Number of blocked calls.
    waiting: watch::Sender<usize>,
}

impl ActiveMetadataFault {
    /// Returns whether the fault affects this call, and counts it against the limit.
    fn take_hit(&self, method: MetadataMethod, arguments: &str) -> bool {
        let about = self.fault.about.as_deref();
        let hit = !*self.released.borrow()
            && self.fault.methods.contains(&method)
            && about.is_none_or(|about| arguments.contains(about));
        let take = |left: u64| left.checked_sub(1);
        let hit = hit
            && self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                .is_ok();
        self.hits.fetch_add(u64::from(hit), Ordering::SeqCst);
        hit
    }
}

/// Counts a call as blocked until it is dropped.
struct BlockedCallGuard(Arc<ActiveMetadataFault>);

impl BlockedCallGuard {
    fn new(fault: &Arc<ActiveMetadataFault>) -> Self {
        fault.waiting.send_modify(|waiting| *waiting += 1);
        Self(fault.clone())
    }

    async fn wait_released(&self) {
        let _ = self.0.released.subscribe().wait_for(|released| *released).await;
    }
}

impl Drop for BlockedCallGuard {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

/// Handle of an added fault. Dropping it changes nothing.
#[derive(Debug, Clone)]
pub(crate) struct MetadataFaultHandle(Arc<ActiveMetadataFault>);

impl MetadataFaultHandle {
    /// Ends the fault: blocked calls continue, delayed calls are made.
    pub(crate) fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// Waits until this many calls are blocked or delayed.
    pub(crate) async fn wait_for_blocked_calls(&self, calls: usize) {
        let mut waiting = self.0.waiting.subscribe();
        let _ = waiting.wait_for(|waiting| *waiting >= calls).await;
    }

    /// Waits until no call is blocked or delayed any more: each continued, was made, or was
    /// abandoned.
    pub(crate) async fn wait_settled(&self) {
        let _ = self.0.waiting.subscribe().wait_for(|waiting| *waiting == 0).await;
    }

    /// Returns the number of affected calls.
    pub(crate) fn hit_count(&self) -> u64 {
        self.0.hits.load(Ordering::SeqCst)
    }
}

/// A metadata store that injects faults into another one.
#[derive(Debug)]
pub(crate) struct FaultyMetadataStore {
    inner: Arc<dyn MetadataStore>,
    faults: Mutex<Vec<Arc<ActiveMetadataFault>>>,
    calls: watch::Sender<HashMap<MetadataMethod, u64>>,
}

impl FaultyMetadataStore {
    /// Wraps `inner`, without faults at first.
    pub(crate) fn new(inner: Arc<dyn MetadataStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            faults: Mutex::default(),
            calls: watch::Sender::default(),
        })
    }

    /// Creates a store in memory, without faults at first.
    pub(crate) async fn new_in_memory() -> Arc<Self> {
        let options = ConnectOptions::default();
        Self::new(connect("sqlite::memory:", &options).await.unwrap())
    }

    /// Returns the store without faults, for a test's own reads.
    pub(crate) fn inner(&self) -> &Arc<dyn MetadataStore> {
        &self.inner
    }

    /// Adds a fault, active from the next call. If several match, the first one added applies.
    pub(crate) fn add_fault(&self, fault: MetadataFault) -> MetadataFaultHandle {
        let active = Arc::new(ActiveMetadataFault {
            left: AtomicU64::new(fault.times),
            hits: AtomicU64::new(0),
            released: watch::Sender::new(false),
            waiting: watch::Sender::new(0),
            fault,
        });
        self.faults.lock().push(active.clone());
        MetadataFaultHandle(active)
    }

    /// Blocks every call of these methods before it is made.
    pub(crate) fn hang(&self, methods: impl Into<Vec<MetadataMethod>>) -> MetadataFaultHandle {
        self.add_fault(MetadataFault::new(MetadataFaultKind::Hang, methods))
    }

    /// Loses every call of these methods before it is made.
    pub(crate) fn lose_before(&self, methods: impl Into<Vec<MetadataMethod>>) -> MetadataFaultHandle {
        self.add_fault(MetadataFault::new(MetadataFaultKind::LoseBefore, methods))
    }

    /// Loses the answer of every call of these methods.
    pub(crate) fn lose_after(&self, methods: impl Into<Vec<MetadataMethod>>) -> MetadataFaultHandle {
        self.add_fault(MetadataFault::new(MetadataFaultKind::LoseAfter, methods))
    }

    /// Makes every call of these methods appear lost; they are made when released.
    pub(crate) fn delay(&self, methods: impl Into<Vec<MetadataMethod>>) -> MetadataFaultHandle {
        self.add_fault(MetadataFault::new(MetadataFaultKind::Late, methods))
    }

    /// Fails every call of these methods.
    pub(crate) fn fail_with(
        &self,
        methods: impl Into<Vec<MetadataMethod>>,
        error: fn() -> Error,
    ) -> MetadataFaultHandle {
        self.add_fault(MetadataFault::new(MetadataFaultKind::Fail(error), methods))
    }

    /// Releases every fault.
    pub(crate) fn clear(&self) {
        for fault in self.faults.lock().drain(..) {
            fault.released.send_replace(true);
        }
    }

    /// Returns the number of calls of a method.
    pub(crate) fn calls(&self, method: MetadataMethod) -> u64 {
        self.calls.borrow().get(&method).copied().unwrap_or_default()
    }

    /// Waits until a method was called this many times in total.
    pub(crate) async fn wait_for_calls(&self, method: MetadataMethod, times: u64) {
        let mut calls = self.calls.subscribe();
        let _ = calls
            .wait_for(|calls| calls.get(&method).is_some_and(|called| *called >= times))
            .await;
    }

    async fn call_with_faults<T: Send + 'static>(
        &self,
        method: MetadataMethod,
        arguments: String,
        happen: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.calls
            .send_modify(|calls| *calls.entry(method).or_default() += 1);
        let happen = run_with_clock_held(happen);
        let hit = |fault: &&Arc<ActiveMetadataFault>| fault.take_hit(method, &arguments);
        let fault = self.faults.lock().iter().find(hit).cloned();
        let Some(fault) = fault else {
            return happen.await;
        };
        match fault.fault.kind {
            MetadataFaultKind::Hang => {
                BlockedCallGuard::new(&fault).wait_released().await;
                happen.await
            }
            MetadataFaultKind::HangAfter => {
                let outcome = happen.await;
                BlockedCallGuard::new(&fault).wait_released().await;
                outcome
            }
            MetadataFaultKind::HangLate => run_when_released(&fault, happen).await.unwrap(),
            MetadataFaultKind::Late => {
                drop(run_when_released(&fault, happen));
                Err(unavailable())
            }
            MetadataFaultKind::LoseBefore => Err(unavailable()),
            MetadataFaultKind::LoseAfter => {
                let _lost = happen.await;
                Err(unavailable())
            }
            MetadataFaultKind::Fail(error) => Err(error()),
        }
    }
}

fn unavailable() -> Error {
    Error::Unavailable("injected by a test".to_owned())
}

/// Makes a call when the fault is released, even if its caller has given up.
fn run_when_released<T: Send + 'static>(
    fault: &Arc<ActiveMetadataFault>,
    happen: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    let standing = BlockedCallGuard::new(fault);
    tokio::spawn(async move {
        standing.wait_released().await;
        happen.await
    })
}

/// Keeps tokio's paused clock from advancing while SQLite's own thread works, which tokio does not
/// see.
async fn run_with_clock_held<T>(happen: impl Future<Output = T>) -> T {
    let (done, working) = std::sync::mpsc::channel::<()>();
    drop(tokio::task::spawn_blocking(move || working.recv()));
    let outcome = happen.await;
    drop(done);
    outcome
}

/// Passes an owned argument in the form that the method takes.
trait ArgumentLender<'a, Taken> {
    fn lend(&'a self) -> Taken;
}

impl<'a, T> ArgumentLender<'a, &'a T> for T {
    fn lend(&'a self) -> &'a T {
        self
    }
}

impl<T: Clone> ArgumentLender<'_, T> for T {
    fn lend(&self) -> T {
        self.clone()
    }
}

impl<'a, T> ArgumentLender<'a, &'a [T]> for Vec<T> {
    fn lend(&'a self) -> &'a [T] {
        self
    }
}

impl<'a> ArgumentLender<'a, &'a str> for String {
    fn lend(&'a self) -> &'a str {
        self
    }
}

/// Declares [`MetadataMethod`] and the store from the trait's methods.
macro_rules! declare_methods {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {
        /// A method of the trait, by its own name.
        #[allow(non_camel_case_types)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum MetadataMethod { $($name,)* }

        impl MetadataMethod {
            /// Every method.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name,)*];
        }

        #[async_trait]
        impl MetadataStore for FaultyMetadataStore {
            $(async fn $name(&self, $($argument: $kind),*) -> Result<$answer> {
                let arguments = format!("{:?}", ($(&$argument,)*));
                let inner = self.inner.clone();
                $(let $argument = $argument.to_owned();)*
                let happen = async move { inner.$name($($argument.lend()),*).await };
                self.call_with_faults(MetadataMethod::$name, arguments, happen).await
            })*

            /// Does nothing: other agents share the store, and a draining agent closes only its
            /// own.
            async fn close(&self) -> Result<()> {
                Ok(())
            }
        }
    };
}

for_each_metadata_method!(declare_methods, except[close]);

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the part of a new producer id that counts, without the time.
    async fn producer_id(store: &dyn MetadataStore) -> Result<i64> {
        let id = store.allocate_producer_id().await?;
        Ok(id % (1 << 28))
    }

    #[tokio::test]
    async fn a_lost_call_happens_not_at_all_or_without_an_answer() {
        let store = FaultyMetadataStore::new_in_memory().await;
        let first = producer_id(&*store).await.unwrap();
        let before = store.lose_before([MetadataMethod::allocate_producer_id]);
        assert!(matches!(producer_id(&*store).await, Err(Error::Unavailable(_))));
        before.release();
        assert_eq!(producer_id(&*store).await.unwrap(), first + 1);
        let lost = MetadataFault::new(
            MetadataFaultKind::LoseAfter,
            [MetadataMethod::allocate_producer_id],
        )
        .with_limit(1);
        let lost = store.add_fault(lost);
        assert!(matches!(producer_id(&*store).await, Err(Error::Unavailable(_))));
        assert_eq!(producer_id(&*store).await.unwrap(), first + 3);
        assert_eq!(
            (
                lost.hit_count(),
                store.calls(MetadataMethod::allocate_producer_id)
            ),
            (1, 5)
        );
        store.fail_with(MetadataMethod::ALL, || Error::Sealed(Incarnation(7)));
        assert!(matches!(store.ping().await, Err(Error::Sealed(Incarnation(7)))));
        store.clear();
        store.ping().await.unwrap();
        assert_eq!(producer_id(&**store.inner()).await.unwrap(), first + 4);
    }

    #[tokio::test]
    async fn a_call_that_hangs_goes_on_when_it_is_released_and_is_gone_with_its_caller() {
        let store = FaultyMetadataStore::new_in_memory().await;
        let first = producer_id(&*store).await.unwrap();
        let hang = store.hang([MetadataMethod::allocate_producer_id]);
        let call = |store: &Arc<FaultyMetadataStore>| {
            let store = store.clone();
            tokio::spawn(async move { producer_id(&*store).await })
        };
        let (patient, hasty) = (call(&store), call(&store));
        hang.wait_for_blocked_calls(2).await;
        hasty.abort();
        assert!(hasty.await.unwrap_err().is_cancelled());
        hang.release();
        assert_eq!(patient.await.unwrap().unwrap(), first + 1);
        store
            .wait_for_calls(MetadataMethod::allocate_producer_id, 3)
            .await;

        let answer = store.add_fault(MetadataFault::new(
            MetadataFaultKind::HangAfter,
            MetadataMethod::ALL,
        ));
        let call = call(&store);
        answer.wait_for_blocked_calls(1).await;
        assert_eq!(producer_id(&**store.inner()).await.unwrap(), first + 3);
        answer.release();
        assert_eq!(call.await.unwrap().unwrap(), first + 2);
    }

    #[tokio::test]
    async fn a_late_call_happens_after_its_caller_gave_up() {
        let store = FaultyMetadataStore::new_in_memory().await;
        let topic = |name: &str| NewTopic {
            name: name.to_owned(),
            partitions: 1,
            config: Default::default(),
        };
        let late = store.delay([MetadataMethod::create_topic]);
        assert!(matches!(
            store.create_topic(&topic("a")).await,
            Err(Error::Unavailable(_))
        ));
        late.wait_for_blocked_calls(1).await;
        late.release();
        late.wait_settled().await;
        let silent = MetadataFault::new(MetadataFaultKind::HangLate, [MetadataMethod::create_topic])
            .with_argument("\"b\"");
        let silent = store.add_fault(silent);
        let caller = store.clone();
        let caller = tokio::spawn(async move { caller.create_topic(&topic("b")).await });
        silent.wait_for_blocked_calls(1).await;
        caller.abort();
        store.create_topic(&topic("c")).await.unwrap();
        let names = async || {
            let topics = store.snapshot(None).await.unwrap().unwrap().topics;
            let mut names: Vec<String> = topics.into_iter().map(|topic| topic.name).collect();
            names.retain(|name| !name.starts_with("__"));
            names.sort();
            names
        };
        assert_eq!(names().await, ["a", "c"]);
        store.clear();
        silent.wait_settled().await;
        assert_eq!(names().await, ["a", "b", "c"]);
    }
}
