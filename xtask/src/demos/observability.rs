//! Metrics and alerts under load on the development stack: what Prometheus sees of an agent, a
//! producer and a consumer; then a lag and an error burst, until the alerts arrive at a webhook,
//! and their resolution.

mod monitoring;
mod rules;

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, ensure};
use streamhouse_testkit::{ChildProcess, create_temp_folder};

use self::monitoring::{MonitoringClient, list_series};
use super::start_agent;
use crate::dev_stack::{DevStack, PortName};
use crate::programs::{prepare_program, wait_while_running};
use crate::repository::CallFolders;
use crate::terminal::{note, say};
use crate::tools::{self, ToolContext, ToolName};

/// Series of the agent that must appear, with what they are.
const AGENT_SERIES: [(&str, &str); 7] = [
    (
        "the agent is ready",
        r#"streamhouse_agent_ready{job="streamhouse-agents"} == 1"#,
    ),
    (
        "partitions it holds",
        r#"streamhouse_agent_active_partitions{job="streamhouse-agents"} > 0"#,
    ),
    (
        "records it takes, a second",
        r#"sum by (job) (rate(streamhouse_agent_produced_records_total{job="streamhouse-agents"}[30s])) > 0"#,
    ),
    (
        "bytes it flushes, a second",
        r#"sum by (job) (rate(streamhouse_agent_flush_bytes_total{job="streamhouse-agents"}[30s])) > 0"#,
    ),
    (
        "requests to MinIO, a second",
        r#"sum by (operation) (rate(streamhouse_agent_object_store_requests_total{job="streamhouse-agents"}[30s])) > 0"#,
    ),
    (
        "gRPC requests by method, a second",
        r#"sum by (method) (rate(streamhouse_agent_grpc_requests_total{job="streamhouse-agents"}[30s])) > 0"#,
    ),
    (
        "P99 of a write, in seconds",
        r#"histogram_quantile(0.99, sum by (le) (rate(streamhouse_agent_write_latency_seconds_bucket{job="streamhouse-agents"}[30s]))) > 0"#,
    ),
];
/// Series of the producer, the consumer and the machine.
const OTHER_SERIES: [(&str, &str); 4] = [
    (
        "P99 from send to acknowledgement, in seconds",
        "histogram_quantile(0.99, sum by (topic, le) (rate(streamhouse_producer_send_duration_seconds_bucket[30s]))) > 0",
    ),
    (
        "records acknowledged to the producer, a second",
        "sum by (topic) (rate(streamhouse_producer_records_sent_total[30s])) > 0",
    ),
    (
        "records read, a second",
        "sum by (group, topic) (rate(streamhouse_consumer_records_consumed_total[30s])) > 0",
    ),
    (
        "this machine's CPUs that work",
        r#"sum by (job) (rate(node_cpu_seconds_total{job="node",mode!="idle"}[30s])) > 0"#,
    ),
];
const JOBS: [&str; 5] = [
    "prometheus",
    "node",
    "streamhouse-agents",
    "streamhouse-producers",
    "streamhouse-consumers",
];
/// Rules that Prometheus has without those of the demonstration, at least.
const ALERT_RULES: usize = 17;

/// Starts the stack if it does not run, an agent, a load and a webhook, all of which end with the
/// demonstration.
///
/// # Errors
///
/// Fails if a step does, or takes longer than a minute.
pub(super) fn run(folders: &CallFolders) -> anyhow::Result<()> {
    let stack = DevStack::start(folders)?;
    tools::install(&ToolContext::open(&folders.root)?, &[ToolName::Python])?;
    say("starting an agent on PostgreSQL and MinIO, and a load of 2,000 records a second, written and read");
    // Dropped last: removes targets and rules once what they are for has ended.
    let files = DemoFiles::new(&stack);
    files.write_rules(folders)?;
    let agent = start_agent(&stack)?;
    let begin = read_clock()?;
    let mut demo = ObservabilityDemo {
        monitoring: MonitoringClient::new(&stack),
        load: start_load(&stack, &files)?,
        webhook: start_webhook(folders, &stack)?,
    };
    demo.expect_targets(&begin)?;
    say("series");
    for (what, expression) in AGENT_SERIES.into_iter().chain(OTHER_SERIES) {
        demo.expect(what, expression)?;
    }
    demo.provoke_alerts()?;
    say("stopping the load, draining the agent");
    demo.finish()?;
    agent.drain()?;
    note(&format!(
        "all as it should be; the stack stays up: Prometheus http://127.0.0.1:{}; hack/dev-down.sh stops it",
        stack.port(PortName::Prometheus)
    ));
    Ok(())
}

/// Targets and rules of the demonstration in Prometheus's folder.
#[derive(Debug)]
struct DemoFiles<'a> {
    stack: &'a DevStack,
    targets: PathBuf,
    rules: PathBuf,
}

impl<'a> DemoFiles<'a> {
    fn new(stack: &'a DevStack) -> DemoFiles<'a> {
        let folder = stack.prometheus_folder();
        DemoFiles {
            stack,
            targets: folder.join("targets"),
            rules: folder.join("demo/alerts.yml"),
        }
    }

    fn targets_of(&self, kind: &str) -> PathBuf {
        self.targets.join(format!("{kind}-demo.yml"))
    }

    fn write_rules(&self, folders: &CallFolders) -> anyhow::Result<()> {
        let path = folders.root.join("config/prometheus/streamhouse.rules.yml");
        let text = std::fs::read_to_string(path).context("cannot read the alert rules")?;
        std::fs::write(&self.rules, rules::shorten(&text)?)?;
        let checked = Command::new("promtool")
            .args(["check", "rules"])
            .arg(&self.rules)
            .output()?;
        ensure!(
            checked.status.success(),
            "the demo's rules are wrong: {}{}",
            String::from_utf8_lossy(&checked.stdout),
            String::from_utf8_lossy(&checked.stderr)
        );
        self.stack.reload_prometheus()
    }
}

impl Drop for DemoFiles<'_> {
    fn drop(&mut self) {
        // A file that stays is written anew by the next demonstration, or deleted with the stack.
        for file in [
            &self.rules,
            &self.targets_of("producers"),
            &self.targets_of("consumers"),
        ] {
            let _ = std::fs::remove_file(file);
        }
        let _ = self.stack.reload_prometheus();
    }
}

/// The load, and the pipe by which it gets its orders.
#[derive(Debug)]
struct ObservedLoad {
    process: ChildProcess,
    orders: File,
}

fn start_load(stack: &DevStack, files: &DemoFiles<'_>) -> anyhow::Result<ObservedLoad> {
    // Removed with this process.
    let pipe = create_temp_folder("streamhouse-load-")?.keep().join("orders");
    let made = Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .context("cannot run mkfifo")?;
    ensure!(made.success(), "cannot make the pipe {}", pipe.display());
    // Open for both: opening it waits for no reader then, and the load's for no writer.
    let orders = File::options().read(true).write(true).open(&pipe)?;
    let mut process = stack
        .program("examples/observed_load")?
        .arg(format!("127.0.0.1:{}", stack.port(PortName::AgentGrpc)))
        .args(["demo-observed", "demo-readers", "2000"])
        .input_file(pipe)
        .start()?;
    let (producer, consumer) = wait_while_running("the start of the load", &mut process, |process| {
        Ok(find_serving(&process.stdout()))
    })?;
    for (kind, address) in [("producers", producer), ("consumers", consumer)] {
        std::fs::write(files.targets_of(kind), format!("- targets: [\"{address}\"]\n"))?;
    }
    let mut load = ObservedLoad { process, orders };
    load.order("send")?;
    Ok(load)
}

impl ObservedLoad {
    fn order(&mut self, order: &str) -> anyhow::Result<()> {
        writeln!(self.orders, "{order}").context("the load takes no orders")
    }
}

/// Finds the addresses in the line `serving producer=ADDRESS consumer=ADDRESS`.
fn find_serving(output: &str) -> Option<(String, String)> {
    let line = output
        .lines()
        .find_map(|line| line.strip_prefix("serving producer="))?;
    let (producer, consumer) = line.split_once(" consumer=")?;
    Some((producer.to_owned(), consumer.to_owned()))
}

fn start_webhook(folders: &CallFolders, stack: &DevStack) -> anyhow::Result<ChildProcess> {
    stack.require_free_port(PortName::Webhook, "the webhook's receiver")?;
    let mut webhook = prepare_program("python3")
        .name("the webhook's receiver")
        .arg(folders.root.join("tests/observability/webhook.py"))
        .arg(stack.port(PortName::Webhook).to_string())
        .start()?;
    wait_while_running("the start of the webhook's receiver", &mut webhook, |webhook| {
        Ok(webhook.stdout().starts_with("listening").then_some(()))
    })?;
    Ok(webhook)
}

/// Returns this time in seconds since 1970, as Prometheus compares it.
fn read_clock() -> anyhow::Result<String> {
    let date = Command::new("date").arg("+%s").output()?;
    Ok(String::from_utf8_lossy(&date.stdout).trim().to_owned())
}

/// The processes of the demonstration and what watches them.
#[derive(Debug)]
struct ObservabilityDemo {
    monitoring: MonitoringClient,
    load: ObservedLoad,
    webhook: ChildProcess,
}

impl ObservabilityDemo {
    /// Waits until the expression has a result while the load runs, and shows it.
    fn expect(&mut self, what: &str, expression: &str) -> anyhow::Result<()> {
        let monitoring = &self.monitoring;
        let waited = format!("the series of {what} ({expression})");
        let series = wait_while_running(&waited, &mut self.load.process, |_| {
            Ok(monitoring.query(expression))
        })?;
        note(what);
        list_series(&series).for_each(|line| println!("        {line}"));
        Ok(())
    }

    fn expect_targets(&mut self, begin: &str) -> anyhow::Result<()> {
        say("targets");
        for job in JOBS {
            // Only samples of this agent, not those that an earlier one left.
            let up = format!("up{{job=\"{job}\"}} == 1 and timestamp(up{{job=\"{job}\"}}) > {begin}");
            self.expect(&format!("{job} is up"), &up)?;
        }
        self.expect(
            "Prometheus knows the Alertmanager",
            "prometheus_notifications_alertmanagers_discovered == 1",
        )?;
        let rules = self.monitoring.count_alert_rules()?;
        ensure!(
            rules > ALERT_RULES,
            "Prometheus has loaded {rules} alert rules only"
        );
        note(&format!("alert rules: {rules}"));
        Ok(())
    }

    fn provoke_alerts(&mut self) -> anyhow::Result<()> {
        say("a lag: the consumer stands still");
        self.load.order("hold")?;
        self.expect(
            "the lag, in records",
            "sum by (group, topic) (streamhouse_consumer_lag_records) > 5000",
        )?;
        self.follow("HighConsumerLag")?;
        say("an error burst: 100 records a second that the agent must refuse");
        self.load.order("fail")?;
        self.follow("HighProducerErrorRate")?;
        self.expect(
            "errors of the agent by code, a second",
            r#"sum by (code) (rate(streamhouse_agent_grpc_errors_total{job="streamhouse-agents"}[30s])) > 0"#,
        )?;
        say("all is put right: the alerts are resolved");
        self.load.order("heal")?;
        self.load.order("read")?;
        self.expect_notification("resolved", "HighConsumerLag")?;
        self.expect_notification("resolved", "HighProducerErrorRate")
    }

    /// Waits until the alert is pending, fires, is at Alertmanager, and has reached the webhook.
    fn follow(&mut self, alert: &str) -> anyhow::Result<()> {
        for state in ["pending", "firing"] {
            let expression = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"{state}\",demo=\"true\"}}");
            self.expect(&format!("{alert} is {state}"), &expression)?;
        }
        let monitoring = &self.monitoring;
        let waited = format!("the arrival of {alert} at Alertmanager");
        wait_while_running(&waited, &mut self.load.process, |_| {
            Ok(monitoring.has_alert(alert).then_some(()))
        })?;
        note("Alertmanager has it");
        self.expect_notification("firing", alert)
    }

    /// Waits until the webhook has received the alert with this status.
    fn expect_notification(&mut self, status: &str, alert: &str) -> anyhow::Result<()> {
        let begin = format!("{status} {alert} ");
        let waited = format!("{status} {alert} at the webhook");
        let line = wait_while_running(&waited, &mut self.webhook, |webhook| {
            let output = webhook.stdout();
            let line = output.lines().rfind(|line| line.starts_with(&begin));
            Ok(line.map(str::to_owned))
        })?;
        note(&format!("the webhook was told: {line}"));
        Ok(())
    }

    /// Ends the load, which must have read all that was acknowledged.
    fn finish(self) -> anyhow::Result<()> {
        let ObservedLoad {
            mut process,
            mut orders,
        } = self.load;
        writeln!(orders, "finish")?;
        let counts = wait_while_running("the end of the load", &mut process, |process| {
            let output = process.stdout();
            Ok(output
                .lines()
                .find(|line| line.starts_with('{'))
                .map(str::to_owned))
        })?;
        note(&format!("the load counted {counts}"));
        // It ends with its standard input.
        drop(orders);
        let status = process.wait(std::time::Duration::from_secs(60))?;
        ensure!(
            status.success(),
            "the load ended with {status}: {}",
            process.log_tail()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_load_are_those_of_its_line() {
        let found = find_serving("begin\nserving producer=127.0.0.1:1 consumer=127.0.0.1:2\n");
        assert_eq!(found, Some(("127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned())));
        assert_eq!(find_serving("serving producer=127.0.0.1:1\n"), None);
    }
}
