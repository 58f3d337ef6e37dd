//! Consumer groups, with Kafka's words and rules. [`state`] is one group as a pure state machine; the [`Coordinator`] keeps
//! the groups of the coordinator slots that this agent leads, stores what must survive it, and answers; [`GroupsService`]
//! translates gRPC.
//!
//! What is promised (INV-C1): a committed offset never goes back by itself, and a member of an old generation cannot
//! commit. Both hold in the metadata transaction, fenced by the slot's lease and the stored generation, not in the agent.

pub mod cluster;
pub mod coordinator;
pub mod limits;
pub mod service;
pub mod state;

pub use cluster::Cluster;
pub use coordinator::{Coordinator, JoinAnswer, Parts};
pub use limits::GroupLimits;
pub use service::GroupsService;
