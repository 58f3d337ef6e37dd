//! Kafka's consumer protocol: the subscriptions and assignments that members of a consumer group
//! exchange through the coordinator. Clients encode and decode them; to agents they are opaque
//! bytes.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{
    error::{Error, ErrorCode},
    ids::TopicPartition,
};

/// The protocol type of consumer groups.
pub const PROTOCOL_TYPE: &str = "consumer";

/// What a member subscribes to: ConsumerProtocolSubscription. Reads versions 0 to 3; writes version
/// 1, or version 2 if a generation is known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerSubscription {
    /// Topics, in the member's order.
    pub topics: Vec<String>,
    /// Opaque data of the assignor.
    pub user_data: Option<Bytes>,
    /// The partitions that the member currently owns.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it was assigned them.
    pub generation: Option<i32>,
}

/// What a member is assigned: ConsumerProtocolAssignment, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConsumerAssignment {
    /// The assigned partitions.
    pub partitions: Vec<TopicPartition>,
    /// Opaque data of the assignor.
    pub user_data: Option<Bytes>,
}

impl ConsumerSubscription {
    /// Encodes the subscription.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(if self.generation.is_some() { 2 } else { 1 });
        out.put_i32(to_i32_len(self.topics.len()));
        self.topics.iter().for_each(|topic| put_string(&mut out, topic));
        put_bytes(&mut out, self.user_data.as_ref());
        put_partitions(&mut out, &self.owned);
        if let Some(generation) = self.generation {
            out.put_i32(generation);
        }
        out.freeze()
    }

    /// Decodes a subscription.
    ///
    /// # Errors
    ///
    /// Fails with INVALID_REQUEST if the bytes are not a subscription.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        let version = get_i16(&mut bytes)?;
        if version < 0 {
            return Err(decode_error());
        }
        let mut topics = Vec::new();
        for _ in 0..get_i32(&mut bytes)? {
            topics.push(get_string(&mut bytes)?);
        }
        let user_data = get_bytes(&mut bytes)?;
        let owned = if version >= 1 {
            get_partitions(&mut bytes)?
        } else {
            Vec::new()
        };
        let generation = if version >= 2 {
            Some(get_i32(&mut bytes)?).filter(|generation| *generation >= 0)
        } else {
            None
        };
        Ok(Self {
            topics,
            user_data,
            owned,
            generation,
        })
    }
}

impl ConsumerAssignment {
    /// Encodes the assignment.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(1);
        put_partitions(&mut out, &self.partitions);
        put_bytes(&mut out, self.user_data.as_ref());
        out.freeze()
    }

    /// Decodes an assignment; no bytes are an empty assignment.
    ///
    /// # Errors
    ///
    /// Fails with INVALID_REQUEST if the bytes are not an assignment.
    pub fn decode(mut bytes: Bytes) -> Result<Self, Error> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        if get_i16(&mut bytes)? < 0 {
            return Err(decode_error());
        }
        let partitions = get_partitions(&mut bytes)?;
        Ok(Self {
            partitions,
            user_data: get_bytes(&mut bytes)?,
        })
    }
}

fn decode_error() -> Error {
    Error::new(
        ErrorCode::InvalidRequest,
        "the bytes do not follow Kafka's consumer protocol",
    )
}

fn to_i32_len(len: usize) -> i32 {
    i32::try_from(len).unwrap_or(i32::MAX)
}

fn put_string(out: &mut BytesMut, text: &str) {
    // Topic names are far shorter than this limit.
    let text = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
    out.put_i16(text.len() as i16);
    out.put_slice(text);
}

fn put_bytes(out: &mut BytesMut, data: Option<&Bytes>) {
    match data {
        None => out.put_i32(-1),
        Some(data) => {
            out.put_i32(to_i32_len(data.len()));
            out.put_slice(data);
        }
    }
}

fn put_partitions(out: &mut BytesMut, partitions: &[TopicPartition]) {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics
            .entry(&partition.topic)
            .or_default()
            .push(partition.partition);
    }
    out.put_i32(to_i32_len(topics.len()));
    for (topic, numbers) in topics {
        put_string(out, topic);
        out.put_i32(to_i32_len(numbers.len()));
        numbers.iter().for_each(|number| out.put_i32(*number));
    }
}

fn get_i16(bytes: &mut Bytes) -> Result<i16, Error> {
    bytes.try_get_i16().map_err(|_| decode_error())
}

fn get_i32(bytes: &mut Bytes) -> Result<i32, Error> {
    bytes.try_get_i32().map_err(|_| decode_error())
}

fn take(bytes: &mut Bytes, length: usize) -> Result<Bytes, Error> {
    if length > bytes.len() {
        Err(decode_error())
    } else {
        Ok(bytes.split_to(length))
    }
}

fn get_string(bytes: &mut Bytes) -> Result<String, Error> {
    let length = usize::try_from(get_i16(bytes)?).map_err(|_| decode_error())?;
    String::from_utf8(take(bytes, length)?.to_vec()).map_err(|_| decode_error())
}

fn get_bytes(bytes: &mut Bytes) -> Result<Option<Bytes>, Error> {
    match get_i32(bytes)? {
        -1 => Ok(None),
        length => take(bytes, usize::try_from(length).map_err(|_| decode_error())?).map(Some),
    }
}

fn get_partitions(bytes: &mut Bytes) -> Result<Vec<TopicPartition>, Error> {
    let mut out = Vec::new();
    for _ in 0..get_i32(bytes)? {
        let topic = get_string(bytes)?;
        for _ in 0..get_i32(bytes)? {
            out.push(TopicPartition::new(topic.clone(), get_i32(bytes)?));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_partitions() -> impl Strategy<Value = Vec<TopicPartition>> {
        prop::collection::btree_set(("[a-z]{1,5}", 0_i32..9), 0..20).prop_map(|set| {
            set.into_iter()
                .map(|(topic, partition)| TopicPartition::new(topic, partition))
                .collect()
        })
    }

    fn any_user_data() -> impl Strategy<Value = Option<Bytes>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from))
    }

    proptest! {
        #[test]
        fn subscriptions_read_back(
            topics in prop::collection::vec("[a-z]{0,9}", 0..5),
            owned in any_partitions(), user_data in any_user_data(), generation in prop::option::of(0..i32::MAX),
        ) {
            let subscription = ConsumerSubscription { topics, user_data, owned, generation };
            prop_assert_eq!(ConsumerSubscription::decode(subscription.encode()).unwrap(), subscription);
        }

        #[test]
        fn assignments_read_back(partitions in any_partitions(), user_data in any_user_data()) {
            let assignment = ConsumerAssignment { partitions, user_data };
            prop_assert_eq!(ConsumerAssignment::decode(assignment.encode()).unwrap(), assignment);
        }

        #[test]
        fn damaged_bytes_are_an_error_or_a_value(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let bytes = Bytes::from(bytes);
            let _ = ConsumerSubscription::decode(bytes.clone());
            if let Ok(assignment) = ConsumerAssignment::decode(bytes.clone()) {
                prop_assert!(assignment.partitions.len() <= bytes.len());
            }
        }
    }

    #[test]
    fn kafkas_own_bytes_are_read() {
        // Version 0, one topic "t", no user data: sent by kafka-python's range assignor.
        let bytes = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b't', 0xff, 0xff, 0xff, 0xff]);
        let subscription = ConsumerSubscription::decode(bytes).unwrap();
        assert_eq!(
            (subscription.topics, subscription.user_data),
            (vec!["t".to_owned()], None)
        );
    }
}
