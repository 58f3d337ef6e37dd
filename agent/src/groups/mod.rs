//! Consumer groups with Kafka's semantics. [`state`] is one group of the classic protocol as a pure
//! state machine, [`consumer`] is one of the consumer protocol (KIP-848). The [`GroupCoordinator`]
//! owns the groups of the coordinator slots that this agent leads, persists what must survive the
//! agent, and replies; [`GroupGrpcService`] translates gRPC.
//!
//! Guarantees (INV-C1): a committed offset never goes back unless it is reset, and a member of an
//! old generation cannot commit. Both hold in the metadata transaction, which is fenced by the
//! slot's lease and the stored generation, not by the agent.

mod any_group;
pub mod consumer;
pub mod coordinator;
pub mod group_directory;
pub mod limits;
pub mod service;
pub mod state;

pub use any_group::GroupType;
pub use coordinator::{CoordinatorDeps, GroupCoordinator, JoinOutcome};
pub use group_directory::GroupDirectory;
pub use limits::GroupLimits;
pub use service::GroupGrpcService;
