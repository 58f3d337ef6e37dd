//! Empty: what this crate is for stands in its manifest, which `cargo xtask features --update`
//! writes.
