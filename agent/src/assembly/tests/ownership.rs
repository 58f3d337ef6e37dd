//! Agents whose two stores do not belong together: a bucket of another cluster, an older copy of
//! the metadata, objects under keys that are taken.

use std::{collections::BTreeSet, fs, path::PathBuf};

use bytes::Bytes;
use streamhouse_core::batch::{BatchIter, DecodedRecords};
use streamhouse_metadata::keys;

use super::*;
use crate::{
    backup, check,
    invariant::Invariant,
    purge, recover,
    segment::{SegmentIdentity, SegmentWriter},
    store::GetRange,
};

/// The jobs run frequently.
const FREQUENT_JOBS: &[&str] = &["--maintenance-interval=100ms"];
/// The jobs run frequently, and unreferenced objects are deleted after a short grace.
const FREQUENT_JOBS_SHORT_GRACE: &[&str] = &["--maintenance-interval=100ms", "--object-grace=1s"];

async fn start_busy_agent(dir: &Path) -> Agent {
    start_ready_agent(settings(dir, "one", FREQUENT_JOBS)).await
}

async fn start_ready_agent(settings: AgentSettings) -> Agent {
    let agent = Agent::start(settings).await.unwrap();
    wait_until("it is ready", || agent.node.health.is_ready()).await;
    agent
}

/// Starts an agent that must not become ready, and returns the reason.
async fn start_refused_agent(settings: AgentSettings) -> (Agent, String) {
    let agent = Agent::start(settings).await.unwrap();
    let why = || {
        let reasons = agent.node.health.reasons();
        let cluster = reasons
            .into_iter()
            .find(|(of, _)| *of == ReadinessCondition::Cluster);
        cluster
            .map(|(_, why)| why)
            .filter(|why| why != "not verified yet")
    };
    wait_until("it says why not", || why().is_some()).await;
    let why = why().unwrap();
    assert!(!agent.node.health.is_ready() && incarnation(&agent).is_none());
    (agent, why)
}

async fn list_keys(agent: &Agent, prefix: &str) -> BTreeSet<String> {
    let found = agent.node.store.list(prefix, None, 1000).await.unwrap();
    found.into_iter().map(|object| object.key).collect()
}

async fn cluster_id(agent: &Agent) -> String {
    agent.node.metadata.cluster_state().await.unwrap().cluster_id
}

/// Creates a topic with one partition that keeps its records whatever their timestamps are.
async fn create_unexpiring_topic(agent: &Agent, name: &str, segment_ms: &str) {
    let config = [("retention.ms", "-1"), ("segment.ms", segment_ms)];
    let config = config.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let request = v1::CreateTopicRequest {
        name: name.to_owned(),
        partitions: 1,
        config: config.into(),
        ..v1::CreateTopicRequest::default()
    };
    topics::create(&agent.node.topics(), request).await.unwrap();
}

/// Creates a topic whose records are rolled at once.
async fn create_rolling_topic(agent: &Agent, name: &str) {
    create_unexpiring_topic(agent, name, "100").await;
}

/// Creates a topic whose records stay in the WAL.
async fn create_unrolled_topic(agent: &Agent, name: &str) {
    create_unexpiring_topic(agent, name, "3600000").await;
}

async fn produce_all(agent: &Agent, topic: &str, values: &[String]) {
    for value in values {
        produce(agent, topic, 0, value).await.unwrap();
    }
}

fn numbered_values(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

/// Reads every record of the topic's partition from the stores, not from memory.
async fn read_values(agent: &Agent, topic: &str) -> Vec<String> {
    let uid = partition_uid(agent, topic);
    let (mut values, mut from) = (Vec::new(), 0);
    loop {
        let read = agent.node.log().read_range(uid, from, 1 << 20).await.unwrap();
        assert_eq!(read.bounds.log_start, 0, "nothing is deleted");
        for batch in BatchIter::owned(&read.records) {
            let (header, batch) = batch.unwrap();
            for record in DecodedRecords::decode(batch, 1 << 20).unwrap() {
                let value = record.unwrap().value.unwrap();
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
            from = header.next_offset();
        }
        if from >= read.bounds.high_watermark {
            return values;
        }
    }
}

fn partition_uid(agent: &Agent, topic: &str) -> streamhouse_metadata::PartitionUid {
    let view = agent.node.directory.view();
    let topic = view.topics().find(|found| found.record.name == topic).unwrap();
    topic.record.partitions[0].uid
}

async fn wait_until_rolled(agent: &Agent, topic: &str) {
    let uid = partition_uid(agent, topic);
    let partition = || agent.node.session().and_then(|life| life.partitions.get(uid));
    wait_until("everything is rolled", || {
        partition().is_some_and(|partition| partition.rolled_offset() == partition.high_watermark())
    })
    .await;
}

async fn newest_mark(agent: &Agent) -> Option<u64> {
    crate::ownership::timeline::newest_mark(agent.node.store.as_ref())
        .await
        .unwrap()
}

/// Waits until the bucket has a mark beyond this one.
async fn wait_until_marked(agent: &Agent, beyond: Option<u64>) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while newest_mark(agent).await <= beyond {
        assert!(Instant::now() < deadline, "the bucket was never marked");
        sleep(Duration::from_millis(10)).await;
    }
}

fn violation_count(agent: &Agent, invariant: Invariant) -> f64 {
    let text = agent.node.metrics.render().unwrap();
    let series = format!("invariant=\"{}\"", invariant.name());
    let line = text.lines().find(|line| line.contains(&series));
    line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn run_recover(settings: &AgentSettings, meant: bool) -> String {
    let said = std::cell::RefCell::new(Vec::new());
    recover::run(settings, meant, |line| said.borrow_mut().push(line.to_owned()))
        .await
        .unwrap();
    said.into_inner().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_metadata_store_gets_nothing_of_a_bucket_that_is_anothers() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    produce_all(&one, "orders", &numbered_values("a", 20)).await;
    let (ours, stored) = (cluster_id(&one).await, list_keys(&one, "_wal/").await);
    assert!(!stored.is_empty());
    one.crash().await;

    let other = format!("--metadata-url=sqlite:{}", dir.path().join("two.db").display());
    let more = [FREQUENT_JOBS_SHORT_GRACE, &[&other]].concat();
    for _ in 0..2 {
        let (two, why) = start_refused_agent(settings(dir.path(), "two", &more)).await;
        let url = two.node.settings.metadata_url.expose();
        let options = connect_options(&two.node.settings);
        let theirs = streamhouse_metadata::cluster_id(url, &options).await;
        let theirs = theirs.unwrap().unwrap();
        assert!(
            why.contains(&ours) && why.contains(&theirs) && why.contains("correct metadata-url"),
            "{why}"
        );
        assert_eq!(list_keys(&two, "_wal/").await, stored);
        assert_eq!(list_keys(&two, "_canary/").await, BTreeSet::new());
        let request = v1::CreateTopicRequest {
            name: "mine".to_owned(),
            partitions: 1,
            ..v1::CreateTopicRequest::default()
        };
        assert!(topics::create(&two.node.topics(), request).await.is_err());
        two.crash().await;
    }
    let again = start_busy_agent(dir.path()).await;
    assert_eq!(read_values(&again, "orders").await, numbered_values("a", 20));
    again.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmarked_bucket_is_claimed_by_a_store_in_use_and_by_a_new_one_only_if_it_is_empty() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    produce_all(&one, "orders", &numbered_values("a", 1)).await;
    let (id, marker) = (
        cluster_id(&one).await,
        dir.path().join("objects/_cluster/identity"),
    );
    let said: serde_json::Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    assert_eq!(said, serde_json::json!({ "format_version": 1, "cluster_id": id }));
    one.drain().await;

    // As versions without markers left it.
    fs::remove_dir_all(dir.path().join("objects/_cluster")).unwrap();
    let other = format!("--metadata-url=sqlite:{}", dir.path().join("two.db").display());
    let (two, why) =
        start_refused_agent(settings(dir.path(), "two", &[FREQUENT_JOBS, &[&other]].concat())).await;
    assert!(
        why.contains("_wal/") && why.contains("is new") && why.contains("a bucket or a prefix of its own"),
        "{why}"
    );
    assert!(!marker.exists());
    two.crash().await;
    let one = start_busy_agent(dir.path()).await;
    assert_eq!(read_values(&one, "orders").await, numbered_values("a", 1));
    assert!(marker.exists());
    one.drain().await;

    let empty = format!("--object-store=file:{}", dir.path().join("others").display());
    fs::create_dir_all(dir.path().join("others/pictures")).unwrap();
    fs::write(dir.path().join("others/pictures/cat.png"), "a cat").unwrap();
    let two = start_ready_agent(settings(dir.path(), "two", &[&other, &empty])).await;
    assert!(dir.path().join("others/_cluster/identity").exists());
    two.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_command_writes_to_or_deletes_from_a_bucket_that_is_anothers() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    produce_all(&one, "orders", &numbered_values("a", 1)).await;
    let ours = one.node.settings.clone();
    let id = cluster_id(&one).await;
    one.drain().await;
    let store = store::open_store(&store_settings(&ours)).await.unwrap();
    let stored = async || store.list("", None, 1000).await.unwrap();
    let before = stored().await;
    let both = check::CheckedStores::parse(&[]).unwrap();
    let only_objects = check::CheckedStores::parse(&["object-store".to_owned()]).unwrap();

    let other = format!("--metadata-url=sqlite:{}", dir.path().join("two.db").display());
    let other = settings(dir.path(), "two", &[&other]);
    let away = settings(
        dir.path(),
        "two",
        &[
            "--metadata-url=postgres://u:hunter2@127.0.0.1:1/d",
            "--metadata-timeout=100ms",
        ],
    );
    for (theirs, stores) in [(&other, only_objects), (&other, both), (&away, only_objects)] {
        let error = check::run(theirs, stores, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(&id) && !error.contains("hunter2"), "{error}");
    }
    let any = purge::PurgeOptions::default();
    let error = purge::run(&other, &any, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(&id), "{error}");
    let another = purge::PurgeOptions {
        cluster_id: Some("another".to_owned()),
    };
    let error = purge::run(&ours, &another, |_| {}).await.unwrap_err().to_string();
    assert!(
        error.contains(&id) && error.contains("--cluster-id is another"),
        "{error}"
    );
    assert_eq!(stored().await, before);

    check::run(&ours, both, |_| {}).await.unwrap();
    fs::write(dir.path().join("objects/notes.txt"), "not ours").unwrap();
    let said = std::cell::RefCell::new(Vec::new());
    let same = purge::PurgeOptions {
        cluster_id: Some(id.clone()),
    };
    purge::run(&ours, &same, |line| said.borrow_mut().push(line.to_owned()))
        .await
        .unwrap();
    let said = said.into_inner();
    assert!(
        said[0].ends_with("; 1 that are not ours stay: notes.txt"),
        "{said:?}"
    );
    let left: Vec<String> = stored().await.into_iter().map(|object| object.key).collect();
    assert_eq!(left, ["notes.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_format_and_a_marker_that_says_nothing_are_refused() {
    for (marker, says) in [
        (r#"{"format_version":2,"cluster_id":"x"}"#, "format version 2"),
        ("hello", "_cluster/identity"),
    ] {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("objects/_cluster")).unwrap();
        fs::write(dir.path().join("objects/_cluster/identity"), marker).unwrap();
        let (one, why) = start_refused_agent(settings(dir.path(), "one", FREQUENT_JOBS)).await;
        assert!(why.contains(says), "{why}");
        one.crash().await;
    }
}

fn metadata_file(dir: &Path) -> PathBuf {
    dir.join("metadata.db")
}

fn restore_metadata(dir: &Path, copy: &Path) {
    for journal in ["metadata.db-wal", "metadata.db-shm"] {
        let _ = fs::remove_file(dir.join(journal));
    }
    fs::copy(copy, metadata_file(dir)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_copy_of_the_metadata_waits_for_a_recovery_and_mixes_nothing_in_afterwards() {
    let dir = TempDir::new().unwrap();
    let copy = dir.path().join("copy.db");
    let one = start_busy_agent(dir.path()).await;
    create_rolling_topic(&one, "orders").await;
    produce_all(&one, "orders", &numbered_values("a", 10)).await;
    one.drain().await;
    // The file is complete after an orderly stop.
    fs::copy(metadata_file(dir.path()), &copy).unwrap();

    let one = start_busy_agent(dir.path()).await;
    let before = newest_mark(&one).await;
    produce_all(&one, "orders", &numbered_values("b", 10)).await;
    wait_until_rolled(&one, "orders").await;
    wait_until_marked(&one, before).await;
    let lost = list_keys(&one, "orders/").await;
    assert_eq!(
        read_values(&one, "orders").await,
        [numbered_values("a", 10), numbered_values("b", 10)].concat()
    );
    one.drain().await;

    restore_metadata(dir.path(), &copy);
    let (one, why) = start_refused_agent(settings(dir.path(), "one", FREQUENT_JOBS)).await;
    assert!(
        why.contains("older") && why.contains("streamhouse-agent recover"),
        "{why}"
    );
    let before = list_keys(&one, "").await;
    one.drain().await;
    let settings = settings(dir.path(), "one", FREQUENT_JOBS);
    let report = run_recover(&settings, false).await;
    assert!(
        report.contains("not known to the metadata store") && lost.iter().any(|key| report.contains(key)),
        "{report}"
    );
    assert!(report.contains("nothing was changed"), "{report}");
    let (one, _) = start_refused_agent(settings.clone()).await;
    assert_eq!(list_keys(&one, "").await, before, "nothing was changed");
    one.drain().await;
    let report = run_recover(&settings, true).await;
    assert!(report.contains("agents can be started"), "{report}");

    let one = start_busy_agent(dir.path()).await;
    produce_all(&one, "orders", &numbered_values("c", 25)).await;
    wait_until_rolled(&one, "orders").await;
    assert_eq!(
        read_values(&one, "orders").await,
        [numbered_values("a", 10), numbered_values("c", 25)].concat()
    );
    let now = list_keys(&one, "").await;
    assert!(lost.is_subset(&now), "what was lost is kept");
    assert!(now.iter().any(|key| key.starts_with("orders@2/0/")), "{now:?}");
    one.drain().await;
    let report = run_recover(&settings, true).await;
    assert!(report.contains("nothing to recover"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_is_refused_while_an_agent_lives_and_for_another_cluster() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    let ours = one.node.settings.clone();
    let error = recover::run(&ours, true, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("\"one\" is running"), "{error}");
    one.drain().await;
    let absent = format!("--metadata-url=sqlite:{}", dir.path().join("absent.db").display());
    let absent = settings(dir.path(), "one", &[&absent]);
    let error = recover::run(&absent, true, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("is empty"), "{error}");
    assert!(!dir.path().join("absent.db").exists());
    let other = format!("--metadata-url=sqlite:{}", dir.path().join("two.db").display());
    let other = settings(dir.path(), "one", &[&other]);
    let url = other.metadata_url.expose();
    streamhouse_metadata::migrate(url, &connect_options(&other))
        .await
        .unwrap();
    let error = recover::run(&other, true, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("belongs to cluster"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_another_copy_made_ends_the_work_until_a_recovery() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    // As an agent does on the copy that this store was promoted from: every next number is taken.
    let number = one.node.metadata.cluster_state().await.unwrap().timeline.number;
    for number in number + 1..number + 50 {
        let key = format!("_cluster/timeline/{number:020}");
        let _ = one.node.store.put_new(&key, Bytes::from_static(b"theirs")).await;
    }
    let _ = produce(&one, "orders", 0, "x").await;
    wait_until("it works no more", || {
        incarnation(&one).is_none() && !one.node.health.is_ready()
    })
    .await;
    wait_until("it says why", || {
        let reasons = one.node.health.reasons();
        reasons
            .iter()
            .any(|(of, why)| *of == ReadinessCondition::Cluster && why.contains("streamhouse-agent recover"))
    })
    .await;
    assert!(violation_count(&one, Invariant::B1) >= 1.0);
    assert!(one.node.metadata.cluster_state().await.unwrap().diverged);
    one.drain().await;
    let (one, why) = start_refused_agent(settings(dir.path(), "one", FREQUENT_JOBS)).await;
    assert!(why.contains("streamhouse-agent recover"), "{why}");
    let settings = one.node.settings.clone();
    one.drain().await;
    run_recover(&settings, true).await;
    let one = start_busy_agent(dir.path()).await;
    assert!(!one.node.metadata.cluster_state().await.unwrap().diverged);
    one.drain().await;
}

/// Returns the identity of the segment that begins at offset 0.
async fn segment_identity(agent: &Agent, topic: &str) -> SegmentIdentity {
    let uid = partition_uid(agent, topic);
    let view = agent.node.directory.view();
    let record = &view
        .topics()
        .find(|found| found.record.name == topic)
        .unwrap()
        .record;
    SegmentIdentity {
        cluster_id: view.cluster_id.clone(),
        topic_id: record.topic_id,
        partition: 0,
        partition_uid: uid,
        epoch: record.partitions[0].epoch,
        base_offset: 0,
    }
}

fn build_segment(identity: &SegmentIdentity, batches: &Bytes) -> Bytes {
    let mut writer = SegmentWriter::new(identity);
    for batch in BatchIter::new(batches) {
        let (header, batch) = batch.unwrap();
        writer.append(&header, batch).unwrap();
    }
    writer.finish().unwrap().0
}

/// Rolls a partition while an object exists under the key of its segment. Returns how many K1
/// violations are counted, and the keys that are used.
async fn roll_over_existing_object(object: impl AsyncFnOnce(&Agent) -> Bytes) -> (f64, BTreeSet<String>) {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    produce_all(&one, "orders", &numbered_values("a", 5)).await;
    let (key, object) = ("orders/0/segment_0000000000.dat", object(&one).await);
    one.node.store.put_new(key, object.clone()).await.unwrap();
    let roll = v1::AlterTopicRequest {
        name: "orders".to_owned(),
        set_config: [("segment.ms".to_owned(), "100".to_owned())].into(),
        ..v1::AlterTopicRequest::default()
    };
    topics::alter(&one.node.topics(), roll).await.unwrap();
    wait_until_rolled(&one, "orders").await;
    assert_eq!(read_values(&one, "orders").await, numbered_values("a", 5));
    assert_eq!(
        one.node.store.get(key, GetRange::Full).await.unwrap(),
        object,
        "what stood there still does"
    );
    let used = list_keys(&one, "orders").await;
    let violated = violation_count(&one, Invariant::K1);
    // Rolling continues.
    produce_all(&one, "orders", &numbered_values("b", 5)).await;
    wait_until_rolled(&one, "orders").await;
    assert_eq!(
        read_values(&one, "orders").await,
        [numbered_values("a", 5), numbered_values("b", 5)].concat()
    );
    one.drain().await;
    (violated, used)
}

async fn read_batches(agent: &Agent, offset: i64) -> Bytes {
    let uid = partition_uid(agent, "orders");
    agent
        .node
        .log()
        .read_range(uid, offset, 1 << 20)
        .await
        .unwrap()
        .records
}

/// Returns valid batches of other records at the same offsets.
fn other_batches(count: i64) -> Bytes {
    let mut all = Vec::new();
    for offset in 0..count {
        let mut batch = BatchBuilder::new(Compression::None);
        batch
            .append::<&str, &str>(0, None, Some("from another history".as_bytes()), &[])
            .unwrap();
        let mut bytes = batch.finish().unwrap().to_vec();
        streamhouse_core::batch::stamp(&mut bytes, offset, 1);
        all.extend_from_slice(&bytes);
    }
    all.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_very_segment_of_a_range_is_adopted() {
    let rolled = roll_over_existing_object(async |agent| {
        build_segment(
            &segment_identity(agent, "orders").await,
            &read_batches(agent, 0).await,
        )
    });
    let (violated, used) = rolled.await;
    assert_eq!(violated, 0.0);
    assert_eq!(
        used,
        BTreeSet::from(["orders/0/segment_0000000000.dat".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_object_under_its_key_is_left_alone_and_the_roll_goes_on_under_another() {
    let other_records = roll_over_existing_object(async |agent| {
        build_segment(&segment_identity(agent, "orders").await, &other_batches(5))
    });
    let beyond = roll_over_existing_object(async |agent| {
        build_segment(&segment_identity(agent, "orders").await, &other_batches(50))
    });
    let damaged = roll_over_existing_object(async |agent| {
        let mut object = build_segment(
            &segment_identity(agent, "orders").await,
            &read_batches(agent, 0).await,
        )
        .to_vec();
        object[150] ^= 1;
        object.into()
    });
    let anothers = roll_over_existing_object(async |agent| {
        let identity = SegmentIdentity {
            topic_id: uuid::Uuid::nil(),
            ..segment_identity(agent, "orders").await
        };
        build_segment(&identity, &read_batches(agent, 0).await)
    });
    let nothing_like_it = roll_over_existing_object(async |_| Bytes::from_static(b"notes"));
    let rolled = futures::join!(other_records, beyond, damaged, anothers, nothing_like_it);
    for (violated, used) in [rolled.0, rolled.1, rolled.2, rolled.3, rolled.4] {
        assert_eq!(violated, 1.0);
        assert!(used.contains("orders@2/0/segment_0000000000.dat"), "{used:?}");
    }
}

/// INV-B1: below `_wal/`, only objects that an earlier incarnation of this cluster left are
/// deleted.
#[tokio::test(flavor = "multi_thread")]
async fn the_sweep_deletes_nothing_that_the_metadata_cannot_explain() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    produce_all(&one, "orders", &numbered_values("a", 3)).await;
    let former = incarnation(&one).unwrap();
    let committed = list_keys(&one, "_wal/").await;
    one.crash().await;
    let wal = dir.path().join("objects/_wal");
    let plant = |folder: &str, name: &str| {
        fs::create_dir_all(wal.join(folder)).unwrap();
        fs::write(wal.join(folder).join(name), "planted").unwrap();
        format!("_wal/{folder}/{name}")
    };
    let entropy = streamhouse_core::time::system_entropy();
    let (mut kept, mut orphans) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..40 {
        let sequence = format!("{:020}", 100 + entropy.next_u64() % 1_000_000);
        orphans.insert(plant(&former.to_string(), &sequence));
        let incarnation = Incarnation(former.0 + 100 + (entropy.next_u64() % 1000) as i64);
        kept.insert(plant(&incarnation.to_string(), &sequence));
        kept.insert(plant(&former.to_string(), &format!("notes-{sequence}")));
        kept.insert(plant(&format!("{}x", former.0), &sequence));
    }
    let one = start_ready_agent(settings(dir.path(), "one", FREQUENT_JOBS_SHORT_GRACE)).await;
    let swept = || {
        let view = one.node.directory.view();
        let seen = incarnation(&one).is_some_and(|life| view.agent(life).is_some());
        seen && view.snapshot.unswept.is_empty()
    };
    wait_until("the former incarnation is swept", swept).await;
    let left = list_keys(&one, "_wal/").await;
    assert!(kept.is_subset(&left), "{:?}", kept.difference(&left).next());
    assert!(
        orphans.is_disjoint(&left),
        "{:?}",
        orphans.intersection(&left).next()
    );
    assert!(
        committed
            .iter()
            .all(|key| left.contains(key) && keys::parse_wal_key(key).is_some())
    );
    assert_eq!(read_values(&one, "orders").await, numbered_values("a", 3));
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_made_while_an_agent_works() {
    let dir = TempDir::new().unwrap();
    let one = start_busy_agent(dir.path()).await;
    create_unrolled_topic(&one, "orders").await;
    let to = dir.path().join("copy.db");
    let options = backup::BackupOptions::parse(&["--to".to_owned(), to.display().to_string()]).unwrap();
    backup::run(&one.node.settings, &options, |_| {}).await.unwrap();
    assert!(
        backup::run(&one.node.settings, &options, |_| {}).await.is_err(),
        "it exists"
    );
    let copy = format!("sqlite:{}", to.display());
    let copy = streamhouse_metadata::connect(&copy, &connect_options(&one.node.settings))
        .await
        .unwrap();
    assert_eq!(
        copy.cluster_state().await.unwrap().cluster_id,
        cluster_id(&one).await
    );
    assert_eq!(copy.snapshot(None).await.unwrap().unwrap().topics.len(), 2);
    one.drain().await;
    let postgres = settings(
        dir.path(),
        "one",
        &["--metadata-url=postgres://u:hunter2@127.0.0.1:1/d"],
    );
    let error = backup::run(&postgres, &options, |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("pg_dump") && !error.contains("hunter2"), "{error}");
}
