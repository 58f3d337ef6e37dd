//! Damaged frames, hostile counts, and headers.

use bytes::Bytes;
use proptest::prelude::*;

use super::request_and_response;
use crate::kafka::*;

fn decode<M: KafkaMessage>(bytes: &[u8], version: i16) -> Result<M, DecodeError> {
    M::decode(&mut MessageReader::new(Bytes::copy_from_slice(bytes)), version)
}

#[test]
fn a_count_larger_than_the_frame_is_refused() {
    // Metadata 1 with 54,265,856 topics in five bytes.
    let bytes = [0x03, 0x3c, 0x0c, 0x00, 0xb6];
    let error = decode::<MetadataRequest>(&bytes, 1).unwrap_err();
    assert_eq!(error, DecodeError::InvalidLength);
}

#[test]
fn elements_that_take_more_memory_than_the_frame_allows_are_refused() {
    // Each topic takes one byte of tagged fields, one for its name and one for its partitions.
    let count = 100_000_u32;
    let mut writer = MessageWriter::default();
    let request = FetchRequest {
        topics: vec![FetchTopic::default(); count as usize],
        ..FetchRequest::default()
    };
    request.encode(&mut writer, 12).unwrap();
    let frame = writer.finish().concat();
    let error = decode::<FetchRequest>(&frame, 12).unwrap_err();
    assert_eq!(error, DecodeError::TooManyElements);
}

#[test]
fn what_a_reader_takes_for_lists_and_texts_stays_within_its_limit() {
    let names = ["orders", "a"].map(|name| MetadataRequestTopic {
        name: Some(name.to_owned()),
        ..MetadataRequestTopic::default()
    });
    let request = MetadataRequest {
        topics: Some(names.into()),
        ..MetadataRequest::default()
    };
    let mut writer = MessageWriter::default();
    request.encode(&mut writer, 12).unwrap();
    let frame = Bytes::from(writer.finish().concat());
    let read = |limit| {
        let mut reader = MessageReader::with_memory_limit(frame.clone(), limit);
        let decoded = MetadataRequest::decode(&mut reader, 12);
        assert!(reader.memory_taken() <= limit);
        (decoded, reader.memory_taken())
    };
    let (decoded, taken) = read(1 << 20);
    assert_eq!(decoded.as_ref(), Ok(&request));
    assert!(taken >= 2 * size_of::<MetadataRequestTopic>() + "ordersa".len());
    assert_eq!(read(taken).0, decoded);
    assert_eq!(read(taken - 1).0, Err(DecodeError::TooManyElements));
}

#[test]
fn a_text_is_no_longer_than_the_protocol_allows_in_any_version() {
    for length in [i16::MAX as usize, i16::MAX as usize + 1] {
        let request = FindCoordinatorRequest {
            key: "k".repeat(length),
            ..FindCoordinatorRequest::default()
        };
        let mut writer = MessageWriter::default();
        request.encode(&mut writer, 3).unwrap();
        let decoded = decode::<FindCoordinatorRequest>(&writer.finish().concat(), 3);
        assert_eq!(decoded.is_ok(), length == i16::MAX as usize);
    }
}

#[test]
fn hostile_tagged_fields_are_refused_or_skipped() {
    // ApiVersions 3: two empty names, then tagged fields.
    let decode_tagged = |tagged: &[u8]| {
        let frame = [&[1, 1], tagged].concat();
        let mut reader = MessageReader::new(Bytes::from(frame));
        let decoded = ApiVersionsRequest::decode(&mut reader, 3);
        decoded.and_then(|_| reader.finish())
    };
    assert_eq!(decode_tagged(&[0]), Ok(()));
    assert_eq!(
        decode_tagged(&[2, 9, 1, 7, 9, 1, 7]),
        Ok(()),
        "an unknown tag twice"
    );
    assert_eq!(
        decode_tagged(&[1, 0x89, 0x80, 0, 0]),
        Ok(()),
        "a longer number than needed"
    );
    for (tagged, error) in [
        (&[1][..], DecodeError::Truncated),
        (&[0xff, 0xff, 0xff, 0xff, 0x0f], DecodeError::Truncated),
        (&[0xff, 0xff, 0xff, 0xff, 0x7f], DecodeError::InvalidVarint),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0], DecodeError::InvalidVarint),
        (&[1, 9, 0xff, 0xff, 0xff, 0xff, 0x0f], DecodeError::InvalidLength),
        (&[1, 9, 2, 7], DecodeError::InvalidLength),
        (&[0, 0], DecodeError::TrailingBytes(1)),
    ] {
        assert_eq!(decode_tagged(tagged), Err(error), "{tagged:x?}");
    }
    // Fetch 12: the tag 0 is the cluster's id, whose field must end with the text.
    let mut writer = MessageWriter::default();
    let cluster_id = Some("c".to_owned());
    let request = FetchRequest {
        cluster_id,
        ..FetchRequest::default()
    };
    request.encode(&mut writer, 12).unwrap();
    let mut frame = writer.finish().concat();
    assert_eq!(decode::<FetchRequest>(&frame, 12), Ok(request));
    let end = frame.len();
    assert_eq!(frame[end - 5..], [1, 0, 2, 2, b'c']);
    frame[end - 3] = 3;
    frame.push(0);
    assert_eq!(
        decode::<FetchRequest>(&frame, 12),
        Err(DecodeError::TrailingBytes(1))
    );
}

#[test]
fn usual_requests_stay_below_the_limit_of_memory() {
    let partition = FetchPartition::default();
    let topic = FetchTopic {
        topic: "t".to_owned(),
        partitions: vec![partition; 10_000],
        ..FetchTopic::default()
    };
    let request = FetchRequest {
        topics: vec![topic; 5],
        ..FetchRequest::default()
    };
    let mut writer = MessageWriter::default();
    request.encode(&mut writer, 12).unwrap();
    let decoded: FetchRequest = decode(&writer.finish().concat(), 12).unwrap();
    assert_eq!(decoded, request);
}

#[test]
fn records_are_slices_of_the_frame_and_are_not_copied_into_a_response() {
    let records = Bytes::from(vec![7_u8; 10_000]);
    let response = FetchResponse {
        responses: vec![FetchableTopicResponse {
            partitions: vec![FetchPartitionData {
                records: Some(records.clone().into()),
                ..FetchPartitionData::default()
            }],
            ..FetchableTopicResponse::default()
        }],
        ..FetchResponse::default()
    };
    let buffers = encode_response(&response, ApiKey::Fetch, 12, 1).unwrap();
    assert!(buffers.iter().any(|buffer| buffer.as_ptr() == records.as_ptr()));
    let length = i32::from_be_bytes(buffers[0][..4].try_into().unwrap());
    let total: usize = buffers.iter().map(Bytes::len).sum();
    assert_eq!(usize::try_from(length).unwrap(), total - 4);

    let frame = Bytes::from(buffers.concat());
    // Behind the length, the correlation id and the tagged fields of the header.
    let mut reader = MessageReader::new(frame.slice(9..));
    let decoded = FetchResponse::decode(&mut reader, 12).unwrap();
    let decoded = decoded.responses[0].partitions[0].records.clone().unwrap();
    let decoded = decoded.into_bytes();
    assert!(frame.as_ptr_range().contains(&decoded.as_ptr()));
}

#[test]
fn fields_of_other_versions_are_left_out() {
    let response = ProduceResponse {
        responses: vec![TopicProduceResponse {
            partition_responses: vec![PartitionProduceResponse {
                current_leader: ProduceLeaderIdAndEpoch {
                    leader_id: 3,
                    leader_epoch: 4,
                },
                ..PartitionProduceResponse::default()
            }],
            ..TopicProduceResponse::default()
        }],
        ..ProduceResponse::default()
    };
    let length = |version| {
        let buffers = encode_response(&response, ApiKey::Produce, version, 1).unwrap();
        buffers.iter().map(Bytes::len).sum::<usize>()
    };
    // A tag, a length, two numbers and no fields.
    assert_eq!(length(10) - length(9), 1 + 1 + 8 + 1);
}

#[test]
fn null_is_refused_where_a_version_does_not_allow_it() {
    // Metadata 0 has no null list of topics.
    let error = decode::<MetadataRequest>(&(-1_i32).to_be_bytes(), 0).unwrap_err();
    assert_eq!(error, DecodeError::UnexpectedNull);
    assert_eq!(
        decode::<MetadataRequest>(&(-1_i32).to_be_bytes(), 1)
            .unwrap()
            .topics,
        None
    );
}

#[test]
fn headers_of_unknown_versions_are_read_as_far_as_all_versions_agree() {
    let frame = [0, 18, 0x7f, 0xff, 0, 0, 0, 9, 0, 1, b'c', 0xff];
    let header = decode_request_header(&mut MessageReader::new(Bytes::copy_from_slice(&frame))).unwrap();
    assert_eq!(
        (header.api_key, header.api_version, header.correlation_id),
        (18, 0x7fff, 9)
    );
    assert_eq!(header.client_id.as_deref(), Some("c"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn random_bytes_never_panic(bytes: Vec<u8>, version in 0_i16..20) {
        let bytes = Bytes::from(bytes);
        for key in ApiKey::ALL {
            let _ = request_and_response(*key, &bytes, version);
        }
        let _ = decode_request_header(&mut MessageReader::new(bytes));
    }
}
