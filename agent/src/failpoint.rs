//! Named places where a test may stop, delay or fail the agent. In production nothing is ever armed, and a place costs one
//! atomic load.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::watch;

/// The places, along the way of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailPoint {
    /// A WAL object is assembled, its upload has not begun.
    BeforeUpload,
    /// The WAL object is stored, its commit has not begun.
    BeforeCommit,
    /// The commit happened, nobody knows yet.
    AfterCommit,
    /// A segment's intent is recorded, its object is not stored.
    BeforeSegmentPut,
    /// A segment's object is stored, the metadata does not know it.
    BeforeSegmentSwap,
    /// The segment replaced its WAL ranges, the agent does not know yet.
    AfterSegmentSwap,
    /// The metadata named objects to delete, they are still stored.
    BeforeDelete,
    /// The objects are deleted, the metadata does not know.
    AfterDelete,
    /// The orphans of an ended life are found, they are still stored.
    BeforeSweep,
    /// The orphans of an ended life are deleted, the metadata does not know.
    AfterSweep,
}

impl FailPoint {
    /// Every place.
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

/// The places that are armed.
#[derive(Debug, Default)]
pub struct FailPoints {
    any: AtomicBool,
    armed: Mutex<HashMap<FailPoint, Armed>>,
}

/// One armed place, as those who reach it see it.
#[derive(Debug, Clone)]
struct Armed {
    open: watch::Receiver<bool>,
    reached: Arc<watch::Sender<bool>>,
}

/// Holds whoever reaches the place, until dropped.
#[derive(Debug)]
pub struct Hold {
    open: watch::Sender<bool>,
    reached: watch::Receiver<bool>,
}

impl Hold {
    /// Resolves when somebody has reached the place.
    pub async fn reached(&self) {
        let _ = self.reached.clone().wait_for(|reached| *reached).await;
    }
}

impl FailPoints {
    /// Everybody who reaches this place waits until the returned hold is dropped.
    pub fn hold(&self, point: FailPoint) -> Hold {
        let (open, opened) = watch::channel(false);
        let (reach, reached) = watch::channel(false);
        let armed = Armed {
            open: opened,
            reached: Arc::new(reach),
        };
        self.armed.lock().insert(point, armed);
        self.any.store(true, Ordering::Release);
        Hold { open, reached }
    }

    /// Waits when the place is held.
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

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.send_replace(true);
    }
}
