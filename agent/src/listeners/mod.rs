//! The listeners for clients and the addresses that each of them answers with.
//!
//! The built-in listener `grpc` answers with the addresses that agents advertise. Further ones are
//! for clients that reach the agents by other addresses: those of the listeners file, and the
//! built-in one for port-forwards, which answers with the address that the client itself used.
//! Calls that came by one of these may be forwarded to the agent that leads. Kafka listeners of the
//! file answer with its addresses too, and forward nothing.
//!
//! [`file`] reads the listeners file, [`reload`] follows its changes, [`origin`] carries a call's
//! listener from [`server`](crate::server) to its handler.

mod address;
mod file;
mod origin;
mod reload;

pub use self::{
    address::parse_client_address,
    file::{ListenerAddresses, ListenerDefinition, ListenerProtocol, ListenersFileError},
    origin::{AddressAnswers, CallOrigin, ClientListener, FORWARDED_HEADER},
    reload::{ListenerAddressBook, ListenersFileReader, RELOAD_INTERVAL},
};
