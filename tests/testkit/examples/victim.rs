//! Starts servers, prints their ports, and waits to be killed, for the test that verifies that the
//! servers end with their process.

use streamhouse_testkit::{MinIo, Postgres};

fn main() -> anyhow::Result<()> {
    let (postgres, minio) = (Postgres::shared()?, MinIo::start()?);
    println!("{}", postgres.port());
    println!("{}", minio.port());
    println!("{}", postgres.admin_sql("postgres", "SHOW data_directory")?);
    loop {
        std::thread::park();
    }
}
