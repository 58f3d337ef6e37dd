//! Starts servers, says where they are, and waits to be killed: the victim of the test that checks that they end with it.

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
