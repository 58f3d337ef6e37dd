//! Rejected specs with their messages, and the defaults.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::{
    cluster::{
        desired::{AgentScale, RequiredSecret},
        fixtures::{EVERYTHING, cluster_with, defaults, desired_with, problem_with},
    },
    crd::{ConditionReason, ConditionType},
};

#[test]
fn a_minimal_cluster_gets_every_default() {
    let desired = desired_with("{}");
    assert_eq!(desired.scale, AgentScale::Fixed(3));
    assert_eq!(
        desired.image.reference,
        "ghcr.io/streamhouse/streamhouse-agent:0.1.0"
    );
    assert_eq!((desired.grpc.number, desired.http.number), (50051, 8080));
    assert_eq!(desired.bootstrap_address(), "events-agents.team-a.svc:50051");
    assert_eq!(desired.drain_timeout, Duration::from_secs(30));
    assert_eq!(desired.max_unavailable, Some(json!(1)));
    assert_eq!(
        desired.resources,
        json!({ "requests": { "cpu": "250m", "memory": "512Mi" }, "limits": { "memory": "1024Mi" } })
    );
    assert_eq!(
        desired.variables["STREAMHOUSE_OBJECT_STORE"],
        "s3://streamhouse-data"
    );
    assert_eq!(desired.variables["STREAMHOUSE_LOG_FORMAT"], "json");
    assert!(!desired.variables.contains_key("STREAMHOUSE_METADATA_URL"));
    assert!(desired.optional_apis().is_empty());
}

#[test]
fn what_is_set_is_taken() {
    let desired = desired_with(EVERYTHING);
    assert_eq!(
        desired.image.reference,
        format!(
            "registry.example.com:5000/mirror/streamhouse-agent:1.4.2-slim@sha256:{}",
            "0123456789abcdef".repeat(4)
        )
    );
    assert_eq!(desired.variables["STREAMHOUSE_PRODUCE_MEMORY"], "268435456");
    assert_eq!(
        desired.variables["STREAMHOUSE_OBJECT_STORE"],
        "s3://streamhouse-data/team-a"
    );
    // Files are named beside their mounts, in the pod template.
    for of_pods in ["S3_CA_FILE", "TLS_DIR", "LISTENERS_FILE", "METADATA_URL"] {
        let name = format!("STREAMHOUSE_{of_pods}");
        assert!(!desired.variables.contains_key(&name), "{name}");
    }
    assert_eq!(desired.resources["requests"]["memory"], "1073741824");
    assert_eq!(desired.max_unavailable, Some(json!("25%")));
}

#[test]
fn the_secrets_that_are_needed_are_listed_once_each() {
    let secret = |name: &str, keys: &[&str], restarts| RequiredSecret {
        name: name.to_owned(),
        keys: keys.iter().map(ToString::to_string).collect(),
        restarts,
    };
    assert_eq!(
        desired_with(EVERYTHING).required_secrets(),
        [
            secret("events-bucket", &["accessKeyId", "secretAccessKey"], true),
            secret("events-certificate", &["tls.crt", "tls.key"], false),
            secret("events-operators", &["principals"], true),
            secret("events-postgresql", &["url"], true),
            secret("minio-ca", &["authority.pem"], true),
            secret("postgresql-ca", &["ca.crt"], true),
        ]
    );
    assert_eq!(
        desired_with("{}").required_secrets(),
        [secret("events-postgresql", &["uri"], true)]
    );
}

#[test]
fn memory_follows_from_the_settings() {
    let desired = desired_with("agents: {settings: {produceMemory: 1GiB, cacheMemory: 2GiB}}");
    assert_eq!(desired.resources["requests"]["memory"], "3328Mi");
    assert_eq!(desired.resources["limits"]["memory"], "6656Mi");
}

#[test]
fn a_switch_is_true_or_false_in_the_resource() {
    for on in [true, false] {
        let desired = desired_with(&format!("agents: {{settings: {{console: {on}}}}}"));
        assert_eq!(
            desired.variables.get("STREAMHOUSE_CONSOLE"),
            Some(&on.to_string())
        );
    }
}

#[test]
fn stopped_beats_every_number() {
    let autoscaling = "{minReplicas: 2, maxReplicas: 9, targetCPUUtilizationPercentage: 70}";
    for agents in ["{replicas: 5}", &format!("{{autoscaling: {autoscaling}}}")] {
        assert_eq!(
            desired_with(&format!("{{stopped: true, agents: {agents}}}")).scale,
            AgentScale::Stopped
        );
    }
}

/// Specs and what their messages must contain.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "agents: {settings: {flushIntervall: 1s}}",
        &[
            "spec.agents.settings",
            "flushIntervall",
            "did you mean \"flushInterval\"",
        ],
    ),
    (
        "agents: {settings: {flushBytes: 1}}",
        &["spec.agents.settings: flushBytes", "64KiB"],
    ),
    ("agents: {settings: {produceMemory: 1e30}}", &["produceMemory"]),
    (
        "agents: {settings: {grpcListen: '0.0.0.0:1'}}",
        &["grpcListen is derived from listeners.grpc.port"],
    ),
    (
        "agents: {settings: {metadataUrl: 'postgres://u:hunter2@h/d'}}",
        &["metadataUrl is derived from postgresql.connectionSecret"],
    ),
    (
        "agents: {settings: {tlsDir: /tls}}",
        &["tlsDir is derived from listeners.grpc.tls"],
    ),
    (
        "agents: {settings: {flushInterval: 10s}}",
        &["flush-interval", "lease-ttl"],
    ),
    (
        "agents: {replicas: 1, autoscaling: {minReplicas: 1, maxReplicas: 2, targetCPUUtilizationPercentage: 1}}",
        &["not both"],
    ),
    (
        "agents: {autoscaling: {minReplicas: 3, maxReplicas: 2, targetCPUUtilizationPercentage: 1}}",
        &["minReplicas (3)", "maxReplicas (2)"],
    ),
    (
        "agents: {autoscaling: {minReplicas: 1, maxReplicas: 2}}",
        &["set targetCPUUtilizationPercentage or metrics"],
    ),
    (
        "agents: {resources: {}, autoscaling: {minReplicas: 1, maxReplicas: 2, targetCPUUtilizationPercentage: 9}}",
        &["resources.requests.cpu"],
    ),
    (
        "agents: {autoscaling: {minReplicas: 1, maxReplicas: 2, metrics: [{typ: Pods}]}}",
        &["metrics[0] has no field typ"],
    ),
    (
        "agents: {autoscaling: {minReplicas: 1, maxReplicas: 2, targetCPUUtilizationPercentage: 9, behavior: {scaleDown: {policy: []}, scaleUp: {policies: 1}}}}",
        &["autoscaling.behavior"],
    ),
    (
        "agents: {resources: {requests: {memory: lots}}}",
        &["requests.memory", "512Mi"],
    ),
    (
        "agents: {resources: {requests: {cpu: 2}, limits: {cpu: 500m}}}",
        &["requests.cpu (2) is more than limits.cpu (500m)"],
    ),
    (
        "agents: {resources: {limits: {memory: 200Mi}}}",
        &[
            "limits.memory (200Mi)",
            "produceMemory and cacheMemory together (256Mi)",
        ],
    ),
    (
        "agents: {serviceAccount: {name: mine, annotations: {a: b}}}",
        &["serviceAccount", "remove annotations or name"],
    ),
    (
        "agents: {podTemplate: {spce: {}}}",
        &["podTemplate has no field spce"],
    ),
    (
        "agents: {podTemplate: {metadata: {name: x}}}",
        &["podTemplate.metadata has no field name"],
    ),
    (
        "agents: {podTemplate: {metadata: {labels: {app.kubernetes.io/name: mine}}}}",
        &["app.kubernetes.io/name is reserved for the operator"],
    ),
    (
        "agents: {podTemplate: {metadata: {labels: {a: 1}}}}",
        &["podTemplate.metadata.labels", "expected a string"],
    ),
    (
        "agents: {podTemplate: {metadata: {annotations: {streamhouse.io/config-hash: x}}}}",
        &["streamhouse.io/config-hash is reserved for the operator"],
    ),
    (
        "agents: {podTemplate: {spec: {nodeSelector: [a]}}}",
        &["podTemplate.spec"],
    ),
    (
        "agents: {podTemplate: {spec: {containers: [{image: x}]}}}",
        &["podTemplate.spec.containers: each element needs name"],
    ),
    (
        "agents: {podTemplate: {spec: {containers: [{name: agent, volumeMounts: [{name: x}]}]}}}",
        &["volumeMounts: each element needs mountPath"],
    ),
    (
        "image: {repository: 'example.com/agent:1.0'}",
        &["spec.image.repository", "image.tag"],
    ),
    (
        "listeners: {kafka: {enabled: true, port: 8080}}",
        &["http and spec.listeners.kafka both have port 8080"],
    ),
    (
        "listeners: {grpc: {port: 9092}, kafka: {enabled: true}}",
        &["grpc and spec.listeners.kafka both have port 9092"],
    ),
    (
        "listeners: {kafka: {enabled: true, port: 80}}",
        &["kafka.port 80"],
    ),
    (
        "listeners: {kafka: {enabled: true, tls: {}}}",
        &["listeners.kafka.tls needs exactly one"],
    ),
    (
        "listeners: {kafka: {autoCreatePartitions: 10001}}",
        &["kafka.autoCreatePartitions", "between 0 and 10000"],
    ),
    (
        "agents: {settings: {kafkaListen: '[::]:9092'}}",
        &["kafkaListen is derived from listeners.kafka.port"],
    ),
    ("listeners: {grpc: {port: 8080}}", &["both have port 8080"]),
    ("listeners: {http: {port: 80}}", &["http.port 80"]),
    (
        "listeners: {grpc: {tls: {}}}",
        &["listeners.grpc.tls needs exactly one"],
    ),
    (
        "listeners: {grpc: {tls: {secretName: a, issuerRef: {name: b}}}}",
        &["exactly one of secretName and issuerRef"],
    ),
    (
        "objectStorage: {bucket: abc, endpoint: 'minio:9000'}",
        &["spec.objectStorage.endpoint", "https://"],
    ),
    (
        "disruptionBudget: {maxUnavailable: 101%}",
        &["maxUnavailable", "101%"],
    ),
    (
        "disruptionBudget: {maxUnavailable: some}",
        &["maxUnavailable", "some"],
    ),
    (
        "networkPolicy: {clients: [{podSelctor: {matchLabels: {a: b}}}]}",
        &["networkPolicy.clients[0] has no field podSelctor"],
    ),
    (
        "monitoring: {serviceMonitor: {labels: {release: 'a b'}}}",
        &["serviceMonitor.labels", "\"a b\""],
    ),
    (
        "monitoring: {serviceMonitor: {relabelings: [{target: a}]}}",
        &["relabelings[0]", "unknown field `target`"],
    ),
    (
        "monitoring: {serviceMonitor: {interval: 10s, scrapeTimeout: 30s}}",
        &["scrapeTimeout is longer than interval"],
    ),
    (
        "monitoring: {serviceMonitor: {interval: soon}}",
        &["interval", "30s"],
    ),
    (
        "monitoring: {serviceMonitor: {namespace: Monitoring}}",
        &["not a namespace name"],
    ),
    (
        "{monitoring: {serviceMonitor: {enabled: true, namespace: monitoring}}, listeners: {http: {tls: {secretName: a}}}}",
        &["serviceMonitor.tlsConfig"],
    ),
    (
        "monitoring: {serviceMonitor: {tlsConfig: {keyFile: /var/run/secrets/token}}}",
        &["serviceMonitor.tlsConfig.keyFile", "keySecret"],
    ),
    (
        "monitoring: {prometheusRule: {thresholds: {HighConsumerlag: '5'}}}",
        &["no alert \"HighConsumerlag\"", "\"HighConsumerLag\""],
    ),
    (
        "monitoring: {prometheusRule: {thresholds: {AgentDown: '5'}}}",
        &["AgentDown has no threshold", "prometheusRule.for"],
    ),
    (
        "monitoring: {prometheusRule: {for: {AgentDwon: 5m}}}",
        &["no alert \"AgentDwon\"", "\"AgentDown\""],
    ),
    (
        "monitoring: {prometheusRule: {for: {AgentDown: soon}}}",
        &["for.AgentDown", "not a duration"],
    ),
    (
        "monitoring: {prometheusRule: {for: {AgentDown: 9999999h}}}",
        &["for.AgentDown", "at most a year"],
    ),
    (
        "monitoring: {prometheusRule: {thresholds: {HighConsumerLag: '1.2.3'}}}",
        &["HighConsumerLag", "not a number"],
    ),
    (
        "monitoring: {prometheusRule: {disabledAlerts: [DiskSpaceLow]}}",
        &["no alert \"DiskSpaceLow\""],
    ),
];

#[test]
fn what_no_schema_can_see_is_refused_and_says_what_to_do() {
    for (spec, parts) in REFUSED {
        let problem = problem_with(spec);
        assert_eq!(
            (problem.condition, problem.reason),
            (ConditionType::Ready, ConditionReason::InvalidSpec)
        );
        for part in *parts {
            assert!(problem.message.contains(part), "{spec}: {}", problem.message);
        }
        assert!(!problem.message.contains("hunter2"), "{}", problem.message);
    }
}

#[test]
fn monitoring_objects_stay_in_the_clusters_namespace_unless_the_settings_allow_another() {
    let spec = "monitoring: {serviceMonitor: {enabled: true, namespace: kube-system, tlsConfig: {}},
  prometheusRule: {enabled: true, namespace: monitoring}, dashboards: {enabled: true, namespace: team-a}}";
    let desired = desired_with(spec);
    assert_eq!(desired.service_monitor, None);
    assert!(desired.alerts.is_some() && desired.dashboard.is_some());
    let [problem] = desired.refused_monitoring.as_slice() else {
        panic!("{:?}", desired.refused_monitoring)
    };
    assert_eq!(
        (problem.condition, problem.reason),
        (
            ConditionType::MonitoringAvailable,
            ConditionReason::MonitoringNamespaceRefused
        )
    );
    for part in ["serviceMonitor.namespace", "kube-system", "monitoringNamespaces"] {
        assert!(problem.message.contains(part), "{problem}");
    }
    // What is not enabled is nobody's problem.
    let off = desired_with("monitoring: {serviceMonitor: {namespace: kube-system}}");
    assert_eq!(off.refused_monitoring, []);
}

#[test]
fn names_that_do_not_fit_are_refused() {
    for name in ["1events", "Events", &"e".repeat(41)] {
        let mut cluster = cluster_with("{}");
        cluster.metadata.name = Some(name.to_owned());
        let problem = validate(&cluster, &defaults()).unwrap_err();
        assert!(problem.message.contains("metadata.name"), "{name}");
    }
}

#[test]
fn a_cluster_without_a_uid_owns_nothing() {
    let mut cluster = cluster_with("{}");
    cluster.metadata.uid = None;
    assert_eq!(validate(&cluster, &defaults()).unwrap().owner, None);
}

#[test]
fn the_release_is_known_unless_the_image_is_ones_own() {
    for (spec, release) in [
        ("{}", Some("0.1.0")),
        ("version: 0.0.9", Some("0.0.9")),
        ("image: {repository: example.com/agent}", Some("0.1.0")),
        ("image: {tag: main}", None),
        (
            "image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}",
            None,
        ),
        ("{version: 0.0.9, image: {tag: main}}", Some("0.0.9")),
    ] {
        assert_eq!(desired_with(spec).release.as_deref(), release, "{spec}");
    }
}
