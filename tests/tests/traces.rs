//! Traces with a real receiver: one trace leads from a producer through agent, upload and commit to
//! a consumer; without the variables there is none; and an unavailable receiver affects nothing
//! else.

use std::time::Duration;

use anyhow::Context as _;
use streamhouse_client::{
    Admin, AutoOffsetReset, Consumer, OwnedRecord, Producer, Record, TopicPartition,
    admin::NewTopic,
    opentelemetry::{
        Context,
        trace::{
            self, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
            TracerProvider,
        },
    },
};
use streamhouse_core::{
    batch::Compression,
    protocol::v1,
    trace::otlp::{self, TraceExporter},
};
use streamhouse_testkit::{AgentProcess, CliRunner, OtelCollector, ReceivedSpan, ReservedPort};
use streamhouse_tests::{cluster::TestCluster, raw};

type TestResult = anyhow::Result<()>;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Delay before a batch of spans is sent, in milliseconds.
const EXPORT_DELAY: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "50");
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts an exporter with this service name, like a program would.
fn start_exporter(service: &'static str, endpoint: &str) -> anyhow::Result<TraceExporter> {
    let variable = |name: &str| (name == ENDPOINT).then(|| endpoint.to_owned());
    let exporter = otlp::start(service, Vec::new(), variable).map_err(anyhow::Error::msg)?;
    exporter.context("an endpoint was given")
}

/// Starts an embedded agent and creates a topic with one partition.
async fn start_embedded_agent(
    folder: &std::path::Path,
    variables: &[(&str, &str)],
) -> anyhow::Result<AgentProcess> {
    let builder = variables
        .iter()
        .fold(AgentProcess::builder().dev(folder), |builder, (key, value)| {
            builder.env(*key, *value)
        });
    let mut agent = builder.spawn()?;
    agent.wait_ready()?;
    let admin = Admin::connect(agent.bootstrap())?;
    admin.create_topic(NewTopic::new("orders", 1)).await?;
    admin.wait_for_topic("orders", TEST_TIMEOUT).await?;
    Ok(agent)
}

/// Reads this many records from the start of the only partition.
async fn read_records(
    bootstrap: &str,
    exporter: Option<&TraceExporter>,
    records: usize,
) -> anyhow::Result<Vec<OwnedRecord>> {
    let mut builder = Consumer::builder()
        .bootstrap(bootstrap)
        .group("billing")
        .auto_commit(None)
        .assign([TopicPartition::new("orders", 0)])
        .auto_offset_reset(AutoOffsetReset::Earliest);
    if let Some(exporter) = exporter {
        builder = builder.tracer_provider(exporter.provider());
    }
    let mut consumer = builder.build().await?;
    let mut read = Vec::new();
    let all = async {
        while read.len() < records {
            let polled = consumer.poll(Duration::from_secs(10)).await?;
            read.extend(polled.iter().map(|record| record.to_owned()));
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(TEST_TIMEOUT, all).await??;
    consumer.close().await?;
    Ok(read)
}

/// Runs a future with `context` as the current one.
fn with_current_context<F: Future>(context: Context, work: F) -> impl Future<Output = F::Output> {
    trace::FutureExt::with_context(work, context)
}

fn header_text(record: &OwnedRecord, name: &str) -> Option<String> {
    let (_, value) = record.headers.iter().find(|(key, _)| key == name)?;
    Some(String::from_utf8_lossy(value.as_ref()?).into_owned())
}

/// Returns the only span with this name and kind.
fn find_only_span<'a>(spans: &'a [ReceivedSpan], name: &str, kind: &str) -> Option<&'a ReceivedSpan> {
    let mut found = spans.iter().filter(|span| span.name == name && span.kind == kind);
    found.next().filter(|_| found.next().is_none())
}

/// Sends a record of the service `shop` within a span `checkout`. Returns the record's offset.
async fn send_order(bootstrap: &str, endpoint: &str) -> anyhow::Result<i64> {
    let shop = start_exporter("shop", endpoint)?;
    let producer = Producer::builder()
        .bootstrap(bootstrap)
        .tracer_provider(shop.provider())
        .build()
        .await?;
    let tracer = shop.provider().tracer("shop");
    let checkout = Context::new().with_span(tracer.start_with_context("checkout", &Context::new()));
    let record = Record::new("orders", "two pounds of tea").with_header("kind", "tea");
    let delivery = with_current_context(checkout.clone(), producer.send(record)).await?;
    let stored = delivery.await?;
    checkout.span().end();
    producer.close(TEST_TIMEOUT).await?;
    shop.shutdown(TEST_TIMEOUT).await;
    Ok(stored.offset)
}

/// Reads the record as the service `billing`, within a span that continues the record's trace.
async fn receive_order(bootstrap: &str, endpoint: &str) -> anyhow::Result<OwnedRecord> {
    let billing = start_exporter("billing", endpoint)?;
    let mut records = read_records(bootstrap, Some(&billing), 1).await?;
    let record = records.pop().context("one record")?;
    let tracer = billing.provider().tracer("billing");
    drop(tracer.start_with_context("bill", &record.trace_context()));
    billing.shutdown(TEST_TIMEOUT).await;
    Ok(record)
}

const PRODUCE_SPAN: &str = "streamhouse.v1.DataService/Produce";
/// The expected spans: name, kind, service, and index of the parent.
const EXPECTED_TRACE: [(&str, &str, &str, Option<usize>); 8] = [
    ("checkout", "INTERNAL", "shop", None),
    ("send orders", "PRODUCER", "shop", Some(0)),
    (PRODUCE_SPAN, "CLIENT", "shop", Some(1)),
    (PRODUCE_SPAN, "SERVER", "streamhouse-agent", Some(2)),
    ("PUT", "CLIENT", "streamhouse-agent", Some(3)),
    ("commit", "CLIENT", "streamhouse-agent", Some(3)),
    ("receive orders", "CONSUMER", "billing", Some(1)),
    ("bill", "INTERNAL", "billing", Some(1)),
];

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_producer_through_upload_and_commit_to_the_consumer() -> TestResult {
    let collector = OtelCollector::start()?;
    let endpoint = collector.endpoint();
    let cluster = TestCluster::start(1, &[(ENDPOINT, &endpoint), EXPORT_DELAY])?;
    cluster.create_topic("orders", 1).await?;
    let offset = send_order(&cluster.bootstrap(), &endpoint).await?;
    let record = receive_order(&cluster.bootstrap(), &endpoint).await?;
    let spans = collector.wait_for("the whole trace", |spans| {
        let of = |(name, kind, ..): (&str, &str, _, _)| find_only_span(spans, name, kind).cloned();
        EXPECTED_TRACE.into_iter().map(of).collect::<Option<Vec<_>>>()
    })?;
    assert_eq!(
        collector.spans()?.len(),
        EXPECTED_TRACE.len(),
        "{:#?}",
        collector.spans()
    );
    for (span, (_, _, service, parent)) in spans.iter().zip(EXPECTED_TRACE) {
        assert_eq!(span.trace_id, spans[0].trace_id, "{span:#?}");
        assert_eq!(span.service, service, "{span:#?}");
        assert_eq!(
            span.parent,
            parent.map_or("", |parent| &spans[parent].span_id),
            "{span:#?}"
        );
        assert_eq!(span.error, None, "{span:#?}");
    }
    let [_, send, request, served, put, commit, receive, _] = &spans[..] else {
        anyhow::bail!("eight spans: {spans:#?}");
    };
    assert!(put.end <= commit.start, "stored before it is committed");
    assert!(
        commit.end <= served.end && served.end <= send.end,
        "acknowledged after both"
    );

    let carried = format!("00-{}-{}-01", send.trace_id, send.span_id);
    assert_eq!(header_text(&record, "traceparent"), Some(carried));
    assert_eq!(header_text(&record, "kind").as_deref(), Some("tea"));
    for span in [send, receive] {
        assert_eq!(span.attribute("messaging.system"), "streamhouse");
        assert_eq!(span.attribute("messaging.destination.name"), "orders");
        assert_eq!(span.attribute("messaging.destination.partition.id"), "0");
        assert_eq!(span.attribute("messaging.kafka.offset"), offset.to_string());
    }
    assert_eq!(receive.attribute("messaging.consumer.group.name"), "billing");
    let port = cluster.agents[0].grpc().port().to_string();
    assert_eq!(request.attribute("server.port"), port);
    assert_eq!(commit.attribute("db.system.name"), "postgresql");
    let objects = cluster.minio().objects(&cluster.bucket)?;
    assert!(
        objects
            .iter()
            .any(|key| key == put.attribute("streamhouse.object.key")),
        "{objects:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_tried_again_says_so_in_its_span_and_its_log_lines_name_the_trace() -> TestResult {
    let collector = OtelCollector::start()?;
    let endpoint = collector.endpoint();
    let settings = [
        (ENDPOINT, endpoint.as_str()),
        EXPORT_DELAY,
        ("STREAMHOUSE_LOG_FORMAT", "json"),
        // Longer than a slow machine needs to start the store again: the agent gives up then.
        ("STREAMHOUSE_LEASE_TTL", "30s"),
    ];
    let mut cluster = TestCluster::start_with_own_servers(1, &settings)?;
    cluster.create_topic("orders", 1).await?;
    let shop = start_exporter("shop", &endpoint)?;
    let producer = Producer::builder()
        .bootstrap(cluster.bootstrap())
        .tracer_provider(shop.provider())
        .build()
        .await?;
    cluster.minio().stop()?;
    let delivery = producer.send(Record::new("orders", "tea")).await?;
    let agent = cluster.agents[0].process();
    let line = streamhouse_testkit::wait_until("a line about the next try", TEST_TIMEOUT, || {
        let said = agent.stderr();
        let tried = said.lines().find(|line| line.contains("failed, trying again"));
        Ok(tried.map(str::to_owned))
    })?;
    cluster.minio().start_again()?;
    delivery.await?;
    shop.shutdown(TEST_TIMEOUT).await;

    let put = collector.wait_for("the upload's span", |spans| {
        find_only_span(spans, "PUT", "CLIENT").cloned()
    })?;
    assert!(put.events.iter().any(|event| event == "retry"), "{put:#?}");
    assert_eq!(put.error, None);
    let line: serde_json::Value = serde_json::from_str(&line)?;
    assert_eq!(line["span"]["trace_id"], put.trace_id, "{line}");
    assert_eq!(line["span"]["span_id"], put.span_id, "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_traces_in_one_object_are_linked_and_the_links_are_bounded() -> TestResult {
    let collector = OtelCollector::start()?;
    let endpoint = collector.endpoint();
    let folder = tempfile::tempdir()?;
    let agent = start_embedded_agent(folder.path(), &[(ENDPOINT, &endpoint), EXPORT_DELAY]).await?;
    let shop = start_exporter("shop", &endpoint)?;
    let producer = Producer::builder()
        .bootstrap(agent.bootstrap())
        .linger(Duration::from_secs(30))
        .tracer_provider(shop.provider())
        .build()
        .await?;
    for number in 0..50 {
        drop(producer.send(Record::new("orders", format!("{number}"))).await?);
    }
    producer.close(TEST_TIMEOUT).await?;
    shop.shutdown(TEST_TIMEOUT).await;
    let spans = collector.wait_for("the commit", |spans| {
        find_only_span(spans, "commit", "CLIENT").map(|_| spans.to_vec())
    })?;
    let sends: Vec<_> = spans.iter().filter(|span| span.kind == "PRODUCER").collect();
    assert_eq!(sends.len(), 50, "each is the root of a trace");
    assert!(sends.iter().all(|span| span.parent.is_empty()));
    let request =
        find_only_span(&spans, "streamhouse.v1.DataService/Produce", "CLIENT").context("one request")?;
    let first = sends
        .iter()
        .find(|span| span.span_id == request.parent)
        .context("its parent")?;
    assert_eq!(first.trace_id, request.trace_id);
    assert_eq!(request.links.len(), 32);
    assert!(
        request
            .links
            .iter()
            .all(|link| sends.iter().any(|span| span.span_id == *link))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_is_traced_by_the_same_variables() -> TestResult {
    let collector = OtelCollector::start()?;
    let endpoint = collector.endpoint();
    let folder = tempfile::tempdir()?;
    let mut agent = start_embedded_agent(folder.path(), &[(ENDPOINT, &endpoint), EXPORT_DELAY]).await?;
    let cli = CliRunner::new(agent.bootstrap()).env(ENDPOINT, &endpoint);
    cli.run_with_input(["produce", "orders"], "tea\n")?
        .ensure_success()?;
    let read = ["consume", "orders", "--from-beginning", "--exit-at-end"];
    cli.clone()
        .env("OTEL_SERVICE_NAME", "auditor")
        .run(read)?
        .ensure_success()?;
    let (send, receive) = collector.wait_for("both ends", |spans| {
        let send = find_only_span(spans, "send orders", "PRODUCER")?;
        Some((
            send.clone(),
            find_only_span(spans, "receive orders", "CONSUMER")?.clone(),
        ))
    })?;
    assert_eq!(
        (&receive.trace_id, &receive.parent),
        (&send.trace_id, &send.span_id)
    );
    assert_eq!(
        (send.service.as_str(), receive.service.as_str()),
        ("streamhouse", "auditor")
    );

    let never = cli.clone().env("OTEL_TRACES_SAMPLER", "always_off");
    never
        .run_with_input(["produce", "orders"], "coffee\n")?
        .ensure_success()?;
    let records = self::read_records(&agent.bootstrap(), None, 2).await?;
    assert!(records[0].headers.iter().any(|(name, _)| name == "traceparent"));
    assert_eq!(records[1].headers, []);
    agent.drain()?;
    let spans = collector.spans()?;
    assert_eq!(
        spans.len(),
        6,
        "what is not sampled has no span anywhere: {spans:#?}"
    );
    assert!(
        spans.iter().all(|span| span.trace_id == send.trace_id),
        "{spans:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_sampled_has_no_span_and_keeps_the_context_it_brought() -> TestResult {
    let collector = OtelCollector::start()?;
    let endpoint = collector.endpoint();
    let folder = tempfile::tempdir()?;
    let mut agent = start_embedded_agent(folder.path(), &[(ENDPOINT, &endpoint), EXPORT_DELAY]).await?;
    let shop = start_exporter("shop", &endpoint)?;
    let producer = Producer::builder()
        .bootstrap(agent.bootstrap())
        .tracer_provider(shop.provider())
        .build()
        .await?;
    let context = |flags| {
        let (trace, span) = (TraceId::from(7), SpanId::from(9));
        Context::new().with_remote_span_context(SpanContext::new(
            trace,
            span,
            flags,
            true,
            TraceState::default(),
        ))
    };
    let unsampled = context(TraceFlags::NOT_SAMPLED);
    let sent = with_current_context(unsampled.clone(), producer.send(Record::new("orders", "current")));
    sent.await?.await?;
    let record = Record::new("orders", "brought").with_trace_context(&unsampled);
    producer.send(record).await?.await?;
    let record = Record::new("orders", "sampled").with_trace_context(&context(TraceFlags::SAMPLED));
    producer.send(record).await?.await?;
    producer.close(TEST_TIMEOUT).await?;
    shop.shutdown(TEST_TIMEOUT).await;
    agent.drain()?;

    let spans = collector.spans()?;
    let sends: Vec<_> = spans.iter().filter(|span| span.kind == "PRODUCER").collect();
    assert_eq!(sends.len(), 1, "{spans:#?}");
    assert_eq!(sends[0].parent, "0000000000000009");
    assert!(
        spans.iter().all(|span| span.trace_id == sends[0].trace_id),
        "{spans:#?}"
    );
    agent.start_again()?;
    agent.wait_ready()?;
    let records = read_records(&agent.bootstrap(), None, 3).await?;
    let brought = |flags| format!("00-{:032x}-{:016x}-{flags}", 7, 9);
    assert_eq!(header_text(&records[0], "traceparent"), None);
    assert_eq!(header_text(&records[1], "traceparent"), Some(brought("00")));
    assert_eq!(
        header_text(&records[2], "traceparent"),
        Some(brought("01")),
        "the library rewrites no header"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_variables_nothing_is_sent_and_no_header_is_added() -> TestResult {
    let collector = OtelCollector::start()?;
    let folder = tempfile::tempdir()?;
    let mut agent = start_embedded_agent(folder.path(), &[]).await?;
    CliRunner::new(agent.bootstrap())
        .run_with_input(["produce", "orders"], "tea\n")?
        .ensure_success()?;
    let producer = Producer::builder().bootstrap(agent.bootstrap()).build().await?;
    producer.send(Record::new("orders", "coffee")).await?.await?;
    producer.close(TEST_TIMEOUT).await?;
    let records = read_records(&agent.bootstrap(), None, 2).await?;
    assert!(
        records.iter().all(|record| record.headers.is_empty()),
        "{records:?}"
    );
    agent.drain()?;
    assert!(!agent.process().stderr().contains("trace_id"));
    assert_eq!(collector.spans()?, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_says_wrongly_of_its_trace_is_ignored() -> TestResult {
    let collector = OtelCollector::start()?;
    let endpoint = collector.endpoint();
    let folder = tempfile::tempdir()?;
    let mut agent = start_embedded_agent(folder.path(), &[(ENDPOINT, &endpoint), EXPORT_DELAY]).await?;
    let mut client = raw::connect(&agent.bootstrap()).await?;
    for traceparent in ["tea", "00-0-0-01", &"00-".repeat(100_000)] {
        let part = v1::PartitionProduce {
            topic: "orders".to_owned(),
            partition: 0,
            records: raw::batch(&[b"tea"], Compression::Lz4)?,
            topic_id: String::new(),
        };
        let request = v1::ProduceRequest {
            request_id: 1,
            partitions: vec![part],
            traceparent: traceparent.to_owned(),
            tracestate: "=".repeat(100_000),
        };
        let mut answers = client.produce(tokio_stream::once(request)).await?.into_inner();
        let answer = answers.message().await?.context("an answer")?;
        assert_eq!(answer.partitions[0].error, None);
    }
    for value in ["tea", "00-00000000000000000000000000000007-0000000000000009-01"] {
        let mut request = tonic::Request::new(v1::MetadataRequest { topics: Vec::new() });
        request.metadata_mut().insert("traceparent", value.parse()?);
        client.metadata(request).await?;
    }
    agent.drain()?;
    let spans = collector.spans()?;
    assert_eq!(spans.len(), 1, "{spans:#?}");
    let call =
        find_only_span(&spans, "streamhouse.v1.DataService/Metadata", "SERVER").context("the call's span")?;
    assert_eq!(call.parent, "0000000000000009");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_dead_or_silent_fails_nothing_and_is_logged_once() -> TestResult {
    let nobody = ReservedPort::reserve()?;
    let dead = format!("http://{}", nobody.address());
    let mut silent = OtelCollector::start()?;
    silent.process().pause()?;
    for endpoint in [dead, silent.endpoint()] {
        let folder = tempfile::tempdir()?;
        let variables = [
            (ENDPOINT, endpoint.as_str()),
            EXPORT_DELAY,
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer hunter2"),
            ("STREAMHOUSE_LOG_LEVEL", "trace"),
        ];
        let mut agent = start_embedded_agent(folder.path(), &variables).await?;
        let cli = variables[..4]
            .iter()
            .fold(CliRunner::new(agent.bootstrap()), |cli, (key, value)| {
                cli.env(*key, *value)
            });
        cli.run_with_input(["produce", "orders"], "tea\n".repeat(1000))?
            .ensure_success()?;
        let complaints = |said: &str| said.matches("traces cannot be exported").count();
        streamhouse_testkit::wait_until("a line about it", TEST_TIMEOUT, || {
            Ok((complaints(&agent.process().stderr()) > 0).then_some(()))
        })?;
        cli.run_with_input(["produce", "orders"], "tea\n".repeat(1000))?
            .ensure_success()?;
        assert_eq!(read_records(&agent.bootstrap(), None, 2000).await?.len(), 2000);
        agent.drain()?;
        let said = agent.process().stderr();
        assert_eq!(complaints(&said), 1, "{said}");
        assert!(!said.contains("hunter2"), "no header's value is logged");
    }
    Ok(())
}
