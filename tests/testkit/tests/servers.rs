//! Tests of the testkit's servers: they are real, restart with their data, and end with the test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use streamhouse_testkit::{MinIo, Postgres, ProcessBuilder, wait_until};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn postgres_keeps_its_data_and_port_over_a_crash() {
    let server = Postgres::start().unwrap();
    let port = server.port();
    let url = server.create_database("first").unwrap();
    assert_eq!(
        url,
        format!("postgres://streamhouse:streamhouse@127.0.0.1:{port}/first")
    );
    assert_eq!(server.admin_sql("first", "SHOW fsync").unwrap(), "on");
    let owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'first'";
    assert_eq!(server.admin_sql("postgres", owner).unwrap(), "streamhouse");
    server
        .admin_sql("first", "CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        .unwrap();

    server.stop().unwrap();
    server.admin_sql("first", "SELECT 1").unwrap_err();
    server.start_again().unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(server.admin_sql("first", "SELECT n FROM kept").unwrap(), "42");
    server.restart().unwrap();
    assert_eq!(server.admin_sql("first", "SELECT n FROM kept").unwrap(), "42");
}

#[test]
fn the_role_streamhouse_connects_with_its_password() {
    let server = Postgres::shared().unwrap();
    let url = server.create_database("of the role").unwrap().replace(' ', "%20");
    let sql = "CREATE TABLE t (n int); SELECT current_user";
    let output = Command::new("psql")
        .args(["-X", "-A", "-t", "-d", &url, "-c", sql])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("streamhouse"));
}

#[test]
fn minio_serves_buckets_comes_back_and_can_be_paused() {
    let server = MinIo::start().unwrap();
    server.create_bucket("one").unwrap();
    put(&server, "one/a/b.dat", "the bytes").unwrap();
    assert_eq!(server.objects("one").unwrap(), ["a/b.dat"]);
    assert!(server.metrics().unwrap().contains("minio_s3_requests_total"));
    server.create_bucket("one").unwrap_err();

    server.restart().unwrap();
    assert_eq!(get(&server, "one/a/b.dat", 30).unwrap(), "the bytes");

    server.pause().unwrap();
    get(&server, "one/a/b.dat", 1).unwrap_err();
    server.resume().unwrap();
    assert_eq!(get(&server, "one/a/b.dat", 30).unwrap(), "the bytes");

    server.stop().unwrap();
    get(&server, "one/a/b.dat", 1).unwrap_err();
    server.start_again().unwrap();
    assert_eq!(get(&server, "one/a/b.dat", 30).unwrap(), "the bytes");
}

#[test]
fn a_dropped_process_has_ended_with_its_children() {
    let process = ProcessBuilder::new("sh")
        .args(["-c", "sleep 1000 & echo $!; wait"])
        .start()
        .unwrap();
    let id = process.id();
    let grandchild = wait_until("the first line", LIMIT, || {
        Ok(process.stdout().trim().parse::<u32>().ok())
    })
    .unwrap();
    assert!(is_alive(id) && is_alive(grandchild));
    drop(process);
    wait_until("the end of both", LIMIT, || {
        Ok((!is_alive(id) && !is_alive(grandchild)).then_some(()))
    })
    .unwrap();
}

#[test]
fn input_output_status_and_signals_reach_the_program() {
    let mut process = ProcessBuilder::new("sh")
        .args(["-c", "cat; echo no >&2; exit 3"])
        .input("a\nb\n")
        .start()
        .unwrap();
    assert_eq!(process.wait(LIMIT).unwrap().code(), Some(3));
    assert_eq!(
        (process.stdout().as_str(), process.stderr().as_str()),
        ("a\nb\n", "no\n")
    );

    let script = "trap 'echo drained; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let mut process = ProcessBuilder::new("sh").args(["-c", script]).start().unwrap();
    wait_until("its start", LIMIT, || {
        Ok(process.stdout().contains("up").then_some(()))
    })
    .unwrap();
    process.terminate().unwrap();
    assert_eq!(
        process.wait(LIMIT).unwrap().code(),
        Some(0),
        "{}",
        process.log_tail()
    );
    assert!(process.stdout().contains("drained"));
}

#[test]
fn a_missing_program_says_how_to_get_it() {
    let error = streamhouse_testkit::built_binary("no-such-binary")
        .unwrap_err()
        .to_string();
    assert!(error.contains("run hack/test.sh"), "{error}");
}

#[test]
fn the_servers_end_with_a_test_that_is_killed() {
    let program = streamhouse_testkit::built_binary("examples/victim").unwrap();
    let mut victim = Command::new(program).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let lines: Vec<String> = lines.take(3).map(Result::unwrap).collect();
    let ports: Vec<u16> = lines[..2].iter().map(|port| port.parse().unwrap()).collect();
    let folder = &lines[2];
    assert!(ports.iter().all(|port| is_listening(*port)) && Path::new(folder).is_dir());

    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until("the end of the servers", LIMIT, || {
        Ok(ports.iter().all(|port| !is_listening(*port)).then_some(()))
    })
    .unwrap();
    wait_until("the folder's removal", LIMIT, || {
        Ok((!Path::new(folder).exists()).then_some(()))
    })
    .unwrap();
}

fn is_listening(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn is_alive(id: u32) -> bool {
    // A zombie has ended and only waits to be reaped.
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn curl(server: &MinIo, path: &str, seconds: u32, args: &[&str]) -> Result<String, String> {
    let output = Command::new("curl")
        .args([
            "-sS",
            "--fail",
            "--max-time",
            &seconds.to_string(),
            "--aws-sigv4",
            "aws:amz:us-east-1:s3",
        ])
        .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .args(["-u", &format!("{}:{}", server.access_key(), server.secret_key())])
        .args(args)
        .arg(format!("{}/{path}", server.endpoint()))
        .output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(text(&output.stderr))
    }
}

fn get(server: &MinIo, path: &str, seconds: u32) -> Result<String, String> {
    curl(server, path, seconds, &[])
}

fn put(server: &MinIo, path: &str, body: &str) -> Result<String, String> {
    curl(server, path, 30, &["-X", "PUT", "--data-binary", body])
}
