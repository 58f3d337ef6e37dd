//! Consumer groups with Kafka's semantics. [`state`] is one group as a pure state machine; the
//! [`Coordinator`] owns the groups of the coordinator slots that this agent leads, persists what
//! must survive the agent, and replies; [`GroupsService`] translates gRPC.
//!
//! Guarantees (INV-C1): a committed offset never goes back unless it is reset, and a member of an
//! old generation cannot commit. Both hold in the metadata transaction, which is fenced by the
//! slot's lease and the stored generation, not by the agent.

pub mod cluster;
pub mod coordinator;
pub mod limits;
pub mod service;
pub mod state;

pub use cluster::Cluster;
pub use coordinator::{Coordinator, JoinAnswer, Parts};
pub use limits::GroupLimits;
pub use service::GroupsService;
