//! Everything of `StreamHouseCluster`: from the resource to the objects that it stands for.
//!
//! A straight pipe, one file a step: [`validate`] makes the resource a [`desired::Desired`], [`build`] makes that the objects
//! ([`children`] lists their kinds), with what only the API server knows ([`inputs`]).

pub mod alerts;
pub mod build;
pub mod children;
pub mod desired;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod inputs;
mod names;
pub mod problem;
pub mod validate;
