//! Owns the named fail points at which a test can stop, delay or fail the agent. None is ever armed
//! in production, where a fail point costs one atomic load.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The fail points, in the order in which a record passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailPoint {
    /// A WAL object is assembled; its upload has not begun.
    BeforeUpload,
    /// The WAL object is stored; its commit has not begun.
    BeforeCommit,
    /// The commit is done; its outcome is not applied yet.
    AfterCommit,
    /// A segment's intent is recorded; its object is not stored.
    BeforeSegmentPut,
    /// A segment's object is stored; the metadata does not reference it.
    BeforeSegmentSwap,
    /// The segment has replaced its WAL ranges; the agent has not applied it.
    AfterSegmentSwap,
    /// The metadata returned objects to delete; they are still stored.
    BeforeDelete,
    /// The objects are deleted; the metadata still lists them.
    AfterDelete,
    /// The orphans of an ended incarnation are listed; they are still stored.
    BeforeSweep,
    /// The orphans of an ended incarnation are deleted; the metadata does not know.
    AfterSweep,
}

impl FailPoint {
    /// All fail points.
    pub const ALL: [Self; 10] = [
        Self::BeforeUpload,
        Self::BeforeCommit,
        Self::AfterCommit,
        Self::BeforeSegmentPut,
        Self::BeforeSegmentSwap,
        Self::AfterSegmentSwap,
        Self::BeforeDelete,
        Self::AfterDelete,
        Self::BeforeSweep,
        Self::AfterSweep,
    ];
}

/// The armed fail points.
#[derive(Debug, Default)]
pub struct FailPointRegistry {
    any: AtomicBool,
    armed: Mutex<HashMap<FailPoint, ArmedFailPoint>>,
}

/// An armed fail point, as seen by the tasks that reach it.
#[derive(Debug, Clone)]
struct ArmedFailPoint {
    open: watch::Receiver<bool>,
    reached: Arc<watch::Sender<bool>>,
}

/// Blocks every task that reaches the fail point, until dropped.
#[derive(Debug)]
pub struct FailPointGuard {
    open: watch::Sender<bool>,
    reached: watch::Receiver<bool>,
}

impl FailPointGuard {
    /// Waits until a task has reached the fail point.
    pub async fn wait_reached(&self) {
        let _ = self.reached.clone().wait_for(|reached| *reached).await;
    }
}

impl FailPointRegistry {
    /// Arms a fail point: every task that reaches it waits until the returned hold is dropped.
    pub fn hold(&self, point: FailPoint) -> FailPointGuard {
        let (open, opened) = watch::channel(false);
        let (reach, reached) = watch::channel(false);
        let armed = ArmedFailPoint {
            open: opened,
            reached: Arc::new(reach),
        };
        self.armed.lock().insert(point, armed);
        self.any.store(true, Ordering::Release);
        FailPointGuard { open, reached }
    }

    /// Waits while the fail point is armed.
    pub async fn reach(&self, point: FailPoint) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let held = self.armed.lock().get(&point).cloned();
        if let Some(mut held) = held {
            if !*held.open.borrow() {
                held.reached.send_replace(true);
            }
            let _ = held.open.wait_for(|open| *open).await;
        }
    }
}

impl Drop for FailPointGuard {
    fn drop(&mut self) {
        self.open.send_replace(true);
    }
}
