//! The cluster outcome table, row by row, against a real kube-apiserver with its controllers and a real PostgreSQL. No kubelet runs here:
//! where pods must become ready or fail, the test writes their status as a kubelet would. What needs running agents is tested on a real
//! node by `hack/cluster-test.sh`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of this is tests, the helpers too

mod changes;
mod deletion;
mod health;
mod monitoring;
mod world;
