//! Entities and values against Kafka's bounds, precedence against a search one by one, and filters.

use std::net::IpAddr;

use proptest::{prelude::*, sample::select};

use super::*;

const USER: QuotaEntityType = QuotaEntityType::User;
const CLIENT_ID: QuotaEntityType = QuotaEntityType::ClientId;
const IP: QuotaEntityType = QuotaEntityType::Ip;

/// `*` is the default.
fn name(text: &str) -> QuotaName {
    match text {
        "*" => QuotaName::Default,
        text => QuotaName::Named(text.to_owned()),
    }
}

fn entity(parts: &[(QuotaEntityType, &str)]) -> QuotaEntity {
    try_entity(parts).unwrap()
}

fn try_entity(parts: &[(QuotaEntityType, &str)]) -> Result<QuotaEntity, QuotaError> {
    QuotaEntity::new(parts.iter().map(|(kind, text)| (*kind, name(text))))
}

#[test]
fn entities_are_those_of_kafka() {
    for (parts, written) in [
        (&[(USER, "alice")][..], "user alice"),
        (
            &[(CLIENT_ID, "app"), (USER, "*")],
            "the default user, client-id app",
        ),
        (&[(IP, "*")], "the default ip"),
        (&[(IP, "::ffff:10.0.0.1")], "ip 10.0.0.1"),
        (&[(IP, "0:0:0:0:0:0:0:1")], "ip ::1"),
    ] {
        assert_eq!(entity(parts).to_string(), written);
    }
    for (parts, error) in [
        (&[][..], QuotaError::EmptyEntity),
        (&[(USER, "")], QuotaError::EmptyName(USER.name())),
        (&[(USER, "a\0")], QuotaError::NulCharacter(USER.name())),
        (
            &[(USER, "a"), (USER, "*")],
            QuotaError::DuplicateEntityType(USER.name()),
        ),
        (&[(USER, "a"), (IP, "*")], QuotaError::CombinedAddress),
        (&[(IP, "::1"), (CLIENT_ID, "*")], QuotaError::CombinedAddress),
        (
            &[(IP, "localhost")],
            QuotaError::InvalidAddress("localhost".to_owned()),
        ),
    ] {
        assert_eq!(try_entity(parts), Err(error));
    }
    for kind in QuotaEntityType::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
    }
    assert!("User".parse::<QuotaEntityType>().is_err());
}

#[test]
fn values_have_the_bounds_of_kafka() {
    let (user, address) = (entity(&[(USER, "a")]), entity(&[(IP, "*")]));
    for key in QuotaKey::ALL {
        assert_eq!(key.name().parse(), Ok(key));
        let is_of_address = key == QuotaKey::ConnectionCreationRate;
        assert_eq!(key.validate(&user, 1.0).is_ok(), !is_of_address);
        assert_eq!(key.validate(&address, 1.0).is_ok(), is_of_address);
        let valid = if is_of_address { &address } else { &user };
        for value in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5] {
            assert!(key.validate(valid, value).is_err(), "{key} {value}");
        }
        let is_fractional = matches!(
            key,
            QuotaKey::RequestPercentage | QuotaKey::ControllerMutationRate
        );
        assert_eq!(key.validate(valid, 0.5).is_ok(), is_fractional);
        assert_eq!(key.validate(valid, 3e9).is_ok(), !is_of_address);
        assert_eq!(key.validate(valid, 1e19).is_ok(), is_fractional);
    }
    assert!("producer-byte-rate".parse::<QuotaKey>().is_err());
}

#[test]
fn each_default_is_shared_by_whom_it_names_only() {
    let key = QuotaKey::ProducerByteRate;
    for (parts, scope) in [
        (&[(USER, "*")][..], QuotaScope::User),
        (&[(CLIENT_ID, "*")], QuotaScope::ClientId),
        (&[(USER, "*"), (CLIENT_ID, "*")], QuotaScope::UserAndClientId),
        (&[(USER, "*"), (CLIENT_ID, "c")], QuotaScope::UserAndClientId),
    ] {
        let quotas = ClientQuotas::new([(entity(parts), key, 7.0)]);
        let limit = quotas.limit(key, "u", "c").unwrap();
        assert_eq!((limit.per_second, limit.scope), (7.0, scope));
        assert_eq!(quotas.limit(QuotaKey::ConsumerByteRate, "u", "c"), None);
    }
    // A quota of another key does not hide one of a wider entity.
    let quotas = ClientQuotas::new([
        (
            entity(&[(USER, "u"), (CLIENT_ID, "c")]),
            QuotaKey::ConsumerByteRate,
            1.0,
        ),
        (entity(&[(CLIENT_ID, "*")]), key, 2.0),
    ]);
    assert_eq!(quotas.limit(key, "u", "c").unwrap().per_second, 2.0);
    assert_eq!(quotas.limit(key, "u", "").unwrap().per_second, 2.0);
}

#[test]
fn connections_are_limited_by_address() {
    let key = QuotaKey::ConnectionCreationRate;
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let named = (entity(&[(IP, "10.0.0.1")]), key, 1.0);
    let quotas = ClientQuotas::new([named.clone(), (entity(&[(IP, "*")]), key, 2.0)]);
    assert_eq!(quotas.connection_rate(address("10.0.0.1")), Some(1.0));
    assert_eq!(quotas.connection_rate(address("::ffff:10.0.0.1")), Some(1.0));
    assert_eq!(quotas.connection_rate(address("10.0.0.2")), Some(2.0));
    let quotas = ClientQuotas::new([named]);
    assert_eq!(quotas.connection_rate(address("10.0.0.2")), None);
    assert_eq!(quotas.limit(key, "u", "c"), None);
}

#[test]
fn entities_are_filtered_as_by_kafka() {
    let entities = [
        entity(&[(USER, "a")]),
        entity(&[(USER, "*")]),
        entity(&[(USER, "a"), (CLIENT_ID, "c")]),
        entity(&[(USER, "a"), (CLIENT_ID, "*")]),
        entity(&[(CLIENT_ID, "c")]),
        entity(&[(IP, "10.0.0.1")]),
        entity(&[(IP, "*")]),
    ];
    let only = |text: &str| QuotaMatch::Only(name(text));
    let selected = |components: &[(QuotaEntityType, QuotaMatch)], is_strict| {
        let filter = QuotaFilter::new(components.iter().cloned(), is_strict).unwrap();
        let indices = entities.iter().enumerate();
        let selected = indices.filter(|(_, entity)| filter.matches(entity));
        selected.map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert_eq!(selected(&[], false), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(selected(&[], true), [0; 0]);
    assert_eq!(selected(&[(USER, only("a"))], false), [0, 2, 3]);
    assert_eq!(selected(&[(USER, only("a"))], true), [0]);
    assert_eq!(selected(&[(USER, only("*"))], false), [1]);
    assert_eq!(selected(&[(USER, QuotaMatch::Any)], false), [0, 1, 2, 3]);
    assert_eq!(selected(&[(USER, QuotaMatch::Any)], true), [0, 1]);
    let both = [(USER, QuotaMatch::Any), (CLIENT_ID, QuotaMatch::Any)];
    assert_eq!(selected(&both, true), [2, 3]);
    assert_eq!(selected(&[(USER, only("a")), (CLIENT_ID, only("*"))], false), [3]);
    assert_eq!(selected(&[(IP, QuotaMatch::Any)], true), [5, 6]);
    assert_eq!(selected(&[(IP, only("::ffff:10.0.0.1"))], true), [5]);
    let twice = [(USER, QuotaMatch::Any), (USER, only("a"))];
    assert_eq!(
        QuotaFilter::new(twice, false),
        Err(QuotaError::DuplicateEntityType(USER.name()))
    );
    let combined = [(USER, QuotaMatch::Any), (IP, QuotaMatch::Any)];
    assert_eq!(
        QuotaFilter::new(combined, false),
        Err(QuotaError::CombinedAddress)
    );
}

#[test]
fn matches_have_the_codes_of_kafka() {
    let named = || Some("a".to_owned());
    let exact = QuotaMatch::Only(QuotaName::Named("a".to_owned()));
    assert_eq!(QuotaMatch::from_code(0, named()), Ok(exact));
    assert_eq!(
        QuotaMatch::from_code(1, None),
        Ok(QuotaMatch::Only(QuotaName::Default))
    );
    assert_eq!(QuotaMatch::from_code(2, None), Ok(QuotaMatch::Any));
    for (code, name) in [(0, None), (1, named()), (2, named())] {
        assert_eq!(QuotaMatch::from_code(code, name), Err(QuotaError::MatchName));
    }
    for code in [-1, 3] {
        assert_eq!(
            QuotaMatch::from_code(code, None),
            Err(QuotaError::UnknownMatchType(code))
        );
    }
}

/// The parts of entities, in the order of Kafka's precedence, for the user `a` and the client `c`.
const PRECEDENCE: [(Option<&str>, Option<&str>); 8] = [
    (Some("a"), Some("c")),
    (Some("a"), Some("*")),
    (Some("a"), None),
    (Some("*"), Some("c")),
    (Some("*"), Some("*")),
    (Some("*"), None),
    (None, Some("c")),
    (None, Some("*")),
];

proptest! {
    #[test]
    fn the_limit_is_that_of_the_first_entity(
        present in prop::collection::vec((select(&PRECEDENCE[..]), 1_u32..100), 0..12),
        others in prop::collection::vec((select(vec!["b", "*"]), select(vec!["d", "*"])), 0..4),
    ) {
        let key = QuotaKey::ConsumerByteRate;
        let make = |(user, client): (Option<&str>, Option<&str>)| {
            let parts = [(USER, user), (CLIENT_ID, client)];
            let parts: Vec<_> = parts.into_iter().filter_map(|(kind, name)| Some((kind, name?))).collect();
            entity(&parts)
        };
        let mut values = std::collections::BTreeMap::new();
        for (user, client) in others {
            if (user, client) != ("*", "*") {
                values.insert(make((Some(user), Some(client))), 1000.0);
            }
        }
        for (parts, value) in present {
            values.insert(make(parts), f64::from(value));
        }
        let quotas = ClientQuotas::new(values.iter().map(|(entity, value)| (entity.clone(), key, *value)));
        let expected = PRECEDENCE.iter().find_map(|parts| values.get(&make(*parts)).copied());
        prop_assert_eq!(quotas.limit(key, "a", "c").map(|limit| limit.per_second), expected);
    }
}
