//! Topics: custom resources become rows of the metadata store, and stay so. Whoever leads calls [`run`]; `diff` calls [`plan_of`].
//!
//! In reading order: [`controller`] watches and decides when; `schedule` its timetable; [`pass`] one look at one cluster's topics;
//! `one` what a pass does for each Topic: [`validate`] and [`plan`] (pure), `apply`, [`finalize`] when it goes, `status`, `news`.
//!
//! What holds: a topic is changed only after its Topic has claimed the name in the metadata store, where one row decides between two;
//! planning again after applying gives nothing; every step may be repeated after a crash; a Topic that fails hinders no other.

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
