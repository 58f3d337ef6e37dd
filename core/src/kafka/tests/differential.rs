//! The same bytes through this codec and through the crate `kafka-protocol`.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey as OtherKey, RequestKind, ResponseKind};
use proptest::prelude::*;

use super::{
    request_and_response,
    sample::{ApiDefinition, SampleSource, SampleWriter, definitions},
};
use crate::kafka::ApiKey;

/// Returns what the other codec has decoded; `None` if it does not know the version.
fn decoded<T>(result: anyhow::Result<T>) -> Option<T> {
    match result {
        Ok(message) => Some(message),
        Err(error) if format!("{error:#}").contains("specified version not supported") => None,
        Err(error) => panic!("{error:#}"),
    }
}

fn sample(api: &ApiDefinition, version: i16, suffix: &str, source: &mut SampleSource) -> Bytes {
    let mut writer = SampleWriter::new(api, version, source);
    writer.structure(&format!("{}{suffix}", api.name));
    writer.bytes.into()
}

/// Compares the request and the response of a version. Returns how many messages both codecs know.
fn compare(api: &ApiDefinition, version: i16, source: &mut SampleSource) -> Result<usize, TestCaseError> {
    let key = ApiKey::from_number(api.key).unwrap();
    let other = OtherKey::try_from(api.key).unwrap();
    let mut compared = 0;
    let body = sample(api, version, "Request", source);
    let ours = request_and_response(key, &body, version).0.unwrap();
    if let Some(request) = decoded(RequestKind::decode(other, &mut body.clone(), version)) {
        let mut theirs = BytesMut::new();
        request.encode(&mut theirs, version).unwrap();
        prop_assert_eq!(&ours[..], &theirs[..], "{} request {}", &api.name, version);
        compared += 1;
    }
    let body = sample(api, version, "Response", source);
    let ours = request_and_response(key, &body, version).1.unwrap();
    if let Some(response) = decoded(ResponseKind::decode(other, &mut body.clone(), version)) {
        let mut theirs = BytesMut::new();
        response.encode(&mut theirs, version).unwrap();
        prop_assert_eq!(&ours[..], &theirs[..], "{} response {}", &api.name, version);
        compared += 1;
    }
    Ok(compared)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_are_read_and_written_as_by_another_codec(seed: u64) {
        let mut source = SampleSource(seed);
        let (mut compared, mut defined) = (0, 0);
        for api in definitions() {
            for version in api.request.first..=api.request.last {
                compared += compare(&api, version, &mut source)?;
                defined += 2;
            }
        }
        // The other codec lacks the latest versions only.
        prop_assert!(compared * 10 > defined * 9, "{compared} of {defined}");
    }
}
