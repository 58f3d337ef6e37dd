//! Starts the stack's servers, each unless it runs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use streamhouse_testkit::{MinIoSetup, PostgresLogin, PostgresSetup, ProcessBuilder};

use super::folder::{StackFolder, write};
use super::ports::{PortName, StackPorts};
use super::server::{ServerName, answers};

/// PostgreSQL's superuser, which is also its password.
const ADMIN: &str = "postgres";
const ROLE: &str = "streamhouse";
const PASSWORD: &str = "streamhouse_dev";
const DATABASE: &str = "streamhouse_metadata";
const BUCKET: &str = "streamhouse-data";

/// Starts PostgreSQL, and creates the role and the database.
pub(super) fn start_postgres(folder: &StackFolder, ports: &StackPorts) -> anyhow::Result<()> {
    let setup = PostgresSetup::find(folder.postgres()?)?;
    setup.create_data(ADMIN, ADMIN, &[])?;
    let port = ports.number(PortName::Postgres);
    let admin = PostgresLogin {
        port,
        user: ADMIN,
        password: ADMIN,
        database: "postgres",
    };
    let run_sql = |sql: &str| admin.run_sql(&setup, sql);
    let data = setup.data_folder().display().to_string();
    folder
        .server(ServerName::Postgres)
        .start(ports, setup.server(port, &[]), || {
            // Another server could have taken the port meanwhile.
            run_sql("SHOW data_directory").is_ok_and(|served| served == data)
        })?;
    if run_sql(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"))?.is_empty() {
        run_sql(&format!("CREATE ROLE {ROLE} LOGIN"))?;
    }
    // Also if an older stack set another one.
    run_sql(&format!("ALTER ROLE {ROLE} PASSWORD '{PASSWORD}'"))?;
    if run_sql(&format!("SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"))?.is_empty() {
        run_sql(&format!("CREATE DATABASE {DATABASE} OWNER {ROLE}"))?;
    }
    let role = PostgresLogin {
        port,
        user: ROLE,
        password: PASSWORD,
        database: DATABASE,
    };
    role.run_sql(&setup, "SELECT 1").map(drop)
}

/// Starts MinIO, and creates the bucket.
pub(super) fn start_minio(folder: &StackFolder, ports: &StackPorts) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder.minio())?;
    let address = |name| SocketAddr::from((Ipv4Addr::LOCALHOST, ports.number(name)));
    let setup = MinIoSetup {
        address: address(PortName::MinIo),
        console: Some(address(PortName::MinIoConsole)),
        drive: folder.minio(),
    };
    folder
        .server(ServerName::MinIo)
        .start(ports, setup.server()?, || setup.is_ready())?;
    if !setup.has_bucket(BUCKET)? {
        setup.create_bucket(BUCKET)?;
    }
    Ok(())
}

/// Starts node exporter, Alertmanager and Prometheus with the repository's configuration and the
/// chosen ports. Servers that run already read it again.
pub(super) fn start_observability(
    root: &Path,
    folder: &StackFolder,
    ports: &StackPorts,
) -> anyhow::Result<()> {
    configure_observability(root, folder, ports)?;
    let listen = |name| format!("--web.listen-address=127.0.0.1:{}", ports.number(name));

    let node_exporter = ProcessBuilder::new("prometheus-node-exporter").arg(listen(PortName::NodeExporter));
    folder
        .server(ServerName::NodeExporter)
        .start(ports, node_exporter, || {
            answers(ports.number(PortName::NodeExporter), "/")
        })?;

    let server = folder.server(ServerName::Alertmanager);
    server.reload()?;
    let alertmanager = ProcessBuilder::new("prometheus-alertmanager")
        .arg(listen(PortName::Alertmanager))
        // An empty cluster address disables gossip, which would listen on all interfaces.
        .arg("--cluster.listen-address=")
        .arg(option(
            "config.file",
            &folder.alertmanager().join("alertmanager.yml"),
        ))
        .arg(option("storage.path", &folder.alertmanager().join("data")));
    server.start(ports, alertmanager, || {
        answers(ports.number(PortName::Alertmanager), "/-/ready")
    })?;

    let server = folder.server(ServerName::Prometheus);
    server.reload()?;
    let prometheus = ProcessBuilder::new("prometheus")
        .arg(listen(PortName::Prometheus))
        .arg(option("config.file", &folder.prometheus().join("prometheus.yml")))
        .arg(option("storage.tsdb.path", &folder.prometheus().join("data")));
    server.start(ports, prometheus, || {
        answers(ports.number(PortName::Prometheus), "/-/ready")
    })
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn configure_observability(root: &Path, folder: &StackFolder, ports: &StackPorts) -> anyhow::Result<()> {
    let (prometheus, alertmanager) = (folder.prometheus(), folder.alertmanager());
    for new in [
        prometheus.join("targets"),
        prometheus.join("demo"),
        alertmanager.clone(),
    ] {
        std::fs::create_dir_all(&new).with_context(|| format!("cannot make {}", new.display()))?;
    }
    for name in ["producers", "consumers"] {
        // A developer may have named targets in it.
        let targets = prometheus.join("targets").join(format!("{name}.yml"));
        if !targets.exists() {
            write(&targets, "[]\n")?;
        }
    }
    let read = |name: &str| {
        let path = root.join("config/prometheus").join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let configuration = prometheus.join("prometheus.yml");
    write(&configuration, &ports.rewrite(&read("prometheus.yml")?)?)?;
    write(
        &alertmanager.join("alertmanager.yml"),
        &ports.rewrite(&read("alertmanager.yml")?)?,
    )?;
    write(
        &prometheus.join("streamhouse.rules.yml"),
        &read("streamhouse.rules.yml")?,
    )?;
    let checked = Command::new("promtool")
        .args(["check", "config"])
        .arg(&configuration)
        .stdin(Stdio::null())
        .output()
        .context("promtool is missing")?;
    ensure!(
        checked.status.success(),
        "Prometheus cannot read {}: {}{}",
        configuration.display(),
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
    Ok(())
}
