//! Named places where a test may stop, delay or fail the agent. In production nothing is ever armed, and a place costs one
//! atomic load.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
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
    /// An object is about to be deleted.
    BeforeDelete,
}

/// The places that are armed.
#[derive(Debug, Default)]
pub struct FailPoints {
    any: AtomicBool,
    armed: Mutex<HashMap<FailPoint, watch::Receiver<bool>>>,
}

/// Holds whoever reaches the place, until dropped.
#[derive(Debug)]
pub struct Hold {
    open: watch::Sender<bool>,
}

impl FailPoints {
    /// Everybody who reaches this place waits until the returned hold is dropped.
    pub fn hold(&self, point: FailPoint) -> Hold {
        let (open, receiver) = watch::channel(false);
        self.armed.lock().insert(point, receiver);
        self.any.store(true, Ordering::Release);
        Hold { open }
    }

    /// Waits when the place is held.
    pub async fn reach(&self, point: FailPoint) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let held = self.armed.lock().get(&point).cloned();
        if let Some(mut held) = held {
            let _ = held.wait_for(|open| *open).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.send_replace(true);
    }
}
