//! Compiles the protocol with a pure-Rust compiler, so that `protoc` is not needed, and generates
//! the messages of the Kafka protocol.

#[path = "build/kafka/mod.rs"]
mod kafka;

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=kafka");
    println!("cargo:rerun-if-changed=build");
    let descriptors = protox::compile(["streamhouse/v1/streamhouse.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    kafka::generate(Path::new("kafka"), &out.join("kafka.rs"))?;
    fs::write(
        out.join("streamhouse_descriptor.bin"),
        descriptors.encode_to_vec(),
    )?;
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(["streamhouse.v1.ScramVerifier"])
        .compile_fds(descriptors)?;
    Ok(())
}
