//! Bounds the connections that a port has with one address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

/// The connections of a port by the address of their client.
#[derive(Debug, Clone)]
pub(super) struct AddressLimit {
    /// Maximum number of connections of one address; 0 for any number.
    limit: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl AddressLimit {
    /// Allows this many connections of one address, or any number if it is 0.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            open: Arc::default(),
        }
    }

    /// Counts a connection until the result is dropped; `None` if the address has too many.
    pub(super) fn count(&self, address: IpAddr) -> Option<AddressSlot> {
        // An IPv4 client of a listener on `[::]` has a mapped address.
        let address = address.to_canonical();
        if self.limit > 0 {
            let mut open = self.open.lock();
            let count = open.entry(address).or_default();
            if *count >= self.limit {
                return None;
            }
            *count += 1;
        }
        Some(AddressSlot {
            address,
            limit: self.clone(),
        })
    }
}

/// One connection of an address.
#[derive(Debug)]
pub(super) struct AddressSlot {
    address: IpAddr,
    limit: AddressLimit,
}

impl Drop for AddressSlot {
    fn drop(&mut self) {
        let mut open = self.limit.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_connections_as_are_allowed() {
        let limit = AddressLimit::new(2);
        let [one, other] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let first = limit.count(one).unwrap();
        let _second = limit.count(mapped).unwrap();
        assert!(limit.count(one).is_none() && limit.count(mapped).is_none());
        let third = limit.count(other).unwrap();
        drop(first);
        let _again = limit.count(one).unwrap();
        assert!(limit.count(one).is_none());
        drop(third);
        assert_eq!(limit.open.lock().len(), 1, "nothing is kept of who has gone");
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let limit = AddressLimit::new(0);
        let slots: Vec<_> = (0..100).map(|_| limit.count([10, 0, 0, 1].into())).collect();
        assert!(slots.iter().all(Option::is_some));
        assert!(limit.open.lock().is_empty());
    }
}
