//! Tests of the custom resource definitions, and of the objects that are derived from them, on a
//! real API server: what it accepts, what it rejects, and what `kubectl` shows. Each test has its
//! own namespace.

mod listeners;

use serde_json::{Value, json};
use streamhouse_operator::{
    cluster::{
        build::build,
        children::ManagedKind,
        inputs::{BuildInputs, ListenerFacts},
        validate::validate,
    },
    context::ClusterDefaults,
    crd::{self, StreamHouseCluster},
};
use streamhouse_testkit::KubeApi;

type Result = anyhow::Result<()>;

const EVERYTHING: &str = include_str!("../clusters/everything.yaml");

/// Returns the shared API server with the definitions installed.
fn server() -> anyhow::Result<&'static KubeApi> {
    let server = KubeApi::shared()?;
    for (_, text) in crd::definition_documents()? {
        server.apply(&text)?;
    }
    server.kubectl(&[
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "crd",
        "--all",
    ])?;
    Ok(server)
}

/// Returns a minimal cluster with these fields in its spec.
fn cluster(namespace: &str, name: &str, spec: &str) -> anyhow::Result<String> {
    let mut fields = json!({
        "postgresql": { "connectionSecret": { "name": "postgresql" } },
        "objectStorage": { "bucket": "streamhouse-data" },
    });
    let given: Value = serde_yaml_ng::from_str(spec)?;
    for (field, value) in given.as_object().into_iter().flatten() {
        fields[field] = value.clone();
    }
    Ok(json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster",
        "metadata": { "name": name, "namespace": namespace }, "spec": fields,
    })
    .to_string())
}

/// Returns the API server's response to a dry run.
fn dry_run(server: &KubeApi, manifest: &str) -> anyhow::Result<String> {
    let args = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "-o",
        "json",
        "-f",
        "-",
    ];
    server.kubectl_as(server.kubeconfig(), &args, manifest)
}

#[test]
fn the_api_server_takes_the_definitions_without_reservation() -> Result {
    let server = server()?;
    for definition in crd::definitions() {
        let name = definition.metadata.name.unwrap_or_default();
        let stored: Value = serde_json::from_str(&server.kubectl(&["get", "crd", &name, "-o", "json"])?)?;
        let conditions = stored["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let state = |kind: &str| {
            conditions
                .iter()
                .find(|condition| condition["type"] == kind)
                .map(|found| found["status"].clone())
        };
        assert_eq!(state("Established"), Some(json!("True")), "{name}");
        assert_eq!(state("NonStructuralSchema"), None, "{name}: {conditions:?}");
    }
    Ok(())
}

/// Specs and what their rejection must contain.
const REFUSED: &[(&str, &str)] = &[
    (
        "agents: {replicas: 3, autoscaling: {minReplicas: 1, maxReplicas: 2, targetCPUUtilizationPercentage: 60}}",
        "set replicas or autoscaling, not both",
    ),
    (
        "agents: {autoscaling: {minReplicas: 3, maxReplicas: 2, targetCPUUtilizationPercentage: 60}}",
        "minReplicas must not be greater than maxReplicas",
    ),
    (
        "agents: {autoscaling: {minReplicas: 1, maxReplicas: 2}}",
        "set targetCPUUtilizationPercentage or metrics",
    ),
    ("agents: {replicas: 1001}", "should be less than or equal to 1000"),
    ("agents: {replicas: -1}", "should be greater than or equal to 0"),
    (
        "agents: {resources: {requests: {memory: lots}}}",
        "spec.agents.resources.requests.memory",
    ),
    (
        "agents: {settings: {flushIntervall: 1s}}",
        ".spec.agents.settings.flushIntervall: field not declared in schema",
    ),
    (
        "agents: {settings: {console: 'yes'}}",
        "spec.agents.settings.console",
    ),
    (
        "agents: {settings: {grpcListen: '0.0.0.0:1'}}",
        ".spec.agents.settings.grpcListen: field not declared in schema",
    ),
    (
        "agents: {zoneSpread: Sometimes}",
        "Unsupported value: \"Sometimes\"",
    ),
    (
        "listeners: {kafka: {enabled: true, port: 8080}}",
        "kafka must have a port other than those of grpc and http",
    ),
    (
        "listeners: {grpc: {port: 9092}, kafka: {enabled: true}}",
        "kafka must have a port other than those of grpc and http",
    ),
    (
        "listeners: {kafka: {enabled: true}, additional: [{name: a, type: internal, port: 9092}]}",
        "additional listeners must have ports other than that of kafka",
    ),
    (
        "listeners: {kafka: {enabled: true, tls: {}}}",
        "exactly one of secretName and issuerRef",
    ),
    (
        "listeners: {kafka: {enabled: true, autoCreatePartitions: 10001}}",
        "should be less than or equal to 10000",
    ),
    (
        "listeners: {grpc: {port: 8080}, http: {port: 8080}}",
        "grpc and http must have different ports",
    ),
    (
        "listeners: {grpc: {port: 80}}",
        "should be greater than or equal to 1024",
    ),
    (
        "listeners: {grpc: {tls: {}}}",
        "set exactly one of secretName and issuerRef",
    ),
    (
        "listeners: {http: {tls: {secretName: a, issuerRef: {name: b}}}}",
        "set exactly one of secretName and issuerRef",
    ),
    (
        "listeners: {grpc: {tls: {secretName: a, dnsNames: [b.example.com]}}}",
        "dnsNames and ipAddresses apply to certificates of an issuerRef only",
    ),
    ("objectStorage: {bucket: B}", "spec.objectStorage.bucket"),
    (
        "objectStorage: {bucket: data, endpoint: 'minio:9000'}",
        "spec.objectStorage.endpoint",
    ),
    (
        "objectStorage: {bucket: data, prefix: /a}",
        "spec.objectStorage.prefix",
    ),
    ("postgresql: {}", "connectionSecret"),
    ("image: {digest: 'sha256:abc'}", "spec.image.digest"),
    (
        "disruptionBudget: {maxUnavailable: 200%}",
        "spec.disruptionBudget.maxUnavailable",
    ),
    (
        "monitoring: {serviceMonitor: {interval: soon}}",
        "spec.monitoring.serviceMonitor.interval",
    ),
    (
        "monitoring: {prometheusRule: {thresholds: {HighConsumerLag: many}}}",
        "spec.monitoring.prometheusRule.thresholds",
    ),
    (
        "monitoring: {prometheusRule: {for: {AgentDown: 5m1h}}}",
        "spec.monitoring.prometheusRule.for",
    ),
    ("agents: {replicas: null}", "spec.agents.replicas"),
    (
        "authorization: {type: acl}",
        "authorization requires authentication",
    ),
    (
        "authentication: {mechanisms: [SCRAM-SHA-512]}
authorization: {type: acl, superUsers: ['User:a'], superUsersSecret: {name: a}}",
        "set only one",
    ),
    (
        "authentication: {mechanisms: [GSSAPI]}",
        "spec.authentication.mechanisms",
    ),
    (
        "authentication: {mechanisms: []}",
        "spec.authentication.mechanisms",
    ),
    ("authorization: {type: opa}", "spec.authorization.type"),
    ("deletionPolicy: Burn", "Unsupported value: \"Burn\""),
];

#[test]
fn what_contradicts_itself_is_refused_before_it_is_stored() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("refused")?;
    dry_run(server, &cluster(&namespace, "events", "{}")?)?;
    for (spec, part) in REFUSED {
        let refusal = dry_run(server, &cluster(&namespace, "events", spec)?)
            .expect_err(spec)
            .to_string();
        assert!(refusal.contains(part), "{spec}: {refusal}");
    }
    for name in ["1events", &"e".repeat(41)] {
        assert!(
            dry_run(server, &cluster(&namespace, name, "{}")?).is_err(),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn what_holds_the_records_cannot_change() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("fixed")?;
    server.apply(&cluster(&namespace, "plain", "{}")?)?;
    server.apply(&cluster(
        &namespace,
        "prefixed",
        "objectStorage: {bucket: streamhouse-data, prefix: a}",
    )?)?;
    for (name, storage) in [
        ("plain", "{bucket: another-bucket}"),
        ("plain", "{bucket: streamhouse-data, prefix: a}"),
        ("prefixed", "{bucket: streamhouse-data}"),
        ("prefixed", "{bucket: streamhouse-data, prefix: b}"),
    ] {
        let changed = cluster(&namespace, name, &format!("objectStorage: {storage}"))?;
        let refusal = dry_run(server, &changed).expect_err(storage).to_string();
        assert!(
            refusal.contains("cannot change: it holds the records"),
            "{storage}: {refusal}"
        );
    }
    dry_run(
        server,
        &cluster(
            &namespace,
            "plain",
            "{objectStorage: {bucket: streamhouse-data, region: eu-west-1}, stopped: true}",
        )?,
    )?;
    Ok(())
}

#[test]
fn what_is_stored_can_be_read_whatever_a_user_wrote() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("read")?;
    let large = "agents: {resources: {limits: {memory: 8589934592}}, settings: {produceMemory: 4294967296, cacheMemory: 1GiB, console: true}}";
    for (name, spec) in [("minimal", "{}"), ("everything", EVERYTHING), ("large", large)] {
        server.apply(&cluster(&namespace, name, spec)?)?;
        let stored = server.kubectl(&["get", "shc", name, "-n", &namespace, "-o", "json"])?;
        let cluster: StreamHouseCluster = serde_json::from_str(&stored)?;
        validate(&cluster, &defaults())?;
    }
    Ok(())
}

fn defaults() -> ClusterDefaults {
    ClusterDefaults {
        image: "ghcr.io/streamhouse/streamhouse-agent".to_owned(),
        version: "0.1.0".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        monitoring_namespaces: Vec::new(),
    }
}

#[test]
fn kubectl_shows_scales_and_selects_clusters() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("shown")?;
    server.apply(&cluster(
        &namespace,
        "events",
        "{version: 1.2.3, agents: {replicas: 2}}",
    )?)?;
    server.apply(&cluster(
        &namespace,
        "other",
        "objectStorage: {bucket: another-bucket}",
    )?)?;
    let status = json!({ "status": {
        "version": "1.2.3", "agents": { "replicas": 2, "ready": 1, "updated": 2, "summary": "1/2", "selector": "a=b" },
        "conditions": [{ "type": "Ready", "status": "False", "reason": "AgentsNotReady", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z" }],
    } });
    let patch = format!("--patch={status}");
    server.kubectl(&[
        "patch",
        "shc",
        "events",
        "-n",
        &namespace,
        "--subresource=status",
        "--type=merge",
        &patch,
    ])?;
    let table = server.kubectl(&["get", "streamhouse", "-n", &namespace])?;
    let header = table.lines().next().unwrap_or_default();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>(),
        ["NAME", "AGENTS", "VERSION", "READY", "AGE"],
        "{table}"
    );
    let row = table
        .lines()
        .find(|line| line.contains("events"))
        .unwrap_or_default();
    for cell in ["1/2", "1.2.3", "False"] {
        assert!(row.contains(cell), "{table}");
    }
    server.kubectl(&["scale", "shc/events", "--replicas=5", "-n", &namespace])?;
    let replicas = server.kubectl(&[
        "get",
        "shc",
        "events",
        "-n",
        &namespace,
        "-o",
        "jsonpath={.spec.agents.replicas}",
    ])?;
    assert_eq!(replicas, "5");
    let selector = "--field-selector=spec.objectStorage.bucket=another-bucket";
    let found = server.kubectl(&["get", "shc", "-n", &namespace, selector, "-o", "name"])?;
    assert_eq!(found.trim(), "streamhousecluster.streamhouse.io/other");
    Ok(())
}

#[test]
fn every_object_of_a_cluster_is_one_that_the_api_server_takes() -> Result {
    let server = server()?;
    let namespace = server.create_namespace("objects")?;
    let autoscaling =
        "{agents: {autoscaling: {minReplicas: 1, maxReplicas: 3, targetCPUUtilizationPercentage: 60}},
        listeners: {grpc: {tls: {issuerRef: {name: local}}}}, networkPolicy: {enabled: true}}";
    server.install_monitoring_definitions()?;
    let inputs = BuildInputs {
        secret_hash: "5ec2e7".to_owned(),
        monitoring_api: true,
        preflight: true,
        listeners: ListenerFacts {
            slots: 2,
            ..ListenerFacts::default()
        },
        ..BuildInputs::default()
    };
    let mut taken = std::collections::BTreeSet::new();
    for (name, spec) in [
        ("minimal", "{}"),
        ("everything", EVERYTHING),
        ("scaled", autoscaling),
    ] {
        server.apply(&cluster(&namespace, name, spec)?)?;
        let stored = server.kubectl(&["get", "shc", name, "-n", &namespace, "-o", "json"])?;
        let desired = validate(&serde_json::from_str(&stored)?, &defaults())?;
        for child in build(&desired, &inputs) {
            let manifest = serde_json::to_string(&child.object)?;
            dry_run(server, &manifest).map_err(|error| error.context(format!("{} of {name}", child.kind)))?;
            taken.insert(child.kind);
        }
    }
    let plain = ManagedKind::ALL
        .iter()
        .filter(|kind| kind.optional_api().is_none());
    assert!(plain.clone().all(|kind| taken.contains(kind)), "{taken:?}");
    Ok(())
}

#[test]
fn the_samples_are_taken_as_they_stand() -> Result {
    let server = server()?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/samples");
    let mut clusters = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let namespace = server.create_namespace("samples")?;
        let file = path.display().to_string();
        // Strict: an unknown field is an error.
        let args = [
            "create",
            "--dry-run=server",
            "--validate=strict",
            "-o",
            "json",
            "-n",
            &namespace,
            "-f",
            &file,
        ];
        let taken = server
            .kubectl(&args)
            .map_err(|error| error.context(file.clone()))?;
        for document in serde_json::Deserializer::from_str(&taken).into_iter::<Value>() {
            let document = document?;
            let items = document["items"]
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![document.clone()]);
            for item in items
                .into_iter()
                .filter(|item| item["kind"] == "StreamHouseCluster")
            {
                validate(&serde_json::from_value(item)?, &defaults())
                    .map_err(|error| anyhow::anyhow!("{file}: {error}"))?;
                clusters += 1;
            }
        }
    }
    assert!(clusters >= 2, "{clusters} clusters among the samples");
    Ok(())
}
