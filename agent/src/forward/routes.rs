//! Where the batches of each partition that are in flight on one client's stream went. While there
//! are any, later ones of the partition go nowhere else: they could overtake.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use streamhouse_core::{Incarnation, PartitionUid};

/// The agent that a batch goes to; `None` for this one.
pub(super) type BatchRoute = Option<Incarnation>;

/// The routes of one client's stream.
#[derive(Debug, Default, Clone)]
pub(super) struct RouteTable {
    /// Route and number of the batches in flight.
    routes: Arc<Mutex<HashMap<PartitionUid, (BatchRoute, usize)>>>,
}

impl RouteTable {
    /// Marks a batch as in flight; `None` if others are in flight elsewhere.
    pub(super) fn claim(&self, partition: PartitionUid, route: BatchRoute) -> Option<RouteGuard> {
        let mut routes = self.routes.lock();
        let (current, batches) = routes.entry(partition).or_insert((route, 0));
        if *current != route {
            return None;
        }
        *batches += 1;
        Some(RouteGuard {
            table: self.clone(),
            partition,
        })
    }
}

/// One batch in flight, until dropped.
#[derive(Debug)]
pub(super) struct RouteGuard {
    table: RouteTable,
    partition: PartitionUid,
}

impl Drop for RouteGuard {
    fn drop(&mut self) {
        let mut routes = self.table.routes.lock();
        if let Some((_, batches)) = routes.get_mut(&self.partition) {
            *batches -= 1;
            if *batches == 0 {
                routes.remove(&self.partition);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_of_a_partition_go_elsewhere_only_when_none_is_in_flight() {
        let table = RouteTable::default();
        let (partition, there) = (PartitionUid(7), Some(Incarnation(2)));
        let first = table.claim(partition, there).unwrap();
        let second = table.claim(partition, there).unwrap();
        assert!(table.claim(partition, None).is_none());
        assert!(table.claim(PartitionUid(8), None).is_some(), "another partition");
        drop(first);
        assert!(table.claim(partition, None).is_none());
        drop(second);
        assert!(table.claim(partition, None).is_some());
        assert!(table.routes.lock().is_empty());
    }
}
