//! Topics: reconciles custom resources with rows of the metadata store. The leader calls [`run`];
//! `diff` calls [`plan_of`].
//!
//! In reading order: [`controller`] watches and decides when; `schedule` is its timetable; [`pass`]
//! reconciles the Topics of one cluster; `one` is the part of a pass for each Topic: [`validate`]
//! and [`plan`] (without side effects), `apply`, [`finalize`] on deletion, `status`, `news`.
//!
//! Guarantees: a topic is changed only after its Topic has claimed the name in the metadata store,
//! where one row decides between two claims; planning again after applying gives no changes; every
//! step may be repeated after a crash; a Topic that fails does not delay others.

mod apply;
mod backoff;
mod controller;
mod failure;
mod finalize;
mod news;
mod one;
pub mod pass;
pub mod plan;
mod schedule;
mod status;
mod store;
#[cfg(test)]
mod support;
pub mod validate;

pub use controller::run;
pub use plan::plan_of;
