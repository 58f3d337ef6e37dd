//! The table of the agent's settings. Each stands here once; flags, variables, help and reference follow from it.

use std::{net::Ipv6Addr, path::PathBuf, str::FromStr};

use super::{AgentSettings, ByteSize, LogFormat, Secret, parse_duration};

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// The flag without its dashes.
    pub name: &'static str,
    /// As text; empty for none.
    pub default: &'static str,
    /// The default with `--dev`, where it differs.
    pub dev_default: Option<&'static str>,
    /// What is allowed, for people.
    pub bounds: &'static str,
    /// What it does.
    pub help: &'static str,
    pub(super) set: fn(&mut AgentSettings, &str) -> Result<(), String>,
}

impl Definition {
    /// The default as text.
    pub fn default_for(&self, dev: bool) -> &'static str {
        self.dev_default.filter(|_| dev).unwrap_or(self.default)
    }

    /// The variable: `STREAMHOUSE_FLUSH_INTERVAL`.
    pub fn variable(&self) -> String {
        format!("STREAMHOUSE_{}", self.name.replace('-', "_").to_ascii_uppercase())
    }

    /// The name in documents: `flushInterval`.
    pub fn camel_name(&self) -> String {
        let mut parts = self.name.split('-');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |name, part| {
            name + &part[..1].to_ascii_uppercase() + &part[1..]
        })
    }

    /// Sets it. What has a control character inside, such as a line feed of a file, is no value of any setting, and not
    /// repeated: it may be secret.
    pub(super) fn apply(&self, settings: &mut AgentSettings, value: &str) -> Result<(), String> {
        if value.chars().any(char::is_control) {
            return Err("the value holds a line feed or another control character; remove it".to_owned());
        }
        (self.set)(settings, value)
    }

    /// Whether the flag needs no value.
    pub fn is_switch(&self) -> bool {
        self.bounds == SWITCH
    }
}

const SWITCH: &str = "true or false";

fn number<T: FromStr + PartialOrd + std::fmt::Display>(text: &str, min: T, max: T) -> Result<T, String> {
    let number: T = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of that kind"))?;
    if number >= min && number <= max {
        Ok(number)
    } else {
        Err(format!("{number} is not between {min} and {max}"))
    }
}

fn size(text: &str, min: u64, max: u64) -> Result<ByteSize, String> {
    let size: ByteSize = text.parse()?;
    let (min, max) = (ByteSize(min), ByteSize(max));
    if size >= min && size <= max {
        Ok(size)
    } else {
        Err(format!("{size} is not between {min} and {max}"))
    }
}

fn millis(text: &str, min: u64, max: u64) -> Result<std::time::Duration, String> {
    let duration = parse_duration(text)?;
    let allowed = u128::from(min)..=u128::from(max);
    if allowed.contains(&duration.as_millis()) {
        Ok(duration)
    } else {
        Err(format!("{text} is not between {min}ms and {max}ms"))
    }
}

fn switch(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

/// `host:port`. The port is always given, so the last colon stands before it, and an IPv6 address needs no brackets here:
/// whoever fills in a pod's address does not know its family. They are added, since everybody else needs them.
fn address(text: &str) -> Result<String, String> {
    let refused = || format!("{text:?} is not host:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
    port.parse::<u16>().map_err(|_| refused())?;
    if host.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{host}]:{port}"));
    }
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let legal = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '[', ']', '/', '@']),
    };
    legal.then(|| text.to_owned()).ok_or_else(refused)
}

fn optional_address(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Ok(String::new())
    } else {
        address(text)
    }
}

const fn define(
    name: &'static str,
    default: &'static str,
    bounds: &'static str,
    help: &'static str,
    set: fn(&mut AgentSettings, &str) -> Result<(), String>,
) -> Definition {
    Definition {
        name,
        default,
        dev_default: None,
        bounds,
        help,
        set,
    }
}

const fn define_dev(dev_default: &'static str, definition: Definition) -> Definition {
    Definition {
        dev_default: Some(dev_default),
        ..definition
    }
}

/// Every setting, in the order of the help text.
pub const DEFINITIONS: &[Definition] = &[
    define(
        "dev",
        "false",
        SWITCH,
        "The embedded default: SQLite and a local directory, no server to start.",
        |s, v| switch(v).map(|v| s.dev = v),
    ),
    define(
        "data-dir",
        ".streamhouse",
        "a path",
        "Where --dev keeps its data.",
        |s, v| {
            s.data_dir = PathBuf::from(v);
            Ok(())
        },
    ),
    define(
        "agent-id",
        "",
        "up to 200 characters",
        "Names this agent across restarts; the host's name when empty.",
        |s, v| {
            if v.len() > 200 {
                return Err("it is longer than 200 characters".to_owned());
            }
            s.agent_id = v.to_owned();
            Ok(())
        },
    ),
    define("zone", "", "text", "The availability zone it runs in.", |s, v| {
        s.zone = v.to_owned();
        Ok(())
    }),
    define_dev(
        "127.0.0.1:8080",
        define(
            "http-listen",
            "0.0.0.0:8080",
            "host:port",
            "Where /health, /ready and /metrics are served.",
            |s, v| address(v).map(|v| s.http_listen = v),
        ),
    ),
    define_dev(
        "127.0.0.1:50051",
        define(
            "grpc-listen",
            "0.0.0.0:50051",
            "host:port",
            "Where clients are served.",
            |s, v| address(v).map(|v| s.grpc_listen = v),
        ),
    ),
    define_dev(
        "true",
        define(
            "console",
            "false",
            SWITCH,
            "Serves the read-only web console below /console/ of the HTTP port. It has no login and shows what records hold: \
            see docs/console.md before you switch it on.",
            |s, v| switch(v).map(|v| s.console = v),
        ),
    ),
    define(
        "tls-dir",
        "",
        "a path",
        "A folder with a folder for each listener, grpc and http, that holds tls.crt and tls.key, as Kubernetes mounts them; \
        a listener without its folder serves plain text. Changed files are taken up within half a minute.",
        |s, v| {
            s.tls_dir = (!v.is_empty()).then(|| PathBuf::from(v));
            Ok(())
        },
    ),
    define(
        "advertised-grpc-address",
        "",
        "host:port",
        "What clients are told to connect to; follows from grpc-listen and the host's name when empty.",
        |s, v| optional_address(v).map(|v| s.advertised_grpc_address = v),
    ),
    define(
        "advertised-http-address",
        "",
        "host:port",
        "The same for HTTP.",
        |s, v| optional_address(v).map(|v| s.advertised_http_address = v),
    ),
    define(
        "metadata-url",
        "",
        "postgres://… or sqlite:…",
        "The metadata store. May hold a password: prefer the variable to the flag.",
        |s, v| {
            s.metadata_url = Secret::new(v);
            Ok(())
        },
    ),
    define(
        "metadata-max-connections",
        "8",
        "2 to 200",
        "Connections to PostgreSQL.",
        |s, v| number(v, 2, 200).map(|v| s.metadata_max_connections = v),
    ),
    define(
        "metadata-timeout",
        "5s",
        "100ms to 5m",
        "How long one metadata transaction may take.",
        |s, v| millis(v, 100, 300_000).map(|v| s.metadata_timeout = v),
    ),
    define(
        "object-store",
        "",
        "s3://bucket[/prefix] or file:directory",
        "Where records are stored.",
        |s, v| {
            s.object_store = v.to_owned();
            Ok(())
        },
    ),
    define(
        "s3-endpoint",
        "",
        "a URL",
        "The endpoint of an S3-compatible store; AWS when empty.",
        |s, v| {
            s.s3_endpoint = v.to_owned();
            Ok(())
        },
    ),
    define(
        "s3-region",
        "us-east-1",
        "letters, digits and -",
        "The bucket's region.",
        |s, v| {
            if !v.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err("it is not a region's name".to_owned());
            }
            s.s3_region = v.to_owned();
            Ok(())
        },
    ),
    define(
        "s3-path-style",
        "false",
        SWITCH,
        "Puts the bucket into the path instead of the host name, as MinIO wants it.",
        |s, v| switch(v).map(|v| s.s3_path_style = v),
    ),
    define(
        "s3-ca-file",
        "",
        "a path",
        "Certificates (PEM) to trust for the endpoint.",
        |s, v| {
            s.s3_ca_file = (!v.is_empty()).then(|| PathBuf::from(v));
            Ok(())
        },
    ),
    define_dev(
        "5ms",
        define(
            "flush-interval",
            "250ms",
            "1ms to 1m",
            "The shortest time between two flushes: trades latency for PUT requests.",
            |s, v| millis(v, 1, 60_000).map(|v| s.flush_interval = v),
        ),
    ),
    define(
        "flush-bytes",
        "8MiB",
        "64KiB to 64MiB",
        "A flush starts at once when this much waits.",
        |s, v| size(v, 64 << 10, 64 << 20).map(|v| s.flush_bytes = v),
    ),
    define(
        "upload-concurrency",
        "4",
        "1 to 64",
        "Uploads at once.",
        |s, v| number(v, 1, 64).map(|v| s.upload_concurrency = v),
    ),
    define(
        "produce-memory",
        "128MiB",
        "1MiB to 64GiB",
        "Bytes taken from producers and not yet acknowledged; beyond it they are asked to slow down.",
        |s, v| size(v, 1 << 20, 64 << 30).map(|v| s.produce_memory = v),
    ),
    define(
        "cache-memory",
        "128MiB",
        "1MiB to 64GiB",
        "Bytes kept to serve readers: the newest batches, and blocks read from the object store.",
        |s, v| size(v, 1 << 20, 64 << 30).map(|v| s.cache_memory = v),
    ),
    define(
        "max-request-bytes",
        "16MiB",
        "64KiB to 64MiB",
        "The largest request taken.",
        |s, v| size(v, 64 << 10, 64 << 20).map(|v| s.max_request_bytes = v),
    ),
    define(
        "max-fetch-bytes",
        "32MiB",
        "64KiB to 64MiB",
        "The largest answer to a fetch.",
        |s, v| size(v, 64 << 10, 64 << 20).map(|v| s.max_fetch_bytes = v),
    ),
    define(
        "max-connections",
        "2000",
        "1 to 100000",
        "Client connections at once.",
        |s, v| number(v, 1, 100_000).map(|v| s.max_connections = v),
    ),
    define(
        "lease-ttl",
        "10s",
        "1s to 5m",
        "How long a dead agent's partitions stand still at most.",
        |s, v| millis(v, 1_000, 300_000).map(|v| s.lease_ttl = v),
    ),
    define(
        "object-grace",
        "10m",
        "1s to 24h",
        "How long an object is kept after nothing references it; longer than the longest read.",
        |s, v| millis(v, 1_000, 86_400_000).map(|v| s.object_grace = v),
    ),
    define(
        "offsets-retention",
        "168h",
        "1s to 87600h",
        "How long the offsets of a consumer group without members are kept after its last member left and its last commit; \
        Kafka's offsets.retention.minutes.",
        |s, v| millis(v, 1_000, 315_360_000_000).map(|v| s.offsets_retention = v),
    ),
    define(
        "maintenance-interval",
        "10s",
        "100ms to 1h",
        "How often segments, retention, deleting and sweeping are looked at.",
        |s, v| millis(v, 100, 3_600_000).map(|v| s.maintenance_interval = v),
    ),
    define(
        "drain-timeout",
        "30s",
        "1s to 10m",
        "How long a stopping agent may take to hand its partitions over.",
        |s, v| millis(v, 1_000, 600_000).map(|v| s.drain_timeout = v),
    ),
    define(
        "log-format",
        "text",
        "text or json",
        "How log lines look.",
        |s, v| {
            s.log_format = match v {
                "text" => LogFormat::Text,
                "json" => LogFormat::Json,
                other => return Err(format!("{other:?} is neither text nor json")),
            };
            Ok(())
        },
    ),
    define(
        "log-level",
        "info",
        "a tracing filter",
        "What is logged: error, warn, info, debug, trace, or a filter such as info,streamhouse_agent=debug.",
        |s, v| {
            s.log_level = v.to_owned();
            Ok(())
        },
    ),
];

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_has_a_port_and_an_ipv6_address_gets_its_brackets() {
        for (given, taken) in [
            ("agent-0:50051", "agent-0:50051"),
            ("10.0.0.7:50051", "10.0.0.7:50051"),
            ("[fd00::7]:50051", "[fd00::7]:50051"),
            ("fd00::7:50051", "[fd00::7]:50051"),
            ("::1:1", "[::1]:1"),
            ("[::]:50051", "[::]:50051"),
        ] {
            assert_eq!(address(given).as_deref(), Ok(taken));
        }
        for bad in [
            "",
            "agent-0",
            ":1",
            "a:b",
            "a:99999",
            "a:b:1",
            "[a]:1",
            "[::1:1",
            "::1]:1",
            "[]:1",
            "http://a:1",
            "me@a:1",
        ] {
            assert!(address(bad).unwrap_err().contains("host:port"), "{bad}");
        }
    }
}
