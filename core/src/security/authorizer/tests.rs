//! Decisions against the rules written down one by one, and those that Kafka is known for.

use proptest::{prelude::*, sample::select};

use super::*;
use crate::security::acl::{AclHost, AclPatternType};

const TOPIC: AclResourceType = AclResourceType::Topic;

fn user(name: &str) -> KafkaPrincipal {
    KafkaPrincipal::user(name).unwrap()
}

/// Reads a rule as the shell would: `allow alice read literal foo`.
fn rule(text: &str) -> AclBinding {
    let words: Vec<&str> = text.split(' ').collect();
    AclBinding {
        resource_type: TOPIC,
        name: words[4].to_owned(),
        pattern: words[3].parse().unwrap(),
        principal: user(words[1]),
        host: words.get(5).map_or(AclHost::Any, |host| host.parse().unwrap()),
        operation: words[2].parse().unwrap(),
        permission: words[0].parse().unwrap(),
    }
}

fn authorizer(rules: &[&str]) -> AclAuthorizer {
    AclAuthorizer::new(rules.iter().map(|text| rule(text)), [user("root")], false)
}

fn decide<'a>(authorizer: &'a AclAuthorizer, who: &str, what: AclOperation, name: &str) -> AclDecision<'a> {
    authorizer.authorize(&user(who), "10.0.0.1".parse().ok(), what, TOPIC, name)
}

#[test]
fn the_rule_that_decides_is_named() {
    use AclOperation::{Read, Write};
    let rules = [
        "allow alice read literal *",
        "allow alice read prefixed or",
        "allow alice read prefixed orders",
        "allow alice read literal orders",
        "deny bob all prefixed or",
        "allow bob read literal orders",
    ];
    let authorizer = authorizer(&rules);
    let decided_by = |who, name| decide(&authorizer, who, Read, name).rule().cloned();
    assert_eq!(decided_by("alice", "orders"), Some(rule(rules[3])));
    assert_eq!(decided_by("alice", "orders-eu"), Some(rule(rules[2])));
    assert_eq!(decided_by("alice", "order"), Some(rule(rules[1])));
    assert_eq!(decided_by("alice", "payments"), Some(rule(rules[0])));
    assert_eq!(decided_by("bob", "orders"), Some(rule(rules[4])));
    assert_eq!(
        decide(&authorizer, "bob", Write, "payments"),
        AclDecision::NoRuleMatches
    );
    assert_eq!(
        decide(&authorizer, "root", Write, "orders"),
        AclDecision::SuperUser
    );
    assert_eq!(
        decide(&authorizer, "bob", Read, "orders").to_string(),
        "denied by the rule: Deny User:bob All on Topic or (Prefixed) from *"
    );
}

#[test]
fn a_resource_without_rules_is_as_configured() {
    let rules = [rule("deny bob read literal orders")];
    for allowed in [false, true] {
        let authorizer = AclAuthorizer::new(rules.clone(), [], allowed);
        let ask = |who, name| decide(&authorizer, who, AclOperation::Read, name);
        assert_eq!(ask("bob", "payments"), AclDecision::NoRuleForResource { allowed });
        assert_eq!(ask("bob", "payments").is_allowed(), allowed);
        // A rule for anybody closes the resource to everybody.
        assert_eq!(ask("alice", "orders"), AclDecision::NoRuleMatches);
        let group = authorizer.authorize(
            &user("bob"),
            None,
            AclOperation::Read,
            AclResourceType::Group,
            "orders",
        );
        assert_eq!(group.is_allowed(), allowed);
    }
}

#[test]
fn describing_is_implied_by_what_is_allowed_only() {
    use AclOperation::*;
    for (operation, describe, configs) in [
        (Read, true, false),
        (Write, true, false),
        (Delete, true, false),
        (Alter, true, false),
        (Create, false, false),
        (AlterConfigs, false, true),
        (All, true, true),
    ] {
        let allow = authorizer(&[&format!("allow alice {operation} literal t")]);
        let deny = authorizer(&[
            &format!("deny alice {operation} literal t"),
            "allow alice describe literal t",
            "allow alice describe-configs literal t",
        ]);
        let may = |authorizer: &AclAuthorizer, what| decide(authorizer, "alice", what, "t").is_allowed();
        assert_eq!(may(&allow, Describe), describe, "{operation}");
        assert_eq!(may(&allow, DescribeConfigs), configs, "{operation}");
        let all = operation == All;
        assert_eq!(may(&deny, Describe), !all, "{operation}");
        assert_eq!(may(&deny, DescribeConfigs), !all, "{operation}");
    }
}

#[test]
fn hosts_count_as_addresses() {
    let authorizer = authorizer(&[
        "allow alice read literal t 10.0.0.1",
        "deny bob read literal t 10.0.0.1",
        "allow bob read literal t",
    ]);
    let may = |who, host: Option<&str>| {
        let host = host.map(|host| host.parse().unwrap());
        let decision = authorizer.authorize(&user(who), host, AclOperation::Read, TOPIC, "t");
        decision.is_allowed()
    };
    assert!(may("alice", Some("10.0.0.1")) && may("alice", Some("::ffff:10.0.0.1")));
    assert!(!may("alice", Some("10.0.0.2")) && !may("alice", None));
    assert!(may("bob", Some("10.0.0.2")) && !may("bob", Some("10.0.0.1")));
    assert!(!may("bob", None), "an unknown host may be the denied one");
}

#[test]
fn the_rules_of_all_resources_hold_for_names_that_begin_with_a_star() {
    let authorizer = authorizer(&["allow alice read prefixed *x", "deny alice read literal *"]);
    for name in ["*x", "*", "x", "!"] {
        let decision = decide(&authorizer, "alice", AclOperation::Read, name);
        assert!(!decision.is_allowed(), "{name}: {decision}");
    }
}

/// Returns the decision as the module's documentation has it, rule by rule.
fn decide_naively(rules: &[AclBinding], allowed: bool, query: &NaiveQuery) -> bool {
    let of_resource = rules
        .iter()
        .filter(|rule| rule.resource_type == query.resource_type);
    let of_resource: Vec<&AclBinding> = of_resource
        .filter(|rule| match rule.pattern {
            AclPatternType::Literal => rule.name == query.name || rule.name == "*",
            AclPatternType::Prefixed => query.name.starts_with(&rule.name),
        })
        .collect();
    let counts = |rule: &&&AclBinding| {
        let implied = rule.permission == AclPermission::Allow
            && match query.operation {
                AclOperation::Describe => matches!(
                    rule.operation,
                    AclOperation::Read | AclOperation::Write | AclOperation::Delete | AclOperation::Alter
                ),
                AclOperation::DescribeConfigs => rule.operation == AclOperation::AlterConfigs,
                _ => false,
            };
        (rule.principal == query.principal || rule.principal.to_string() == "User:*")
            && (rule.host == AclHost::Any || rule.host == AclHost::Address(query.host))
            && (rule.operation == AclOperation::All || rule.operation == query.operation || implied)
    };
    let counting: Vec<_> = of_resource.iter().filter(counts).collect();
    let denied = counting.iter().any(|rule| rule.permission == AclPermission::Deny);
    match (of_resource.is_empty(), counting.is_empty()) {
        (true, _) => allowed,
        (false, true) => false,
        (false, false) => !denied,
    }
}

/// Returns the decision for a type as Kafka's documentation has it: some rule allows what no single
/// rule denies.
fn decide_type_naively(rules: &[AclBinding], allowed: bool, query: &NaiveQuery) -> bool {
    let hardcoded = NaiveQuery {
        name: "hardcode".to_owned(),
        ..query.clone()
    };
    let counts = |rule: &&AclBinding| {
        rule.resource_type == query.resource_type
            && (rule.principal == query.principal || rule.principal.to_string() == "User:*")
            && (rule.host == AclHost::Any || rule.host == AclHost::Address(query.host))
            && (rule.operation == AclOperation::All || rule.operation == query.operation)
    };
    let counting: Vec<_> = rules.iter().filter(counts).collect();
    let is_denied = |allow: &AclBinding| {
        let mut denying = counting
            .iter()
            .filter(|rule| rule.permission == AclPermission::Deny);
        denying.any(|deny| match deny.pattern {
            AclPatternType::Literal if deny.name == "*" => true,
            AclPatternType::Literal => {
                allow.pattern == AclPatternType::Literal && allow.name == deny.name && deny.name != "*"
            }
            AclPatternType::Prefixed => !allow.is_wildcard() && allow.name.starts_with(&deny.name),
        })
    };
    let mut allowing = counting
        .iter()
        .filter(|rule| rule.permission == AclPermission::Allow);
    decide_naively(rules, allowed, &hardcoded) || allowing.any(|rule| !is_denied(rule))
}

#[derive(Debug, Clone)]
struct NaiveQuery {
    principal: KafkaPrincipal,
    host: IpAddr,
    operation: AclOperation,
    resource_type: AclResourceType,
    name: String,
}

fn principals() -> impl Strategy<Value = KafkaPrincipal> {
    select(vec!["User:a", "User:b", "User:*", "Group:a"]).prop_map(|text| text.parse().unwrap())
}

fn resource_types() -> impl Strategy<Value = AclResourceType> {
    select(vec![AclResourceType::Topic, AclResourceType::Group])
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        "[abé*]{1,4}",
        Just("hardcode".to_owned()),
        Just("h".to_owned())
    ]
}

fn operations() -> impl Strategy<Value = AclOperation> {
    use AclOperation::*;
    select(vec![All, Read, Write, Describe, AlterConfigs, DescribeConfigs])
}

fn rules() -> impl Strategy<Value = AclBinding> {
    let what = (
        resource_types(),
        names(),
        select(AclPatternType::ALL),
        operations(),
    );
    let hosts = select(vec!["*", "*", "10.0.0.1", "10.0.0.2"]);
    (what, principals(), hosts, select(AclPermission::ALL)).prop_map(
        |((resource_type, name, pattern, operation), principal, host, permission)| AclBinding {
            resource_type,
            name,
            pattern,
            principal,
            host: host.parse().unwrap(),
            operation,
            permission,
        },
    )
}

fn queries() -> impl Strategy<Value = NaiveQuery> {
    let hosts = select(vec!["10.0.0.1", "10.0.0.2"]);
    (principals(), hosts, operations(), resource_types(), "[abé*]{0,5}").prop_map(
        |(principal, host, operation, resource_type, name)| NaiveQuery {
            principal,
            host: host.parse().unwrap(),
            operation,
            resource_type,
            name,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decisions_are_those_of_the_rules_one_by_one(
        rules in prop::collection::vec(rules(), 0..24),
        queries in prop::collection::vec(queries(), 1..24),
        allowed: bool,
    ) {
        let authorizer = AclAuthorizer::new(rules.clone(), [], allowed);
        let mut kept: Vec<AclBinding> = authorizer.bindings().cloned().collect();
        kept.sort();
        let mut given = rules.clone();
        given.sort();
        prop_assert_eq!(kept, given);
        for query in queries {
            let NaiveQuery { principal, host, operation, resource_type, name } = &query;
            let decision = authorizer.authorize(principal, Some(*host), *operation, *resource_type, name);
            prop_assert_eq!(decision.is_allowed(), decide_naively(&rules, allowed, &query), "{:?} {}", query, decision);
            if let Some(rule) = decision.rule() {
                let deciding = decide_naively(std::slice::from_ref(rule), !decision.is_allowed(), &query);
                prop_assert_eq!(deciding, decision.is_allowed(), "{} does not decide {:?}", rule, query);
            }
            let decision = authorizer.authorize_by_resource_type(principal, Some(*host), *operation, *resource_type);
            prop_assert_eq!(decision.is_allowed(), decide_type_naively(&rules, allowed, &query), "{:?} {}", query, decision);
        }
    }
}
