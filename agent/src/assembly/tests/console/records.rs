//! The console's records: shown as they are, in bounded pages, with unreadable ones named.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn records_are_shown_as_they_are_and_never_more_than_a_page_holds() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "odd", 1).await;
    let script = b"<script>alert(1)</script>".to_vec();
    produce_batch(
        &one,
        "odd",
        &[script.clone(), vec![0xff, 0x00], vec![], vec![b'x'; 10_000]],
    )
    .await;
    let page = get_data(&one, "records?topic=odd&partition=0&offset=0").await;
    let records = page["records"].as_array().unwrap();
    assert_eq!((records.len(), &page["stopped"]), (4, &"end".into()));
    assert_eq!(records[0]["value"]["shown"], "<script>alert(1)</script>");
    assert_eq!(records[0]["headers"][0][0]["shown"], "trace");
    assert_eq!(records[0]["headers"][1][1], Value::Null);
    assert_eq!(records[1]["value"]["encoding"], "hex");
    assert_eq!(records[1]["value"]["shown"], "ff00");
    assert_eq!(records[2]["value"]["size"], 0);
    assert_eq!(
        (&records[3]["value"]["size"], &records[3]["value"]["truncated"]),
        (&10_000.into(), &true.into())
    );
    assert_eq!(records[3]["value"]["shown"].as_str().unwrap().len(), 4096);

    for _ in 0..60 {
        produce_batch(&one, "odd", &vec![vec![b'y'; 100]; 5]).await;
    }
    let newest = get_data(&one, "records?topic=odd&partition=0&limit=1000").await;
    assert_eq!(
        newest["records"].as_array().unwrap().len(),
        100,
        "no page is longer"
    );
    assert_eq!((&newest["from"], &newest["next"]), (&204.into(), &304.into()));
    let inside = get_data(&one, "records?topic=odd&partition=0&offset=6&limit=2").await;
    assert_eq!(
        (&inside["records"][0]["offset"], &inside["next"]),
        (&6.into(), &8.into())
    );
    assert_eq!(inside["stopped"], Value::Null);
    let late = get_data(&one, "records?topic=odd&partition=0&timestamp=8").await;
    assert_eq!(
        (&late["from"], late["records"].as_array().unwrap().len()),
        (&304.into(), 0)
    );
    for (query, refused) in [
        ("topic=odd&partition=0&offset=305", (400, "OFFSET_OUT_OF_RANGE")),
        ("topic=odd&partition=0&offset=-1", (400, "OFFSET_OUT_OF_RANGE")),
        ("topic=odd&partition=1", (404, "UNKNOWN_TOPIC_OR_PARTITION")),
        ("topic=odd&partition=-1", (404, "UNKNOWN_TOPIC_OR_PARTITION")),
        (
            "topic=__consumer_groups&partition=0",
            (404, "UNKNOWN_TOPIC_OR_PARTITION"),
        ),
        ("topic=odd", (400, "INVALID_REQUEST")),
        (
            "topic=odd&partition=0&offset=0&timestamp=0",
            (400, "INVALID_REQUEST"),
        ),
        ("topic=odd&partition=99999999999", (400, "INVALID_REQUEST")),
    ] {
        let answer = get_error_code(&one, &format!("records?{query}")).await;
        assert_eq!((answer.0, answer.1.as_str()), refused, "{query}");
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_records_fill_a_page_and_the_next_goes_on_there() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "large", 1).await;
    // 9 MiB that LZ4 compresses well, then records that it cannot compress.
    produce_batch(&one, "large", &vec![vec![b'x'; 1 << 20]; 9]).await;
    let noise = |seed: u64| -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(400_000).collect()
    };
    for seed in 0..5 {
        produce_batch(&one, "large", &[noise(seed)]).await;
    }
    let page = get_data(&one, "records?topic=large&partition=0&offset=0").await;
    assert_eq!(page["unreadable"][0]["code"], "MESSAGE_TOO_LARGE");
    assert_eq!(
        (&page["unreadable"][0]["from"], &page["unreadable"][0]["to"]),
        (&0.into(), &9.into())
    );
    let shown = page["records"].as_array().unwrap().len() as i64;
    assert_eq!(
        (&page["next"], &page["stopped"]),
        (&(9 + shown).into(), &"bytes".into())
    );
    assert!((1..5).contains(&shown), "1 MiB is read: {shown}");
    let rest = get_data(
        &one,
        &format!("records?topic=large&partition=0&offset={}", page["next"]),
    )
    .await;
    assert_eq!(rest["records"][0]["offset"], page["next"]);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_deleted_records_are_said_and_not_shown() {
    let dir = TempDir::new().unwrap();
    let one = start_agent(dir.path(), "one").await;
    create_topic(&one, "orders", 1).await;
    produce(&one, "orders", 0, "first").await.unwrap();
    produce(&one, "orders", 0, "second").await.unwrap();
    one.drain().await;
    // After a restart records are read from the objects, one of which is now damaged.
    let objects = dir.path().join("objects");
    let mut damaged = 0;
    let mut folders = vec![objects];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(5).position(|window| window == b"first") {
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    let one = start_agent(dir.path(), "one").await;
    let answer = get_error_code(&one, "records?topic=orders&partition=0&offset=0").await;
    assert_eq!(answer, (500, "STORAGE_CORRUPT".to_owned()));
    let end = end_of_an_unreadable_partition(&one);
    let end = tokio::time::timeout(Duration::from_secs(30), end).await;
    assert_eq!(end, Ok(2), "a reader that is stuck knows how far it is behind");
    let request = v1::DeleteRecordsRequest {
        topic: "orders".to_owned(),
        partition: 0,
        before_offset: 1,
    };
    topics::delete_records(&one.node.topics(), request).await.unwrap();
    let gone = get_error_code(&one, "records?topic=orders&partition=0&offset=0").await;
    assert_eq!(gone, (400, "OFFSET_OUT_OF_RANGE".to_owned()));
    let left = get_data(&one, "records?topic=orders&partition=0").await;
    assert_eq!(
        (&left["from"], &left["records"][0]["value"]["shown"]),
        (&1.into(), &"second".into())
    );
    one.drain().await;
}

/// Returns the end of `orders` that the leader reports to a consumer at its damaged beginning;
/// before it leads, the end is unknown.
async fn end_of_an_unreadable_partition(agent: &Agent) -> i64 {
    loop {
        let request = v1::FetchRequest {
            max_bytes: 1 << 20,
            partitions: vec![v1::PartitionFetch {
                topic: "orders".to_owned(),
                max_bytes: 1 << 20,
                ..v1::PartitionFetch::default()
            }],
            ..v1::FetchRequest::default()
        };
        let (answer, _) = crate::fetch::fetch(&agent.node.fetch(), request).await.unwrap();
        let result = &answer.partitions[0];
        let code = result.error.as_ref().map(|error| error.code);
        assert_eq!(code, Some(ErrorCode::StorageCorrupt.number()));
        if result.high_watermark >= 0 {
            return result.high_watermark;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
