//! The additional listeners of a cluster: gives each agent a slot, finds the addresses by which
//! clients reach the agents, and reports what is missing. A step of the reconciliation between
//! `dereference` and `build`; independent of the metadata store, since agents need addresses
//! while it is down too.
//!
//! Agents are pods of a Deployment, whose names say nothing about their place. So the operator
//! numbers them: it writes the lowest free slot on each pod as a label, and each slot has a Service
//! that selects that label. A Service, its node port and its load balancer thereby outlive pods.

mod addresses;
mod observe;
mod report;
mod slots;

pub(super) use self::{
    addresses::{agent_addresses, balancer_hosts, shared_address, verified_node_hosts},
    observe::{SlotPools, announce_addresses, observe, renew_slots},
    report::{ListenersReport, report, separate, set_listeners_available},
};
