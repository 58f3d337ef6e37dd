//! Listeners files that are taken, and those that are refused with the reason.

use tempfile::TempDir;

use super::*;

const FILE: &str = r#"
listeners:
  - name: external
    listen: "[::]:9094"
    tls: true
    address: "broker.example.com:9094"
    agents:
      my-cluster-agents-abc: "node1.example.com:31001"
  - name: nodes
    protocol: kafka
    listen: 0.0.0.0:9095
"#;

#[test]
fn yaml_and_json_are_read_alike() {
    let listeners = parse(FILE.as_bytes()).unwrap();
    let [external, nodes] = listeners.as_slice() else {
        panic!("{listeners:?}")
    };
    assert_eq!(
        (external.name.as_str(), external.listen.as_str(), external.tls),
        ("external", "[::]:9094", true)
    );
    assert_eq!(
        external.addresses.shared.as_deref(),
        Some("broker.example.com:9094")
    );
    assert_eq!(
        external.addresses.agents["my-cluster-agents-abc"],
        "node1.example.com:31001"
    );
    assert_eq!(
        (nodes.tls, &nodes.addresses),
        (false, &ListenerAddresses::default())
    );
    assert_eq!(
        (external.protocol, nodes.protocol),
        (ListenerProtocol::Grpc, ListenerProtocol::Kafka)
    );
    let json = r#"{"listeners": [
        {"name": "external", "listen": "[::]:9094", "tls": true, "address": "broker.example.com:9094",
         "agents": {"my-cluster-agents-abc": "node1.example.com:31001"}},
        {"name": "nodes", "protocol": "kafka", "listen": "0.0.0.0:9095", "agents": {}}]}"#;
    assert_eq!(parse(json.as_bytes()).unwrap(), listeners);
    assert_eq!(parse(b"listeners: []").unwrap(), []);
}

#[test]
fn what_cannot_be_served_is_refused_with_what_to_change() {
    let one = |fields: &str| format!("listeners: [{{{fields}}}]");
    let many: Vec<String> = (0..=MAX_LISTENERS)
        .map(|n| format!("{{name: l{n}, listen: 'a:{}'}}", n + 1))
        .collect();
    for (file, reason) in [
        (String::new(), "listeners"),
        ("listeners".to_owned(), "invalid type"),
        ("listener: []".to_owned(), "unknown field `listener`"),
        (one("name: a, listen: 'a:1', port: 1"), "unknown field `port`"),
        (one("name: a"), "missing field `listen`"),
        (one("name: Upper, listen: 'a:1'"), "\"Upper\": the name must be"),
        (
            one("name: a-name-of-26-characters-abc, listen: 'a:1'"),
            "the name must be 1 to 25",
        ),
        (one("name: -a, listen: 'a:1'"), "the name must be"),
        (one("name: '../../etc', listen: 'a:1'"), "the name must be"),
        (one("name: grpc, listen: 'a:1'"), "built-in listener"),
        (one("name: http, listen: 'a:1'"), "built-in listener"),
        (one("name: kafka, listen: 'a:1'"), "built-in listener"),
        (
            one("name: a, listen: 'a:1', protocol: http"),
            "unknown variant `http`",
        ),
        (
            one("name: a, listen: 'a:1', protocol: kafka, address: 'b:1'"),
            "an address for each agent",
        ),
        (one("name: a, listen: 'a'"), "listen: \"a\" is not host:port"),
        (
            one("name: a, listen: 'a:1', address: b"),
            "address: \"b\" is not an address",
        ),
        (
            one("name: a, listen: 'a:1', agents: {x: 'b:0'}"),
            "agents.x: \"b:0\" is not",
        ),
        (
            "listeners: [{name: a, listen: 'a:1'}, {name: a, listen: 'a:2'}]".to_owned(),
            "names are unique",
        ),
        (
            "listeners: [{name: a, listen: 'a:1'}, {name: b, listen: 'a:1'}]".to_owned(),
            "a port of its own",
        ),
        (format!("listeners: [{}]", many.join(", ")), "at most 16"),
    ] {
        let error = parse(file.as_bytes()).unwrap_err().to_string();
        assert!(
            error.starts_with("listeners-file: ") && error.contains(reason),
            "{file}: {error}"
        );
    }
}

#[tokio::test]
async fn a_file_that_is_missing_or_too_large_is_not_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("listeners.yaml");
    let error = read(&path).await.unwrap_err().to_string();
    assert!(
        error.contains("cannot read") && error.contains("listeners.yaml"),
        "{error}"
    );
    let size = usize::try_from(MAX_FILE_BYTES).unwrap();
    std::fs::write(&path, "#".repeat(size)).unwrap();
    assert_eq!(read(&path).await.unwrap().len(), size);
    std::fs::write(&path, "#".repeat(size + 1)).unwrap();
    let error = read(&path).await.unwrap_err().to_string();
    assert!(error.contains("larger than"), "{error}");
}

#[test]
fn aliases_cannot_make_a_small_file_large() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = vec![format!("*a{}", n - 1); 10].join(", ");
        bomb += &format!("a{n}: &a{n} [{before}]\n");
    }
    parse(bomb.as_bytes()).unwrap_err();
}
