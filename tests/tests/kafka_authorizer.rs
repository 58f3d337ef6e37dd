//! Decisions about generated rules, compared with those of Kafka's own authorizer.
//!
//! The seed is printed; `STREAMHOUSE_TEST_SEED` repeats a run. Two differences on purpose are not
//! generated: rules of `*` hold for resources whose name begins with `*`, and `User:*` may ask.

use std::{
    collections::{BTreeSet, hash_map::RandomState},
    fmt::Write as _,
    hash::{BuildHasher as _, Hasher as _},
    net::IpAddr,
    path::Path,
    time::Duration,
};

use streamhouse_core::security::{
    AclAuthorizer, AclBinding, AclOperation, AclPatternType, AclPermission, AclResourceType,
    CLUSTER_RESOURCE_NAME, KafkaPrincipal,
};
use streamhouse_testkit::KafkaProgram;

const RULE_SETS: usize = 50;
const QUESTIONS: usize = 200;
/// One of so many questions is about a type.
const BY_TYPE: u64 = 8;
const TIMEOUT: Duration = Duration::from_secs(120);

const NAMES: [&str; 9] = [
    "o",
    "or",
    "orders",
    "orders-eu",
    "orders-us",
    "payments",
    "p",
    "x",
    "é",
];
const USERS: [&str; 4] = ["alice", "bob", "carol", "root"];
const HOSTS: [&str; 3] = ["10.0.0.1", "10.0.0.2", "192.168.7.9"];

/// A generator of test data (SplitMix64).
struct TestRandom(u64);

impl TestRandom {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }

    fn of<T: Copy>(&mut self, values: &[T]) -> T {
        let index = usize::try_from(self.next()).unwrap_or_default() % values.len();
        values[index]
    }

    /// Mostly those whose rules matter to each other.
    fn resource_type(&mut self) -> AclResourceType {
        match self.one_in(3) {
            true => self.of(AclResourceType::ALL),
            false => AclResourceType::Topic,
        }
    }

    fn name_of(&mut self, resource_type: AclResourceType) -> String {
        let cluster = resource_type == AclResourceType::Cluster;
        if cluster {
            CLUSTER_RESOURCE_NAME
        } else {
            self.of(&NAMES)
        }
        .to_owned()
    }

    fn rule(&mut self) -> anyhow::Result<AclBinding> {
        let resource_type = self.resource_type();
        let (any_name, prefixed) = (self.one_in(8), self.one_in(2));
        let name = self.name_of(resource_type);
        let (any_user, any_host, denies) = (self.one_in(6), self.one_in(2), self.one_in(3));
        let user = if any_user { "*" } else { self.of(&USERS) };
        let host = if any_host { "*" } else { self.of(&HOSTS) };
        Ok(AclBinding {
            resource_type,
            name: if any_name { "*".to_owned() } else { name },
            pattern: match prefixed && !any_name {
                true => AclPatternType::Prefixed,
                false => AclPatternType::Literal,
            },
            principal: KafkaPrincipal::user(user)?,
            host: host.parse()?,
            operation: self.of(AclOperation::ALL),
            permission: if denies {
                AclPermission::Deny
            } else {
                AclPermission::Allow
            },
        })
    }
}

/// Rules and questions, as the oracle reads them, with our answers.
#[derive(Default)]
struct AuthorizerCases {
    lines: String,
    answers: Vec<(String, String)>,
}

impl AuthorizerCases {
    fn add(&mut self, random: &mut TestRandom) -> anyhow::Result<()> {
        self.lines.push_str("reset\n");
        // Kafka refuses a rule that it has.
        let rules = (0..random.next() % 40).map(|_| random.rule());
        let rules: BTreeSet<AclBinding> = rules.collect::<anyhow::Result<_>>()?;
        for rule in &rules {
            let AclBinding {
                resource_type,
                name,
                pattern,
                principal,
                host,
                operation,
                permission,
            } = rule;
            let (kind, pattern) = (resource_type.code(), pattern.code());
            let (operation, permission) = (operation.code(), permission.code());
            let written = writeln!(
                self.lines,
                "acl\t{kind}\t{name}\t{pattern}\t{principal}\t{host}\t{operation}\t{permission}"
            );
            written?;
        }
        let authorizer = AclAuthorizer::new(rules, ["User:root".parse()?], false);
        for _ in 0..QUESTIONS {
            self.ask(&authorizer, random)?;
        }
        Ok(())
    }

    fn ask(&mut self, authorizer: &AclAuthorizer, random: &mut TestRandom) -> anyhow::Result<()> {
        let principal = KafkaPrincipal::user(random.of(&USERS))?;
        let host = random.of(&HOSTS);
        let address: Option<IpAddr> = host.parse().ok();
        let operation = random.of(AclOperation::ALL);
        // Kafka refuses to be asked for any operation of a type.
        let by_type = random.one_in(BY_TYPE) && operation != AclOperation::All;
        let resource_type = random.resource_type();
        let (code, kind) = (operation.code(), resource_type.code());
        let (line, decision) = if by_type {
            let decision =
                authorizer.authorize_by_resource_type(&principal, address, operation, resource_type);
            (format!("type\t{principal}\t{host}\t{code}\t{kind}"), decision)
        } else {
            let name = random.name_of(resource_type);
            let decision = authorizer.authorize(&principal, address, operation, resource_type, &name);
            (
                format!("ask\t{principal}\t{host}\t{code}\t{kind}\t{name}"),
                decision,
            )
        };
        let answer = if decision.is_allowed() {
            "ALLOWED"
        } else {
            "DENIED"
        };
        self.lines.push_str(&line);
        self.lines.push('\n');
        self.answers.push((line, answer.to_owned()));
        Ok(())
    }
}

#[test]
fn ten_thousand_decisions_are_those_of_kafkas_authorizer() {
    let given = std::env::var("STREAMHOUSE_TEST_SEED").ok();
    let seed = given.map_or_else(
        || RandomState::new().build_hasher().finish(),
        |seed| seed.parse().unwrap(),
    );
    println!("STREAMHOUSE_TEST_SEED={seed}");
    let mut random = TestRandom(seed);
    let mut cases = AuthorizerCases::default();
    (0..RULE_SETS).try_for_each(|_| cases.add(&mut random)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cases");
    std::fs::write(&file, &cases.lines).unwrap();
    let oracle = Path::new(env!("CARGO_MANIFEST_DIR")).join("kafka/AclOracle.java");
    let command = KafkaProgram::Source(&oracle).command().unwrap();
    let output = command.name("AclOracle").arg(&file).run(TIMEOUT).unwrap();
    let printed = output.ensure_success().unwrap().stdout_text();
    let expected: Vec<&str> = printed.lines().collect();
    assert_eq!(
        (expected.len(), cases.answers.len()),
        (RULE_SETS * QUESTIONS, RULE_SETS * QUESTIONS)
    );
    let allowed = expected.iter().filter(|answer| **answer == "ALLOWED").count();
    assert!(
        (500..9_500).contains(&allowed),
        "the questions are worth little: {allowed} allowed"
    );
    for ((question, answer), kafkas) in cases.answers.iter().zip(expected) {
        assert_eq!(answer, kafkas, "seed {seed}: {question}");
    }
}
