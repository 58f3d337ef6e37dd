//! The console of a whole agent: its data compared with the agent's state, its limits, its headers,
//! and that it is off by default.

mod login;
mod records;

use serde_json::Value;
use streamhouse_core::{kafka::ApiKey, protocol::v1::group_service_client::GroupServiceClient};
use streamhouse_metadata::{GROUP_SLOTS, GroupQuery};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;

/// An HTTP response: status, headers in lower case, body.
struct HttpAnswer {
    status: u16,
    headers: String,
    /// The value of `Set-Cookie`.
    cookie: Option<String>,
    body: String,
}

impl HttpAnswer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Sends a request line and headers, and reads the whole response.
async fn send_request(agent: &Agent, request: &str, headers: &str) -> HttpAnswer {
    let mut stream = TcpStream::connect(agent.addresses().1).await.unwrap();
    let request = format!("{request} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

async fn read_answer(mut stream: TcpStream) -> HttpAnswer {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    HttpAnswer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        headers: format!("{}\r\n", head.to_ascii_lowercase()),
        cookie: head
            .lines()
            .find_map(|line| {
                Some(line.split_once(": ")?).filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"))
            })
            .map(|(_, value)| value.to_owned()),
        body: body.to_owned(),
    }
}

async fn get(agent: &Agent, path: &str) -> HttpAnswer {
    send_request(agent, &format!("GET {path}"), "host: localhost\r\n").await
}

pub(super) async fn get_data(agent: &Agent, what: &str) -> Value {
    let answer = get(agent, &format!("/console/api/{what}")).await;
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    answer.json()
}

async fn get_error_code(agent: &Agent, what: &str) -> (u16, String) {
    let answer = get(agent, &format!("/console/api/{what}")).await;
    (answer.status, answer.code())
}

async fn produce_batch(agent: &Agent, topic: &str, values: &[Vec<u8>]) {
    let mut batch = BatchBuilder::new(Compression::Lz4);
    for value in values {
        let headers = [("trace", Some("a-1")), ("none", None)];
        batch.append(7, Some(b"k"), Some(value), &headers).unwrap();
    }
    let part = v1::PartitionProduce {
        topic: topic.to_owned(),
        partition: 0,
        records: batch.finish().unwrap(),
        topic_id: String::new(),
    };
    let request = v1::ProduceRequest {
        request_id: 1,
        partitions: vec![part],
        ..v1::ProduceRequest::default()
    };
    let result = handler::accept(&agent.node.produce(), request)
        .await
        .finish(&agent.node.produce())
        .await;
    assert_eq!(result.partitions[0].error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_nothing_of_it_is_there() {
    let dir = TempDir::new().unwrap();
    let one = Agent::start(settings(dir.path(), "one", &["--console=false"]))
        .await
        .unwrap();
    for path in [
        "/",
        "/console",
        "/console/",
        "/console/app.js",
        "/console/api/overview",
    ] {
        let answer = get(&one, path).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, ""), "{path}");
    }
    assert_eq!(get(&one, "/health").await.status, 200);
    one.drain().await;
    let defaults = streamhouse_core::settings::AgentSettings::defaults;
    assert!(
        defaults(true).console && !defaults(false).console,
        "off in production"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_keeps_browsers_from_doing_anything_but_showing_it() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    let there = get(&one, "/").await;
    assert!(there.status == 307 && there.headers.contains("location: /console/"));
    for path in [
        "/console/",
        "/console/app.js",
        "/console/nothing.js",
        "/console/api/overview",
        "/console/api/nothing",
    ] {
        let answer = get(&one, path).await;
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "x-frame-options: deny",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.headers.contains(header), "{path}: {}", answer.headers);
        }
        assert!(!answer.headers.contains("access-control"), "{path}");
        assert!(!answer.headers.contains("unsafe"), "{path}");
        assert_eq!(
            answer.status,
            if path.contains("nothing") { 404 } else { 200 },
            "{path}"
        );
    }
    assert!(
        get(&one, "/console/app.js")
            .await
            .headers
            .contains("content-type: text/javascript")
    );
    assert!(
        !get(&one, "/metrics")
            .await
            .headers
            .contains("content-security-policy")
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_only_answers_who_may_ask_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    for (headers, status) in [
        ("host: localhost:8080\r\n", 200),
        ("host: [::1]:8080\r\n", 200),
        ("host: rebound.example\r\n", 403),
        ("host: localhost\r\nsec-fetch-site: same-origin\r\n", 200),
        ("host: localhost\r\nsec-fetch-site: none\r\n", 200),
        ("host: localhost\r\nsec-fetch-site: cross-site\r\n", 403),
        ("host: localhost\r\nsec-fetch-site: same-site\r\n", 403),
    ] {
        let answer = send_request(&one, "GET /console/api/overview", headers).await;
        assert_eq!(answer.status, status, "{headers}");
        assert_eq!(answer.body.contains("cluster_id"), status == 200, "{headers}");
    }
    let answer = send_request(&one, "GET /console/", "host: rebound.example\r\n").await;
    assert!(
        answer.status == 403 && !answer.body.contains("html"),
        "{}",
        answer.body
    );
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        for path in [
            "/console/",
            "/console/api/topics",
            "/console/api/topic?name=orders",
        ] {
            let answer = send_request(&one, &format!("{method} {path}"), "host: localhost\r\n").await;
            assert_eq!(answer.status, 405, "{method} {path}");
        }
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_found_and_shown_in_parts() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    assert_eq!(get_data(&one, "topics").await["total"], 0);
    for (name, partitions) in [("orders", 3), ("payments", 1), ("Order.archive", 2)] {
        create_topic(&one, name, partitions).await;
    }
    for _ in 0..5 {
        produce(&one, "orders", 1, "x").await.unwrap();
    }
    let names = async |query: &str| -> Vec<String> {
        let list = get_data(&one, &format!("topics?{query}")).await;
        let topics = list["topics"].as_array().unwrap().iter();
        topics
            .map(|topic| topic["name"].as_str().unwrap().to_owned())
            .collect()
    };
    // The list is cached briefly by the real clock.
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while get_data(&one, "topics").await["topics"][1]["records"] != 5 {
        assert!(Instant::now() < deadline, "the list never shows the records");
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(names("").await, ["Order.archive", "orders", "payments"]);
    assert_eq!(names("filter=ORDER").await, ["Order.archive", "orders"]);
    assert_eq!(
        names("sort=partitions&limit=2").await,
        ["orders", "Order.archive"]
    );
    assert_eq!(names("sort=records&limit=1").await, ["orders"]);
    assert_eq!(names("offset=2&limit=999999").await, ["payments"]);
    assert_eq!(names("filter=%3Cb%3E").await, [""; 0]);
    let list = get_data(&one, "topics?filter=order").await;
    assert_eq!((&list["total"], &list["matched"]), (&3.into(), &2.into()));
    for bad in ["sort=cost", "limit=x", "offset=-1", "filtre=x"] {
        let refused = get_error_code(&one, &format!("topics?{bad}")).await;
        assert_eq!(refused, (400, "INVALID_REQUEST".to_owned()), "{bad}");
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_and_an_agent_are_shown_as_the_agent_knows_them() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 3).await;
    produce(&one, "orders", 2, "x").await.unwrap();
    let shown = get_data(&one, "topic?name=orders&offset=1&limit=2").await;
    let known = topics::describe(&one.node.topics(), "orders").await.unwrap();
    assert_eq!(
        (&shown["total"], &shown["topic_id"]),
        (&3.into(), &known.topic_id.into())
    );
    let rows = shown["partitions"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, known) in rows.iter().zip(&known.partitions[1..]) {
        assert_eq!(row["partition"], known.partition);
        assert_eq!(row["leader"], "one");
        assert_eq!(row["leader_epoch"], known.leader.as_ref().unwrap().epoch);
        assert_eq!(row["high_watermark"], known.high_watermark);
        assert_eq!(row["size_bytes"], known.size_bytes);
    }
    let gone = get_error_code(&one, "topic?name=gone").await;
    assert_eq!(gone, (404, "UNKNOWN_TOPIC_OR_PARTITION".to_owned()));

    let agents = get_data(&one, "agents").await;
    let row = &agents["agents"][0];
    assert_eq!((&row["agent_id"], &row["this"]), (&"one".into(), &true.into()));
    assert_eq!(
        (&row["leases"], &row["group_slots"]),
        (&3.into(), &GROUP_SLOTS.into())
    );
    assert_eq!(row["incarnation"], incarnation(&one).unwrap().0);
    let leases = get_data(&one, "agent?id=one&limit=500").await;
    assert_eq!(leases["total"], 3 + GROUP_SLOTS);
    assert_eq!(
        leases["partitions"].as_array().unwrap().len() as i32,
        3 + GROUP_SLOTS
    );
    assert_eq!(get_error_code(&one, "agent?id=two").await.0, 404);

    let overview = get_data(&one, "overview").await;
    assert_eq!(overview["counts"]["partitions"], 3);
    assert_eq!(overview["counts"]["leaderless"], 0);
    assert!(
        overview["ready"] == true
            && overview["conditions"].as_array().unwrap().len() == ReadinessCondition::ALL.len()
    );
    one.drain().await;
}

/// Commits an offset at the agent that coordinates the group, and returns that agent.
async fn commit_to_coordinator<'a>(agents: &[&'a Agent], group: &str, offset: i64) -> &'a Agent {
    let request = v1::CommitOffsetsRequest {
        group_id: group.to_owned(),
        generation: -1,
        offsets: vec![v1::CommitOffset {
            topic: "orders".to_owned(),
            partition: 0,
            offset,
            leader_epoch: -1,
            metadata: String::new(),
            topic_id: String::new(),
        }],
        ..v1::CommitOffsetsRequest::default()
    };
    let deadline = Instant::now() + EVENT_TIMEOUT;
    for agent in agents.iter().cycle() {
        let address = format!("http://{}", agent.addresses().0);
        let mut client = GroupServiceClient::connect(address).await.unwrap();
        match client.commit_offsets(request.clone()).await {
            Ok(answer) => {
                assert_eq!(answer.into_inner().offsets[0].error, None);
                return agent;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
    unreachable!("there are agents")
}

#[tokio::test(flavor = "multi_thread")]
async fn any_agent_shows_a_group_with_its_lag() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 2).await;
    let two = start_agent(dir.path(), "two").await;
    wait_until("both lead the same", || {
        (led_count(&one), led_count(&two)) == (1, 1)
    })
    .await;
    for _ in 0..7 {
        produce_to_any(&[&one, &two], "orders", "x").await;
    }
    let id = "billing/<b>&?";
    let coordinator = commit_to_coordinator(&[&one, &two], id, 3).await;
    let other = if std::ptr::eq(coordinator, &one) {
        &two
    } else {
        &one
    };
    assert!(
        other
            .node
            .metadata
            .groups(&GroupQuery::Id(id.to_owned()))
            .await
            .unwrap()
            .len()
            == 1,
        "it is stored"
    );
    for agent in [coordinator, other] {
        let shown = get_data(agent, "group?id=billing/%3Cb%3E%26%3F").await;
        assert_eq!(
            (&shown["group_id"], &shown["state"]),
            (&id.into(), &"Empty".into())
        );
        assert_eq!((&shown["lag"], &shown["total"]), (&4.into(), &1.into()));
        let place = &shown["partitions"][0];
        assert_eq!(
            (&place["committed"], &place["high_watermark"]),
            (&3.into(), &7.into())
        );
        let list = get_data(agent, "groups?filter=BILL").await;
        assert_eq!(list["groups"][0]["lag"], 4);
        assert_eq!(list["groups"][0]["group_id"], id);
        assert_eq!(
            get_error_code(agent, "group?id=nobody").await,
            (404, "GROUP_ID_NOT_FOUND".to_owned())
        );
        assert_eq!(
            get_error_code(agent, "group?id=").await,
            (400, "INVALID_GROUP_ID".to_owned())
        );
    }
    one.drain().await;
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_come_from_counters_that_there_are() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    // A series exists only after its first event.
    drop(one.node.metrics.start_request("Fetch"));
    one.node.metrics.record_grpc_error("Fetch", ErrorCode::Unknown);
    let kafka = &one.node.metrics.kafka;
    drop(kafka.start_request(ApiKey::Fetch, 16));
    kafka.record_answer(ApiKey::Fetch, &[1], Duration::ZERO);
    let before = get_data(&one, "rates").await;
    produce(&one, "orders", 0, "x").await.unwrap();
    let after = get_data(&one, "rates").await;
    assert_eq!(after["agent"], {
        let mut same = before["agent"].clone();
        same["uptime_ms"] = after["agent"]["uptime_ms"].clone();
        same
    });
    let more =
        |name: &str| after["values"][name].as_f64().unwrap() - before["values"][name].as_f64().unwrap();
    assert_eq!((more("produced_records"), more("produced_batches")), (1.0, 1.0));
    // Those of both protocols.
    assert_eq!(after["values"]["fetch_requests"], 2.0);
    assert!(more("store_puts") >= 1.0 && more("produced_bytes") > 1.0);
    for (name, ..) in crate::console::EXPOSED_METRICS {
        assert!(after["values"][name].is_number(), "{name} names no metric");
    }
    assert_eq!(after["write_latency"]["count"], 1);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_at_once_are_sent_back_and_a_store_that_is_away_is_said() {
    let dir = TempDir::new().unwrap();
    let deferred = Arc::new(DeferredMetadataStore::default());
    let one = Agent::start_with_deferred_metadata(
        settings(dir.path(), "one", &[]),
        deferred.clone(),
        OptionalTracer::default(),
    )
    .await
    .unwrap();
    wait_until("it is ready", || one.node.health.is_ready()).await;
    create_topic(&one, "orders", 1).await;
    // Reads wait for memory that is taken; further requests find every slot occupied.
    let taken = one.node.memory.fetch.acquire(usize::MAX).await.unwrap();
    produce(&one, "orders", 0, "x").await.unwrap();
    let asks = (0..64).map(|_| get_error_code(&one, "records?topic=orders&partition=0"));
    let answers = futures::future::join_all(asks).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer == (503, "RESOURCE_EXHAUSTED".to_owned())),
        "{answers:?}"
    );
    drop(taken);
    assert_eq!(
        get_error_code(&one, "records?topic=orders&partition=0").await.0,
        200
    );

    deferred.disconnected.store(true, Ordering::Release);
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while get_error_code(&one, "topics").await != (503, "METADATA_UNAVAILABLE".to_owned()) {
        assert!(
            Instant::now() < deadline,
            "the list is never said to be unavailable"
        );
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(get(&one, "/console/").await.status, 200);
    wait_until("it is not ready", || !one.node.health.is_ready()).await;
    let overview = get_data(&one, "overview").await;
    assert_eq!(overview["ready"], false);
    deferred.disconnected.store(false, Ordering::Release);
    one.drain().await;
}
