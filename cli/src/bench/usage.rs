//! Resource usage of a run: CPU and memory of this process, from `/proc`, and of agents, from their
//! `/metrics`, with their object-store requests. The usage is the difference of two snapshots.

use std::{collections::BTreeMap, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Serialize;

use crate::command_error::{CommandError, CommandResult};

/// Clock ticks per second in `/proc/<pid>/stat`: USER_HZ is 100 on every Linux that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;
/// Limit of a metrics response, far larger than any agent's.
const MAX_METRICS_BYTES: usize = 64 << 20;
/// Time-out of reading an agent's metrics.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);

/// Usage of this process since its start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct ClientUsage {
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes: u64,
}

impl ClientUsage {
    /// Reads the usage; zero where there is no `/proc`.
    pub(super) fn now() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu_seconds: cpu_seconds(&read("/proc/self/stat")).unwrap_or(0.0),
            rss_bytes: rss_bytes(&read("/proc/self/status")).unwrap_or(0),
        }
    }

    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cpu_seconds: round_to_hundredths(self.cpu_seconds - before.cpu_seconds),
            rss_bytes: self.rss_bytes,
        }
    }
}

/// Returns user plus system time of a `stat` line. The command name, in parentheses, may hold any
/// character.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn rss_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// Usage of an agent since its start, or between two snapshots.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct AgentUsage {
    pub(super) url: String,
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes: u64,
    /// Number of requests by operation: `put`, `get`, …
    pub(super) object_store_requests: BTreeMap<String, u64>,
    pub(super) flushes: u64,
}

impl AgentUsage {
    fn parse(url: &str, text: &str) -> Self {
        let mut agent = Self {
            url: url.to_owned(),
            ..Self::default()
        };
        for sample in text.lines().filter_map(MetricSample::parse) {
            match sample.name {
                "process_cpu_seconds_total" => agent.cpu_seconds += sample.value,
                "process_resident_memory_bytes" => agent.rss_bytes = sample.value as u64,
                "streamhouse_agent_object_store_requests_total" => {
                    let operation = sample.label("operation").unwrap_or("other").to_owned();
                    *agent.object_store_requests.entry(operation).or_default() += sample.value as u64;
                }
                "streamhouse_agent_flush_total" => agent.flushes += sample.value as u64,
                _ => {}
            }
        }
        agent
    }

    fn since(&self, before: &Self) -> Self {
        let requests = self.object_store_requests.iter().map(|(operation, count)| {
            let earlier = before.object_store_requests.get(operation).copied().unwrap_or(0);
            (operation.clone(), count.saturating_sub(earlier))
        });
        Self {
            url: self.url.clone(),
            cpu_seconds: round_to_hundredths((self.cpu_seconds - before.cpu_seconds).max(0.0)),
            rss_bytes: self.rss_bytes,
            object_store_requests: requests.filter(|(_, count)| *count > 0).collect(),
            flushes: self.flushes.saturating_sub(before.flushes),
        }
    }
}

/// Reads the metrics of the agents given by `--agent-http`.
#[derive(Debug)]
pub(super) struct AgentUsageReader {
    urls: Vec<String>,
    client: Client<HttpConnector, Empty<bytes::Bytes>>,
}

impl AgentUsageReader {
    pub(super) fn new(urls: &[String]) -> Self {
        let urls = urls.iter().map(|url| metrics_url(url)).collect();
        Self {
            urls,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    /// Reads all agents.
    pub(super) async fn snapshot(&self) -> CommandResult<Vec<AgentUsage>> {
        let mut agents = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            let text = tokio::time::timeout(SNAPSHOT_TIMEOUT, self.get(url))
                .await
                .unwrap_or_else(|_| Err(format!("no answer in {SNAPSHOT_TIMEOUT:?}")))
                .map_err(|why| {
                    CommandError::failed(format!("cannot read {url}: {why}; check --agent-http"))
                })?;
            agents.push(AgentUsage::parse(url, &text));
        }
        Ok(agents)
    }

    async fn get(&self, url: &str) -> Result<String, String> {
        let uri = url.parse().map_err(|_| "it is not a URL".to_owned())?;
        let answer = self.client.get(uri).await.map_err(|error| error.to_string())?;
        if !answer.status().is_success() {
            return Err(format!("it answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_METRICS_BYTES)
            .collect()
            .await
            .map_err(|error| error.to_string())?;
        String::from_utf8(body.to_bytes().into()).map_err(|_| "it is not text".to_owned())
    }
}

/// Returns the metrics URL of `host:port`, with or without scheme and path.
fn metrics_url(text: &str) -> String {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let url = url.trim_end_matches('/');
    if url.ends_with("/metrics") {
        url.to_owned()
    } else {
        format!("{url}/metrics")
    }
}

/// Returns each agent's usage between two snapshots.
pub(super) fn usage_difference(before: &[AgentUsage], after: &[AgentUsage]) -> Vec<AgentUsage> {
    before
        .iter()
        .zip(after)
        .map(|(before, after)| after.since(before))
        .collect()
}

fn round_to_hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// One line of the Prometheus text format.
struct MetricSample<'a> {
    name: &'a str,
    labels: &'a str,
    value: f64,
}

impl<'a> MetricSample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        if line.starts_with('#') {
            return None;
        }
        let (name, labels, rest) = match line.find('{') {
            Some(open) => {
                let close = line.rfind('}')?;
                (&line[..open], line.get(open + 1..close)?, &line[close + 1..])
            }
            None => {
                let (name, rest) = line.split_once(' ')?;
                (name, "", rest)
            }
        };
        Some(Self {
            name,
            labels,
            value: rest.split_whitespace().next()?.parse().ok()?,
        })
    }

    /// Returns the value of a label. Escapes are not supported, since no label read here has any.
    fn label(&self, name: &str) -> Option<&'a str> {
        self.labels.split(',').find_map(|label| {
            let (key, value) = label.split_once('=')?;
            (key.trim() == name).then(|| value.trim().trim_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_command_name() {
        let stat = "42 (a b) c) R 1 1 1 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(rss_bytes("Name:\tx\nVmRSS:\t  2048 kB\n"), Some(2 << 20));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory() {
        assert!(ClientUsage::now().rss_bytes > 0);
    }

    #[test]
    fn an_agents_work_is_the_difference_of_two_snapshots() {
        let text = |cpu: f64, puts: u64, flushes: u64| {
            format!(
                "# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes 5e6\n\
                 streamhouse_agent_object_store_requests_total{{operation=\"put\",result=\"ok\"}} {puts}\n\
                 streamhouse_agent_object_store_requests_total{{result=\"error\",operation=\"put\"}} 2\n\
                 streamhouse_agent_object_store_requests_total{{operation=\"get\"}} 4\n\
                 streamhouse_agent_flush_total{{reason=\"full\"}} {flushes}\nbroken{{ line\n"
            )
        };
        let (before, after) = (
            AgentUsage::parse("u", &text(1.5, 10, 3)),
            AgentUsage::parse("u", &text(4.0, 25, 9)),
        );
        let worked = usage_difference(&[before], &[after]);
        assert_eq!(worked[0].cpu_seconds, 2.5);
        assert_eq!(worked[0].rss_bytes, 5_000_000);
        assert_eq!(
            worked[0].object_store_requests,
            BTreeMap::from([("put".to_owned(), 15)])
        );
        assert_eq!(worked[0].flushes, 6);
    }

    #[test]
    fn agents_may_be_named_briefly() {
        for text in [
            "localhost:8080",
            "http://localhost:8080/",
            "http://localhost:8080/metrics",
        ] {
            assert_eq!(metrics_url(text), "http://localhost:8080/metrics");
        }
    }
}
