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
    armed: Mutex<HashMap<FailPoint, Armed>>,
}

#[derive(Debug, Clone)]
struct Armed {
    open: watch::Receiver<bool>,
    arrivals: watch::Sender<u32>,
}

/// Holds whoever reaches the place, until dropped.
#[derive(Debug)]
pub struct Hold {
    open: watch::Sender<bool>,
    arrivals: watch::Receiver<u32>,
}

impl Hold {
    /// Resolves when somebody waits here, or has waited.
    pub async fn reached(&mut self) {
        // The sender lives as long as the fail points do.
        let _ = self.arrivals.wait_for(|arrivals| *arrivals > 0).await;
    }
}

impl FailPoints {
    /// Everybody who reaches this place waits until the returned hold is dropped.
    pub fn hold(&self, point: FailPoint) -> Hold {
        let (open, closed) = watch::channel(false);
        let (arrivals, arrived) = watch::channel(0);
        let armed = Armed {
            open: closed,
            arrivals,
        };
        self.armed.lock().insert(point, armed);
        self.any.store(true, Ordering::Release);
        Hold {
            open,
            arrivals: arrived,
        }
    }

    /// Waits when the place is held.
    pub async fn reach(&self, point: FailPoint) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let held = self.armed.lock().get(&point).cloned();
        if let Some(mut held) = held {
            held.arrivals.send_modify(|arrivals| *arrivals += 1);
            let _ = held.open.wait_for(|open| *open).await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.open.send_replace(true);
    }
}
