//! What clients are given.

use serde_json::json;

use super::*;

fn cluster(spec: serde_json::Value, status: serde_json::Value) -> StreamHouseCluster {
    let mut whole = json!({
        "apiVersion": "streamhouse.io/v1alpha1", "kind": "StreamHouseCluster", "metadata": { "name": "main" },
        "spec": { "postgresql": { "connectionSecret": { "name": "p" } }, "objectStorage": { "bucket": "records" } },
        "status": status,
    });
    for (name, value) in spec.as_object().unwrap() {
        whole["spec"][name] = value.clone();
    }
    serde_json::from_value(whole).unwrap()
}

fn access(user_name: &str, password: &str) -> ClientAccess {
    ClientAccess {
        user_name: user_name.to_owned(),
        password: password.to_owned(),
        mechanism: "SCRAM-SHA-512",
        address: ClientAddress {
            bootstrap: "main-kafka.shop.svc:9092".to_owned(),
            is_kafka: true,
            has_tls: true,
            certificate: Some("certificate".to_owned()),
            streamhouse: "main.shop.svc:50051".to_owned(),
            streamhouse_certificate: None,
        },
        authorities: String::new(),
        streamhouse_authorities: String::new(),
    }
}

#[test]
fn clients_start_with_the_files_as_they_are() {
    let files = client_files(&access("alice", "s3cret"));
    assert_eq!(
        files["client.properties"],
        "bootstrap.servers=main-kafka.shop.svc:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\n\
        sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"alice\" password=\"s3cret\";\n"
    );
    assert_eq!(
        files["librdkafka.conf"],
        "bootstrap.servers=main-kafka.shop.svc:9092\nsecurity.protocol=SASL_SSL\nsasl.mechanisms=SCRAM-SHA-512\n\
        sasl.username=alice\nsasl.password=s3cret\n"
    );
    assert_eq!(
        files["streamhouse.env"],
        "STREAMHOUSE_BOOTSTRAP=main.shop.svc:50051\nSTREAMHOUSE_USER=alice\nSTREAMHOUSE_PASSWORD=s3cret\n"
    );
    let keys: Vec<&str> = files.keys().copied().collect();
    let expected = [
        "bootstrap",
        "ca.crt",
        "client.properties",
        "librdkafka.conf",
        "password",
        "streamhouse-ca.crt",
        "streamhouse.env",
        "username",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn the_files_name_the_authorities_of_their_listeners() {
    let files = client_files(&ClientAccess {
        authorities: "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned(),
        streamhouse_authorities: "other".to_owned(),
        ..access("alice", "s3cret")
    });
    // Java reads the escapes as line feeds.
    let java = "\nssl.truststore.type=PEM\nssl.truststore.certificates=\
        -----BEGIN CERTIFICATE-----\\u000aAA==\\u000a-----END CERTIFICATE-----\\u000a\n";
    assert!(files["client.properties"].ends_with(java), "{files:?}");
    assert!(
        files["librdkafka.conf"].ends_with("\nssl.ca.location=ca.crt\n"),
        "{files:?}"
    );
    let environment = &files["streamhouse.env"];
    assert!(
        environment.ends_with("\nSTREAMHOUSE_CLIENT_TLS_CA=streamhouse-ca.crt\n"),
        "{environment}"
    );
    assert!(files["ca.crt"].starts_with("-----BEGIN"));
    assert_eq!(files["streamhouse-ca.crt"], "other");
    // Those of a listener without an authority do not get another's.
    let files = client_files(&ClientAccess {
        streamhouse_authorities: "other".to_owned(),
        ..access("alice", "s3cret")
    });
    assert!(!files["client.properties"].contains("truststore"));
    assert!(!files["librdkafka.conf"].contains("ssl.ca"));
}

#[test]
fn the_certificates_are_those_of_the_listeners_at_the_addresses() {
    let issued = json!({ "issuerRef": { "name": "internal-ca" } });
    let kafka = json!({ "name": "kafka", "type": "internal", "protocol": "kafka", "bootstrap": "k:9092" });
    let listeners =
        json!({ "grpc": { "tls": issued }, "kafka": { "enabled": true, "tls": { "secretName": "own" } } });
    let both = cluster(
        json!({ "listeners": listeners }),
        json!({ "bootstrap": "main:50051", "listeners": [kafka] }),
    );
    let address = ClientAddress::of(&both);
    assert_eq!(address.certificate.as_deref(), Some("own"));
    assert_eq!(address.streamhouse, "https://main:50051");
    assert_eq!(address.streamhouse_certificate.as_deref(), Some("main-grpc-tls"));
    let grpc = cluster(
        json!({ "listeners": listeners }),
        json!({ "bootstrap": "main:50051" }),
    );
    assert_eq!(
        ClientAddress::of(&grpc).certificate.as_deref(),
        Some("main-grpc-tls")
    );
}

#[test]
fn special_characters_are_escaped_as_each_reader_wants() {
    let files = client_files(&access("CN=o'neill", "a\"b\\c ü"));
    let java = &files["client.properties"];
    assert!(
        java.contains(r#"username="CN=o'neill" password="a\\"b\\\\c \u00fc";"#),
        "{java}"
    );
    let shell = &files["streamhouse.env"];
    assert!(shell.contains(r"STREAMHOUSE_USER='CN=o'\''neill'"), "{shell}");
    assert!(shell.contains("STREAMHOUSE_PASSWORD='a\"b\\c ü'"), "{shell}");
    assert!(!format!("{:?}", access("alice", "hush")).contains("hush"));
}

#[test]
fn kafka_clients_are_given_the_address_of_a_kafka_listener() {
    let kafka = json!({ "name": "kafka", "type": "internal", "protocol": "kafka", "bootstrap": "k:9092" });
    let other = json!({ "name": "web", "type": "nodeport", "protocol": "kafka", "bootstrap": "n:30000" });
    let grpc = json!({ "name": "g", "type": "nodeport", "protocol": "grpc", "bootstrap": "g:30001" });
    let tls = json!({ "secretName": "certificate" });
    let own = cluster(
        json!({ "listeners": { "kafka": { "enabled": true, "tls": tls } } }),
        json!({ "bootstrap": "main:50051", "listeners": [kafka, other] }),
    );
    let address = ClientAddress::of(&own);
    assert_eq!(
        (address.bootstrap.as_str(), address.is_kafka, address.has_tls),
        ("k:9092", true, true)
    );
    let further = cluster(
        json!({ "listeners": { "additional": [{ "name": "web", "type": "nodeport", "protocol": "kafka", "port": 9100 }] } }),
        json!({ "bootstrap": "main:50051", "listeners": [grpc, other] }),
    );
    let address = ClientAddress::of(&further);
    assert_eq!(
        (address.bootstrap.as_str(), address.is_kafka, address.has_tls),
        ("n:30000", true, false)
    );
    let none = ClientAddress::of(&cluster(
        json!({}),
        json!({ "bootstrap": "main:50051", "listeners": [grpc] }),
    ));
    assert_eq!((none.bootstrap.as_str(), none.is_kafka), ("main:50051", false));
    let files = client_files(&ClientAccess {
        address: none,
        ..access("a", "b")
    });
    assert!(!files["client.properties"].contains("bootstrap.servers"));
}

#[test]
fn the_mechanism_is_the_strongest_that_the_cluster_allows() {
    let of = |allowed: serde_json::Value, own: &[&'static str]| {
        let spec = match allowed.is_null() {
            true => json!({}),
            false => json!({ "authentication": { "mechanisms": allowed } }),
        };
        client_mechanism(&cluster(spec, json!({})), own.iter().copied())
    };
    let both = ["SCRAM-SHA-256", "SCRAM-SHA-512"];
    assert_eq!(of(json!(["SCRAM-SHA-256"]), &both), "SCRAM-SHA-256");
    assert_eq!(
        of(json!(["SCRAM-SHA-256", "SCRAM-SHA-512"]), &both),
        "SCRAM-SHA-512"
    );
    assert_eq!(of(json!(null), &both), "SCRAM-SHA-512");
    assert_eq!(of(json!(["PLAIN"]), &both[..1]), "SCRAM-SHA-256");
}
