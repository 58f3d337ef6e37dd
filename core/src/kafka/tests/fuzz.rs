//! Damaged frames of every API and version: none panics or takes more memory than its length
//! allows, and what is decoded is encoded to what is decoded again.

use bytes::Bytes;

use super::{
    mutate::{FuzzCase, FuzzPlan, corpus, mutate},
    request_and_response,
    sample::{ApiDefinition, SampleSource, SampleWriter, definitions},
};
use crate::{
    kafka::*,
    time::{system_clock, system_entropy},
};

/// How long the test looks for frames that fail, unless the environment says otherwise.
const SECONDS: u64 = 10;

fn sample(api: &ApiDefinition, version: i16, suffix: &str, source: &mut SampleSource) -> Vec<u8> {
    let mut writer = SampleWriter::new(api, version, source);
    writer.structure(&format!("{}{suffix}", api.name));
    writer.bytes
}

/// Checks both messages of an API that the bytes may be.
fn check(key: ApiKey, version: i16, body: Vec<u8>) {
    let (request, response) = request_and_response(key, &body.into(), version);
    if let Ok(encoded) = request {
        let again = request_and_response(key, &encoded, version).0;
        assert_eq!(again, Ok(encoded), "{} request {version}", key.name());
    }
    if let Ok(encoded) = response {
        let again = request_and_response(key, &encoded, version).1;
        assert_eq!(again, Ok(encoded), "{} response {version}", key.name());
    }
}

/// Checks a whole frame as the listener reads it.
fn check_frame(frame: &[u8]) {
    let mut reader = MessageReader::new(Bytes::copy_from_slice(frame));
    let Ok(header) = decode_request_header(&mut reader) else {
        return;
    };
    let key = ApiKey::from_number(header.api_key);
    let Some(key) = key.filter(|key| {
        let (first, last) = key.versions();
        (first..=last).contains(&header.api_version)
    }) else {
        return;
    };
    let at = frame.len() - reader.remaining();
    check(key, header.api_version, frame[at..].to_vec());
}

fn run_case(apis: &[ApiDefinition], frames: &[(String, Vec<u8>)], seed: u64) {
    let _case = FuzzCase(seed);
    let mut source = SampleSource(seed);
    if source.below(8) == 0 {
        let mut frame = frames[source.below(frames.len() as u64) as usize].1.clone();
        let other = &frames[source.below(frames.len() as u64) as usize].1;
        mutate(&mut frame, other, &mut source);
        return check_frame(&frame);
    }
    let api = &apis[source.below(apis.len() as u64) as usize];
    let versions = i64::from(api.request.last - api.request.first) + 1;
    let version = api.request.first + source.below(versions as u64) as i16;
    let suffix = ["Request", "Response"][source.below(2) as usize];
    let mut body = sample(api, version, suffix, &mut source);
    let other = sample(api, version, "Request", &mut source);
    mutate(&mut body, &other, &mut source);
    check(ApiKey::from_number(api.key).unwrap(), version, body);
}

#[test]
fn damaged_frames_neither_panic_nor_take_more_memory_than_they_may() {
    let (apis, frames) = (definitions(), corpus());
    for (_, frame) in &frames {
        check_frame(frame);
    }
    let plan = FuzzPlan::from_environment(SECONDS);
    if let Some(seed) = plan.seed {
        return run_case(&apis, &frames, seed);
    }
    let (clock, entropy) = (system_clock(), system_entropy());
    let until = clock.now_ms() + i64::try_from(plan.seconds).unwrap() * 1000;
    while clock.now_ms() < until {
        for _ in 0..100 {
            run_case(&apis, &frames, entropy.next_u64());
        }
    }
}
