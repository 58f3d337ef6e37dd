//! The table of cluster outcomes, row by row, against a real kube-apiserver with its controllers
//! and a real PostgreSQL. No kubelet runs here: the tests write the status of pods as a kubelet
//! would. Behavior that requires running agents is tested on a real node by `hack/kind-test.sh`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // test code, including helpers

mod changes;
mod deletion;
mod environment;
mod health;
mod holds;
mod kafka;
mod listeners;
mod monitoring;
mod propagation;
mod schema;
