//! Scenarios of the member.
