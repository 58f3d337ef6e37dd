//! The table of agent settings. Each is defined here once; flags, variables, help text and
//! reference are generated from it.

use std::path::PathBuf;

use super::{
    LogFormat, SecretString,
    addresses::{parse_address, parse_named_address, parse_optional},
    definition::{
        BOOLEAN_BOUNDS, SettingDefinition, define, parse_bool, parse_duration_between, parse_number,
        parse_path, parse_size, with_dev_default,
    },
    security::{parse_authorization, parse_mechanisms, parse_principals},
};

/// Every setting, in the order of the help text.
pub const SETTING_DEFINITIONS: &[SettingDefinition] = &[
    define(
        "dev",
        "false",
        BOOLEAN_BOUNDS,
        "Development mode: an agent with SQLite and a local directory, without any other server.",
        |s, v| parse_bool(v).map(|v| s.dev = v),
    ),
    define(
        "data-dir",
        ".streamhouse",
        "a path",
        "Directory for the data of --dev.",
        |s, v| {
            s.data_dir = PathBuf::from(v);
            Ok(())
        },
    ),
    define(
        "agent-id",
        "",
        "up to 200 characters",
        "Stable name of this agent across restarts. Defaults to the host name.",
        |s, v| {
            if v.len() > 200 {
                return Err("it is longer than 200 characters".to_owned());
            }
            s.agent_id = v.to_owned();
            Ok(())
        },
    ),
    define("zone", "", "text", "Availability zone of this agent.", |s, v| {
        s.zone = v.to_owned();
        Ok(())
    }),
    with_dev_default(
        "127.0.0.1:8080",
        define(
            "http-listen",
            "0.0.0.0:8080",
            "host:port",
            "Address of the HTTP listener for /health, /ready and /metrics.",
            |s, v| parse_address(v).map(|v| s.http_listen = v),
        ),
    ),
    with_dev_default(
        "127.0.0.1:50051",
        define(
            "grpc-listen",
            "0.0.0.0:50051",
            "host:port",
            "Address of the gRPC listener for clients.",
            |s, v| parse_address(v).map(|v| s.grpc_listen = v),
        ),
    ),
    define(
        "grpc-forward-listen",
        "",
        "host:port",
        "Address of a second gRPC listener, for kubectl port-forward and proxies in front of one agent: every client is \
        given the address that it used, and calls for other agents are forwarded. Off unless set. TLS as on the gRPC \
        listener.",
        |s, v| parse_optional(v, parse_address).map(|v| s.grpc_forward_listen = v),
    ),
    with_dev_default(
        "127.0.0.1:9092",
        define(
            "kafka-listen",
            "",
            "host:port",
            "Address of the listener for Kafka clients. Off unless set.",
            |s, v| parse_optional(v, parse_address).map(|v| s.kafka_listen = v),
        ),
    ),
    with_dev_default(
        "1",
        define(
            "kafka-auto-create-partitions",
            "0",
            "0 to 10000",
            "Number of partitions of a topic that is created because a Kafka client asks for it. 0 creates no topics so.",
            |s, v| parse_number(v, 0, 10_000).map(|v| s.kafka_auto_create_partitions = v),
        ),
    ),
    define(
        "authentication",
        "",
        "SCRAM-SHA-256, SCRAM-SHA-512, PLAIN and OAUTHBEARER, with commas between them",
        "Mechanisms by which clients authenticate, on all listeners. Without one every client is anonymous. See docs/operate/security.md.",
        |s, v| parse_mechanisms(v).map(|v| s.authentication = v),
    ),
    define(
        "authorization",
        "none",
        "none or acl",
        "What decides what clients may do: nothing, or access control lists as Kafka's. Needs authentication.",
        |s, v| parse_authorization(v).map(|v| s.authorization = v),
    ),
    define(
        "super-users",
        "",
        "principals such as User:admin, with semicolons between them",
        "Principals that may do everything, whatever the access control lists say.",
        |s, v| parse_principals(v).map(|v| s.super_users = v),
    ),
    with_dev_default(
        "true",
        define(
            "allow-unauthenticated",
            "false",
            BOOLEAN_BOUNDS,
            "Says that clients without authentication are intended: no warning at the start, and no alert.",
            |s, v| parse_bool(v).map(|v| s.allow_unauthenticated = v),
        ),
    ),
    define(
        "oauth-file",
        "",
        "a path",
        "YAML file that says whose tokens OAUTHBEARER accepts: issuer, audience and the keys. Needed with OAUTHBEARER. \
        A changed file is reloaded within seconds. See docs/operate/security.md.",
        |s, v| parse_path(v).map(|v| s.oauth_file = v),
    ),
    define(
        "listeners-file",
        "",
        "a path",
        "YAML or JSON file with further listeners, for clients that reach the agents by other addresses: see \
        docs/operate/networking.md. Changed addresses are reloaded within seconds.",
        |s, v| parse_path(v).map(|v| s.listeners_file = v),
    ),
    with_dev_default(
        "true",
        define(
            "console",
            "false",
            BOOLEAN_BOUNDS,
            "Serves the read-only web console at /console/ of the HTTP listener. It has a login only with authentication: see docs/console.md.",
            |s, v| parse_bool(v).map(|v| s.console = v),
        ),
    ),
    define(
        "tls-dir",
        "",
        "a path",
        "Directory with a subdirectory per listener (grpc, http, kafka, and the names in listeners-file) that holds tls.crt and \
        tls.key, as Kubernetes mounts them. A listener without a subdirectory serves plain text. Changed files are \
        reloaded within 30 seconds. Agents trust each other by grpc/ca.crt; without it, by the chain in grpc/tls.crt.",
        |s, v| parse_path(v).map(|v| s.tls_dir = v),
    ),
    define(
        "advertised-grpc-address",
        "",
        "host:port",
        "Address that clients are given to connect to. Defaults to the host name and the port of grpc-listen.",
        |s, v| parse_optional(v, parse_address).map(|v| s.advertised_grpc_address = v),
    ),
    define(
        "advertised-http-address",
        "",
        "host:port",
        "Address of the HTTP listener that clients are given. Defaults to the host name and the port of http-listen.",
        |s, v| parse_optional(v, parse_address).map(|v| s.advertised_http_address = v),
    ),
    define(
        "advertised-kafka-address",
        "",
        "host:port",
        "Address that Kafka clients are given to connect to. Defaults to the host name and the port of kafka-listen. \
        [10.0.0.7].kafka.svc:9092 stands for 10-0-0-7.kafka.svc:9092, the name of a pod of a headless Service.",
        |s, v| parse_optional(v, parse_named_address).map(|v| s.advertised_kafka_address = v),
    ),
    define(
        "metadata-url",
        "",
        "postgres://… or sqlite:…",
        "URL of the metadata store. It may hold a password, so prefer the variable to the flag.",
        |s, v| {
            s.metadata_url = SecretString::new(v);
            Ok(())
        },
    ),
    define(
        "metadata-max-connections",
        "8",
        "2 to 200",
        "Maximum number of connections to PostgreSQL.",
        |s, v| parse_number(v, 2, 200).map(|v| s.metadata_max_connections = v),
    ),
    define(
        "metadata-timeout",
        "5s",
        "100ms to 5m",
        "Time-out of a metadata transaction.",
        |s, v| parse_duration_between(v, 100, 300_000).map(|v| s.metadata_timeout = v),
    ),
    define(
        "object-store",
        "",
        "s3://bucket[/prefix] or file:directory",
        "Object store for records.",
        |s, v| {
            s.object_store = v.to_owned();
            Ok(())
        },
    ),
    define(
        "s3-endpoint",
        "",
        "a URL",
        "Endpoint of an S3-compatible store. Defaults to AWS.",
        |s, v| {
            s.s3_endpoint = v.to_owned();
            Ok(())
        },
    ),
    define(
        "s3-region",
        "us-east-1",
        "letters, digits and -",
        "Region of the bucket.",
        |s, v| {
            if !v.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err("it is not a region name".to_owned());
            }
            s.s3_region = v.to_owned();
            Ok(())
        },
    ),
    define(
        "s3-path-style",
        "false",
        BOOLEAN_BOUNDS,
        "Addresses the bucket in the path instead of the host name, as MinIO requires.",
        |s, v| parse_bool(v).map(|v| s.s3_path_style = v),
    ),
    define(
        "s3-ca-file",
        "",
        "a path",
        "PEM file with CA certificates to trust for the endpoint.",
        |s, v| parse_path(v).map(|v| s.s3_ca_file = v),
    ),
    with_dev_default(
        "5ms",
        define(
            "flush-interval",
            "250ms",
            "1ms to 1m",
            "Minimum time between two flushes. A longer interval means higher latency and fewer PUT requests.",
            |s, v| parse_duration_between(v, 1, 60_000).map(|v| s.flush_interval = v),
        ),
    ),
    define(
        "flush-bytes",
        "8MiB",
        "64KiB to 64MiB",
        "A flush starts at once when this many bytes are queued.",
        |s, v| parse_size(v, 64 << 10, 64 << 20).map(|v| s.flush_bytes = v),
    ),
    define(
        "upload-concurrency",
        "4",
        "1 to 64",
        "Maximum number of concurrent uploads.",
        |s, v| parse_number(v, 1, 64).map(|v| s.upload_concurrency = v),
    ),
    define(
        "produce-memory",
        "128MiB",
        "1MiB to 64GiB",
        "Budget for bytes received from producers and not yet acknowledged. When it is exhausted, producers are throttled.",
        |s, v| parse_size(v, 1 << 20, 64 << 30).map(|v| s.produce_memory = v),
    ),
    define(
        "cache-memory",
        "128MiB",
        "1MiB to 64GiB",
        "Cache for reads: the newest batches, and blocks read from the object store.",
        |s, v| parse_size(v, 1 << 20, 64 << 30).map(|v| s.cache_memory = v),
    ),
    define(
        "max-request-bytes",
        "16MiB",
        "64KiB to 64MiB",
        "Largest request that is accepted.",
        |s, v| parse_size(v, 64 << 10, 64 << 20).map(|v| s.max_request_bytes = v),
    ),
    define(
        "max-fetch-bytes",
        "32MiB",
        "64KiB to 64MiB",
        "Largest response to a fetch.",
        |s, v| parse_size(v, 64 << 10, 64 << 20).map(|v| s.max_fetch_bytes = v),
    ),
    define(
        "max-connections",
        "2000",
        "1 to 100000",
        "Maximum number of concurrent client connections of each gRPC listener and of the Kafka listener; further ones wait.",
        |s, v| parse_number(v, 1, 100_000).map(|v| s.max_connections = v),
    ),
    define(
        "max-connections-per-address",
        "0",
        "0 to 100000",
        "Maximum number of those that one IP address may have; further ones are closed. 0 sets no limit: clients behind a \
        load balancer share an address.",
        |s, v| parse_number(v, 0, 100_000).map(|v| s.max_connections_per_address = v),
    ),
    define(
        "lease-ttl",
        "10s",
        "1s to 5m",
        "Lease duration. After a crash, the agent's partitions are unavailable until its leases expire or another agent detects the crash.",
        |s, v| parse_duration_between(v, 1_000, 300_000).map(|v| s.lease_ttl = v),
    ),
    define(
        "object-grace",
        "10m",
        "1s to 24h",
        "How long an unreferenced object is kept before it is deleted. Must be longer than the longest read.",
        |s, v| parse_duration_between(v, 1_000, 86_400_000).map(|v| s.object_grace = v),
    ),
    define(
        "offsets-retention",
        "168h",
        "1s to 87600h",
        "How long the offsets of a consumer group are kept after its last member left and its last commit, as \
        Kafka's offsets.retention.minutes.",
        |s, v| parse_duration_between(v, 1_000, 315_360_000_000).map(|v| s.offsets_retention = v),
    ),
    define(
        "maintenance-interval",
        "10s",
        "100ms to 1h",
        "Interval of background maintenance: writing segments, retention, deletion and garbage collection.",
        |s, v| parse_duration_between(v, 100, 3_600_000).map(|v| s.maintenance_interval = v),
    ),
    define(
        "drain-timeout",
        "30s",
        "1s to 10m",
        "How long a stopping agent may take to hand over its partitions.",
        |s, v| parse_duration_between(v, 1_000, 600_000).map(|v| s.drain_timeout = v),
    ),
    define(
        "log-format",
        "text",
        "text or json",
        "Format of log lines.",
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
        "Log level: error, warn, info, debug, trace, or a filter such as info,streamhouse_agent=debug.",
        |s, v| {
            s.log_level = v.to_owned();
            Ok(())
        },
    ),
];
