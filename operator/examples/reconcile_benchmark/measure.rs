//! The operator as a process, and the counters of the API server and of PostgreSQL.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use streamhouse_testkit::{
    ChildProcess, KubeApi, Postgres, ProcessBuilder, ReservedPort, built_binary, http_get,
};

use crate::world::BenchmarkEnvironment;

/// How long the operator may take for all resources.
const CONVERGENCE_LIMIT: Duration = Duration::from_secs(1200);

/// Counters of the servers, without the benchmark's own requests.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestCounters {
    /// Requests to the API server for resources, without watches and Leases.
    pub(crate) requests: f64,
    /// Those that write.
    pub(crate) writes: f64,
    /// Transactions in the databases of the clusters.
    pub(crate) transactions: f64,
    /// Time over which they were counted.
    pub(crate) minutes: f64,
}

impl RequestCounters {
    /// Reads the counters.
    pub(crate) fn read(api: &KubeApi, servers: &[Postgres]) -> Result<Self> {
        let mut counters = Self::default();
        let metrics = api.metrics()?;
        let requests = metrics.lines().filter(|line| {
            line.starts_with("apiserver_request_total{")
                && !line.contains(",resource=\"\"")
                && !line.contains(",resource=\"leases\"")
                && !line.contains("verb=\"WATCH\"")
        });
        for line in requests {
            let number: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            counters.requests += number;
            if !line.contains("verb=\"GET\"") && !line.contains("verb=\"LIST\"") {
                counters.writes += number;
            }
        }
        let sum =
            "SELECT sum(xact_commit + xact_rollback) FROM pg_stat_database WHERE datname LIKE 'cluster_%'";
        for postgres in servers {
            counters.transactions += postgres.admin_sql("postgres", sum)?.trim().parse::<f64>()?;
        }
        Ok(counters)
    }

    /// Returns the difference to earlier counters.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            writes: self.writes - before.writes,
            transactions: self.transactions - before.transactions,
            minutes: self.minutes,
        }
    }
}

/// A running operator.
pub(crate) struct OperatorUnderTest {
    process: ChildProcess,
    port: ReservedPort,
}

impl OperatorUnderTest {
    /// Starts the operator with its default settings.
    pub(crate) fn start(world: &BenchmarkEnvironment) -> Result<Self> {
        let port = ReservedPort::reserve()?;
        let process = ProcessBuilder::new(built_binary("streamhouse-operator")?)
            .name("operator")
            .clean_env()
            .env("KUBECONFIG", world.kubeconfig())
            .args(["run", "--pod-name", "operator", "--lease-namespace", "default"])
            .args(["--http-listen", &port.address().to_string()])
            .args(["--log-level", "warn"])
            .start()?;
        Ok(Self { process, port })
    }

    fn metric(&self, name: &str) -> f64 {
        let page = http_get(self.port.address(), "/metrics").map(|page| page.body);
        let page = page.unwrap_or_default();
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(0.0)
    }

    /// Waits until every resource is ready.
    pub(crate) async fn wait_until_ready(&mut self, clusters: usize, topics: usize) -> Result<()> {
        let ready = |kind: &str| format!("streamhouse_operator_resources{{kind=\"{kind}\",ready=\"true\"}}");
        let began = tokio::time::Instant::now();
        loop {
            ensure!(
                self.process.is_running(),
                "the operator has ended: {}",
                self.process.log_tail()
            );
            let found = (
                self.metric(&ready("StreamHouseCluster")),
                self.metric(&ready("Topic")),
            );
            if found == (clusters as f64, topics as f64) {
                return Ok(());
            }
            let limit = began.elapsed() < CONVERGENCE_LIMIT;
            ensure!(
                limit,
                "{found:?} resources are ready: {}",
                self.process.log_tail()
            );
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Returns the resident memory now and at most, in KiB.
    pub(crate) fn memory(&self) -> Result<(u64, u64)> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = fs::read_to_string(Path::new(&path))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number
                .and_then(|number| number.parse().ok())
                .with_context(|| format!("{path} has no {name}"))
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Stops the operator.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.terminate()?;
        self.process.wait(Duration::from_secs(60)).map(drop)
    }
}
