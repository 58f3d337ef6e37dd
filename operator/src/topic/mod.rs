//! Topics: reconciles custom resources with rows of the metadata store. The leader calls [`run`];
//! `diff` calls [`plan_topic`].
//!
//! In reading order: [`controller`] watches and decides when; `schedule` is its timetable; [`pass`]
//! reconciles the Topics of one cluster; `reconciler` is the part of a pass for each Topic:
//! [`validate`] and [`plan`] (without side effects), `apply`, [`finalize`] on deletion, `verdict`,
//! `status`, `pending_events`. `claims` releases the claims of Topics that no longer exist.
//!
//! Guarantees: a topic is changed only after its Topic has claimed the name in the metadata store,
//! where one row decides between two claims; planning again after applying gives no changes; every
//! step may be repeated after a crash; a Topic that fails does not delay others.

mod apply;
mod backoff;
mod claims;
mod controller;
mod error;
mod finalize;
#[cfg(test)]
mod fixtures;
mod metered_store;
pub mod pass;
mod pending_events;
pub mod plan;
mod reconciler;
pub mod refresh;
mod report_schedule;
mod schedule;
mod status;
pub mod validate;
mod verdict;
mod watches;

pub use controller::run;
pub use plan::plan_topic;
