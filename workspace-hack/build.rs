//! Does nothing: cargo looks at a crate's build-dependencies only where there is a build script.

fn main() {}
