//! Codes and names against Kafka's, validation, and filters against Kafka's own answers.

use super::*;
use crate::security::principal::KafkaPrincipal;

pub(in crate::security) fn binding(resource_type: AclResourceType, name: &str) -> AclBinding {
    AclBinding {
        resource_type,
        name: name.to_owned(),
        pattern: AclPatternType::Literal,
        principal: KafkaPrincipal::user("alice").unwrap(),
        host: AclHost::Any,
        operation: AclOperation::Describe,
        permission: AclPermission::Allow,
    }
}

#[test]
fn codes_and_names_lead_back_to_the_value() {
    for &operation in AclOperation::ALL {
        assert_eq!(AclOperation::from_code(operation.code()), Ok(operation));
        assert_eq!(
            AclOperation::filter_from_code(operation.code()),
            Ok(Some(operation))
        );
        for name in [operation.name(), operation.kafka_name()] {
            assert_eq!(name.parse(), Ok(operation));
            assert_eq!(name.to_lowercase().parse(), Ok(operation));
            assert_eq!(name.to_uppercase().parse(), Ok(operation));
        }
        let json = serde_json::to_string(&operation).unwrap();
        assert_eq!(json, format!("\"{}\"", operation.kafka_name().to_lowercase()));
        assert_eq!(serde_json::from_str::<AclOperation>(&json).unwrap(), operation);
    }
    assert_eq!(AclOperation::ALL.len(), 14);
    assert_eq!("alter-configs".parse(), Ok(AclOperation::AlterConfigs));
    assert_eq!(AclOperation::TwoPhaseCommit.code(), 15);
    assert_eq!(AclResourceType::ALL.map_codes(), [2, 3, 4, 5, 6, 7]);
    assert_eq!(AclPatternType::ALL.map_codes(), [3, 4]);
    assert_eq!(AclPermission::ALL.map_codes(), [2, 3]);
    assert_eq!("TRANSACTIONAL_ID".parse(), Ok(AclResourceType::TransactionalId));
}

trait MapCodes {
    fn map_codes(&self) -> Vec<i8>;
}

macro_rules! map_codes {
    ($($kind:ty)*) => { $(
        impl MapCodes for [$kind] {
            fn map_codes(&self) -> Vec<i8> { self.iter().map(|value| value.code()).collect() }
        }
    )* };
}
map_codes!(AclResourceType AclPatternType AclPermission);

#[test]
fn unknown_codes_and_names_are_refused_with_what_is_known() {
    for code in [i8::MIN, -1, 0, 16, 127] {
        assert!(AclOperation::from_code(code).is_err());
        assert!(AclOperation::filter_from_code(code).is_err());
        assert!(AclPatternFilter::from_code(code).is_err());
    }
    // One stands for every value, in filters only.
    assert!(AclOperation::from_code(1).is_err() && AclResourceType::from_code(1).is_err());
    assert_eq!(AclOperation::filter_from_code(1), Ok(None));
    let error = "reed".parse::<AclPermission>().unwrap_err().to_string();
    assert_eq!(error, "`reed` is no permission: one of Deny, Allow");
    for code in 1..=4 {
        assert_eq!(AclPatternFilter::from_code(code).unwrap().code(), code);
    }
    for (name, filter) in [
        ("Any", AclPatternFilter::Any),
        ("MATCH", AclPatternFilter::Match),
        ("prefixed", AclPatternFilter::Only(AclPatternType::Prefixed)),
    ] {
        assert_eq!(name.parse(), Ok(filter));
    }
}

#[test]
fn hosts_are_addresses_or_every_host() {
    for (text, written) in [
        ("*", "*"),
        ("10.0.0.1", "10.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
    ] {
        let host: AclHost = text.parse().unwrap();
        assert_eq!(host.to_string(), written);
    }
    for text in ["", "localhost", "10.0.0.0/8", "10.0.0.*", " *", "10.0.0.1:9092"] {
        assert_eq!(
            text.parse::<AclHost>(),
            Err(AclError::InvalidHost(text.to_owned()))
        );
    }
}

#[test]
fn bindings_are_validated() {
    use AclResourceType::*;
    for &resource_type in AclResourceType::ALL {
        let name = if resource_type == Cluster {
            CLUSTER_RESOURCE_NAME
        } else {
            "*"
        };
        let mut valid = binding(resource_type, name);
        for &operation in AclOperation::ALL {
            valid.operation = operation;
            let supported = operation == AclOperation::All || resource_type.operations().contains(&operation);
            assert_eq!(valid.validate().is_ok(), supported, "{resource_type} {operation}");
        }
        assert_eq!(
            binding(resource_type, "").validate(),
            Err(AclError::EmptyResourceName(resource_type.name()))
        );
    }
    for name in ["*", "kafka", "kafka-cluster-2"] {
        let error = binding(Cluster, name).validate();
        assert_eq!(error, Err(AclError::ClusterName(name.to_owned())));
    }
    assert_eq!(binding(Topic, "a\0").validate(), Err(AclError::NulCharacter));
    let mut unsupported = binding(TransactionalId, "t");
    unsupported.operation = AclOperation::Read;
    assert_eq!(
        unsupported.validate().unwrap_err().to_string(),
        "TransactionalId resources have no operation Read: one of All, Write, Describe, TwoPhaseCommit"
    );
}

#[test]
fn bindings_survive_the_store_and_read_as_a_sentence() {
    let stored = binding(AclResourceType::Topic, "orders");
    let json = serde_json::to_string(&stored).unwrap();
    assert_eq!(
        json,
        r#"{"resource_type":"topic","name":"orders","pattern":"literal","principal":"User:alice","host":"*","operation":"describe","permission":"allow"}"#
    );
    assert_eq!(serde_json::from_str::<AclBinding>(&json).unwrap(), stored);
    assert_eq!(
        stored.to_string(),
        "Allow User:alice Describe on Topic orders (Literal) from *"
    );
    assert!(serde_json::from_str::<AclBinding>(&json.replace("User:alice", "alice")).is_err());
}

#[test]
fn patterns_are_filtered_as_by_kafka() {
    let patterns = [
        ("foo", AclPatternType::Literal),
        ("foo", AclPatternType::Prefixed),
        ("fo", AclPatternType::Prefixed),
        ("*", AclPatternType::Literal),
        ("*", AclPatternType::Prefixed),
        ("foobar", AclPatternType::Literal),
    ];
    let selected = |name: Option<&str>, pattern| {
        let filter = AclFilter {
            name: name.map(str::to_owned),
            pattern,
            ..AclFilter::default()
        };
        let indices = patterns.iter().enumerate().filter(|(_, (name, pattern))| {
            let mut binding = binding(AclResourceType::Topic, name);
            binding.pattern = *pattern;
            filter.matches(&binding)
        });
        indices.map(|(index, _)| index).collect::<Vec<_>>()
    };
    use AclPatternFilter::{Any, Match, Only};
    assert_eq!(selected(None, Any), [0, 1, 2, 3, 4, 5]);
    assert_eq!(selected(None, Match), [0, 1, 2, 3, 4, 5]);
    assert_eq!(selected(None, Only(AclPatternType::Prefixed)), [1, 2, 4]);
    assert_eq!(selected(Some("foo"), Any), [0, 1]);
    assert_eq!(selected(Some("foo"), Only(AclPatternType::Literal)), [0]);
    assert_eq!(selected(Some("foo"), Only(AclPatternType::Prefixed)), [1]);
    assert_eq!(selected(Some("foo"), Match), [0, 1, 2, 3]);
    assert_eq!(selected(Some("foobar"), Match), [1, 2, 3, 5]);
    assert_eq!(selected(Some("*"), Match), [3, 4]);
    assert_eq!(selected(Some("*"), Any), [3, 4]);
    assert_eq!(selected(Some("bar"), Match), [3]);
}

#[test]
fn entries_are_filtered_by_equality() {
    let mut stored = binding(AclResourceType::Topic, "t");
    stored.host = "::1".parse().unwrap();
    let same = AclFilter::from(&stored);
    assert!(same.matches(&stored));
    let others: [fn(&mut AclFilter); 6] = [
        |filter| filter.resource_type = Some(AclResourceType::Group),
        |filter| filter.principal = Some("User:*".to_owned()),
        |filter| filter.host = Some("*".to_owned()),
        |filter| filter.host = Some("localhost".to_owned()),
        |filter| filter.operation = Some(AclOperation::All),
        |filter| filter.permission = Some(AclPermission::Deny),
    ];
    for change in others {
        let mut filter = same.clone();
        change(&mut filter);
        assert!(!filter.matches(&stored), "{filter:?}");
    }
    let written_otherwise = AclFilter {
        host: Some("0:0:0:0:0:0:0:1".to_owned()),
        ..same
    };
    assert!(written_otherwise.matches(&stored));
    assert!(AclFilter::default().matches(&stored));
}
