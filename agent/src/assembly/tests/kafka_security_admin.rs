//! Users, ACLs and quotas that Kafka's own tools read and change.

use streamhouse_core::kafka::*;
use streamhouse_core::security::{ScramCredential, ScramMechanism};

use super::{
    kafka_client::RawKafkaClient,
    kafka_sasl::{ACLS, authenticate, log_in, put_user},
    stores::FaultyStores,
    *,
};

async fn started() -> (FaultyStores, Agent, RawKafkaClient) {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &ACLS).await;
    put_user(&stores, &one, "admin", "admin").await;
    let admin = log_in(&one, "admin", "admin").await;
    (stores, one, admin)
}

/// Returns an ACL that allows a user to read a topic.
fn creation(principal: &str, topic: &str) -> CreateAclsAclCreation {
    CreateAclsAclCreation {
        resource_type: 2,
        resource_name: topic.to_owned(),
        resource_pattern_type: 3,
        principal: principal.to_owned(),
        host: "*".to_owned(),
        operation: 3,
        permission_type: 3,
    }
}

/// Returns a filter of everything.
fn everything() -> DeleteAclsFilter {
    DeleteAclsFilter {
        resource_type_filter: 1,
        pattern_type_filter: 1,
        operation: 1,
        permission_type: 1,
        ..DeleteAclsFilter::default()
    }
}

async fn described(client: &mut RawKafkaClient) -> Vec<(String, String)> {
    let request = DescribeAclsRequest {
        resource_type_filter: 1,
        pattern_type_filter: 1,
        operation: 1,
        permission_type: 1,
        ..DescribeAclsRequest::default()
    };
    let answer = client.call(&request, 3).await;
    assert_eq!(answer.error_code, 0);
    let acls = answer.resources.iter().flat_map(|resource| {
        let acls = resource.acls.iter();
        acls.map(|acl| (resource.resource_name.clone(), acl.principal.clone()))
    });
    acls.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn acls_are_created_described_and_deleted() {
    let (stores, one, mut admin) = started().await;
    create_topic(&one, "orders", 1).await;
    put_user(&stores, &one, "alice", "alice").await;
    let mut alice = log_in(&one, "alice", "alice").await;
    let mut invalid = [0; 5].map(|_| creation("User:alice", "orders"));
    invalid[0].principal = "alice".to_owned();
    invalid[1].resource_name = String::new();
    invalid[2].resource_type = 4;
    invalid[3].operation = 1;
    invalid[4].resource_pattern_type = 2;
    let creations = [&[creation("User:alice", "orders")][..], &invalid].concat();
    let answer = admin.call(&CreateAclsRequest { creations }, 3).await;
    let codes: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, 42, 42, 42, 42, 42]);
    let visible = async |client: &mut RawKafkaClient| {
        let answer = client.call(&MetadataRequest::default(), 12).await;
        answer.topics.len()
    };
    assert_eq!(visible(&mut alice).await, 1, "in force with the answer");
    let creations = vec![creation("User:bob", "a"), creation("User:*", "a")];
    admin.call(&CreateAclsRequest { creations }, 3).await;
    let texts = |acls: &[(&str, &str)]| -> Vec<(String, String)> {
        let acls = acls.iter();
        acls.map(|(name, principal)| ((*name).to_owned(), (*principal).to_owned()))
            .collect()
    };
    let mut all = described(&mut admin).await;
    all.sort();
    let expected = texts(&[("a", "User:*"), ("a", "User:bob"), ("orders", "User:alice")]);
    assert_eq!(all, expected);
    let unknown = DeleteAclsFilter {
        operation: 0,
        ..everything()
    };
    let of_alice = DeleteAclsFilter {
        principal_filter: Some("User:alice".to_owned()),
        ..everything()
    };
    let request = DeleteAclsRequest {
        filters: vec![unknown, of_alice.clone(), of_alice],
    };
    let answer = admin.call(&request, 3).await;
    let results = answer.filter_results.iter();
    let results = results.map(|result| (result.error_code, result.matching_acls.len()));
    assert_eq!(results.collect::<Vec<_>>(), [(42, 0), (0, 1), (0, 1)]);
    assert_eq!(visible(&mut alice).await, 0);
    assert_eq!(described(&mut admin).await.len(), 2);
    let filters = vec![everything(); 1001];
    let answer = admin.call(&DeleteAclsRequest { filters }, 3).await;
    let codes: Vec<i16> = answer
        .filter_results
        .iter()
        .map(|result| result.error_code)
        .collect();
    assert_eq!(codes, [42; 1001]);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acls_are_deleted_when_there_is_memory_for_the_answer() {
    let (stores, one, mut admin) = started().await;
    // Together they are larger than an answer that takes no memory.
    let topic = "x".repeat(249);
    let users = (0..50).map(|user| format!("User:{user}"));
    let creations = users.map(|user| creation(&user, &topic)).collect();
    admin.call(&CreateAclsRequest { creations }, 3).await;
    let taken = one.node.memory.fetch.acquire(usize::MAX).await.unwrap();
    let request = DeleteAclsRequest {
        filters: vec![everything()],
    };
    admin.send(&request, 3).await;
    sleep(Duration::from_millis(500)).await;
    let stored = stores.metadata.inner().load_security().await.unwrap();
    assert_eq!(stored.acls.len(), 50);
    drop(taken);
    let answer = admin.receive::<DeleteAclsRequest>(3).await.unwrap();
    assert_eq!(answer.filter_results[0].matching_acls.len(), 50);
    assert_eq!(described(&mut admin).await.len(), 0);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_authorization_there_are_no_acls() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    let request = CreateAclsRequest {
        creations: vec![creation("User:alice", "orders")],
    };
    assert_eq!(client.call(&request, 3).await.results[0].error_code, 54);
    let request = DeleteAclsRequest {
        filters: vec![everything()],
    };
    assert_eq!(client.call(&request, 3).await.filter_results[0].error_code, 54);
    let answer = client.call(&DescribeAclsRequest::default(), 3).await;
    assert_eq!(answer.error_code, 54);
    one.drain().await;
}

/// Returns a credential as Kafka's tools send it.
fn upsertion(
    user: &str,
    password: &str,
    iterations: i32,
) -> AlterUserScramCredentialsScramCredentialUpsertion {
    // The salted password for the number of iterations that the test accepts.
    let salted = pbkdf2(password, b"salt", 4096);
    AlterUserScramCredentialsScramCredentialUpsertion {
        name: user.to_owned(),
        mechanism: 1,
        iterations,
        salt: b"salt".to_vec().into(),
        salted_password: salted.into(),
    }
}

fn pbkdf2(password: &str, salt: &[u8], iterations: u32) -> Vec<u8> {
    let mut salted = vec![0; 32];
    ring::pbkdf2::derive(
        ring::pbkdf2::PBKDF2_HMAC_SHA256,
        std::num::NonZeroU32::new(iterations).unwrap(),
        salt,
        password.as_bytes(),
        &mut salted,
    );
    salted
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_checked_user_by_user() {
    let (_stores, one, mut admin) = started().await;
    let mut short = upsertion("short", "x", 4096);
    short.salted_password = vec![1; 8].into();
    let mut unknown = upsertion("unknown", "x", 4096);
    unknown.mechanism = 9;
    let request = AlterUserScramCredentialsRequest {
        upsertions: vec![
            upsertion("alice", "secret", 4096),
            upsertion("", "x", 4096),
            upsertion("few", "x", 4095),
            upsertion("many", "x", 16_385),
            upsertion("ANONYMOUS", "x", 4096),
            short,
            unknown,
            upsertion("twice", "x", 4096),
            upsertion("twice", "x", 4096),
        ],
        deletions: vec![AlterUserScramCredentialsScramCredentialDeletion {
            name: "nobody".to_owned(),
            mechanism: 1,
        }],
    };
    let answer = admin.call(&request, 0).await;
    let results = answer.results.iter();
    let codes: HashMap<&str, i16> = results
        .map(|result| (result.user.as_str(), result.error_code))
        .collect();
    let expected = [
        ("alice", 0),
        ("", 93),
        ("few", 93),
        ("many", 93),
        ("ANONYMOUS", 93),
        ("short", 93),
        ("unknown", 33),
        ("twice", 92),
        ("nobody", 91),
    ];
    assert_eq!(codes, HashMap::from(expected));
    one.drain().await;
}

/// Returns for each user the code and, for each credential, its mechanism and iterations.
async fn described_users(client: &mut RawKafkaClient, users: &[&str]) -> Vec<(String, i16, Vec<(i8, i32)>)> {
    let users = users.iter().map(|name| DescribeUserScramCredentialsUserName {
        name: (*name).to_owned(),
    });
    let request = DescribeUserScramCredentialsRequest {
        users: Some(users.collect()),
    };
    let answer = client.call(&request, 0).await;
    assert_eq!(answer.error_code, 0);
    let results = answer.results.into_iter().map(|result| {
        let infos = result.credential_infos.iter();
        let infos = infos.map(|info| (info.mechanism, info.iterations));
        let infos = infos.collect();
        (result.user, result.error_code, infos)
    });
    results.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_created_described_and_deleted() {
    let (_stores, one, mut admin) = started().await;
    let request = AlterUserScramCredentialsRequest {
        upsertions: vec![upsertion("alice", "secret", 4096)],
        ..AlterUserScramCredentialsRequest::default()
    };
    assert_eq!(admin.call(&request, 0).await.results[0].error_code, 0);
    let mut alice = RawKafkaClient::connect(&one).await;
    let code = authenticate(&mut alice, "SCRAM-SHA-256", ("alice", "secret")).await;
    assert_eq!(code, 0, "in force with the answer");
    let alice_is = ("alice".to_owned(), 0, vec![(1, 4096)]);
    let admin_is = ("admin".to_owned(), 0, vec![(1, 4096), (2, 4096)]);
    assert_eq!(
        described_users(&mut admin, &[]).await,
        [admin_is.clone(), alice_is.clone()]
    );
    let found = described_users(&mut admin, &["alice", "bob", "admin", "admin"]).await;
    let expected = [
        ("admin".to_owned(), 92, vec![]),
        alice_is,
        ("bob".to_owned(), 91, vec![]),
    ];
    assert_eq!(found, expected);
    let request = AlterUserScramCredentialsRequest {
        deletions: vec![AlterUserScramCredentialsScramCredentialDeletion {
            name: "alice".to_owned(),
            mechanism: 1,
        }],
        ..AlterUserScramCredentialsRequest::default()
    };
    assert_eq!(admin.call(&request, 0).await.results[0].error_code, 0);
    alice.send(&MetadataRequest::default(), 12).await;
    alice.assert_closed().await;
    one.drain().await;
}

pub(super) fn quota(parts: &[(&str, Option<&str>)], ops: &[(&str, f64, bool)]) -> AlterClientQuotasEntryData {
    let parts = parts.iter().map(|(part, name)| AlterClientQuotasEntityData {
        entity_type: (*part).to_owned(),
        entity_name: name.map(str::to_owned),
    });
    let ops = ops.iter().map(|(key, value, remove)| AlterClientQuotasOpData {
        key: (*key).to_owned(),
        value: *value,
        remove: *remove,
    });
    AlterClientQuotasEntryData {
        entity: parts.collect(),
        ops: ops.collect(),
    }
}

pub(super) async fn alter_quotas(
    client: &mut RawKafkaClient,
    entries: Vec<AlterClientQuotasEntryData>,
    validate_only: bool,
) -> Vec<i16> {
    let request = AlterClientQuotasRequest {
        entries,
        validate_only,
    };
    let answer = client.call(&request, 1).await;
    answer.entries.iter().map(|entry| entry.error_code).collect()
}

/// Returns the code, and the number of quotas, for which a filter by one component asks.
async fn describe_quotas(
    client: &mut RawKafkaClient,
    (entity_type, match_type, match_name): (&str, i8, Option<&str>),
) -> (i16, Option<usize>) {
    let request = DescribeClientQuotasRequest {
        components: vec![DescribeClientQuotasComponentData {
            entity_type: entity_type.to_owned(),
            match_type,
            match_name: match_name.map(str::to_owned),
        }],
        strict: false,
    };
    let answer = client.call(&request, 1).await;
    let count = |entries: Vec<DescribeClientQuotasEntryData>| -> usize {
        entries.iter().map(|entry| entry.values.len()).sum()
    };
    (answer.error_code, answer.entries.map(count))
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_set_described_and_removed() {
    let (_stores, one, mut admin) = started().await;
    let rate = ("producer_byte_rate", 1000.0, false);
    let entries = || {
        vec![
            quota(
                &[("user", Some("alice"))],
                &[rate, ("consumer_byte_rate", 5.0, false)],
            ),
            quota(&[("user", None), ("client-id", Some("app"))], &[rate]),
            quota(&[("ip", Some("10.0.0.1"))], &[rate]),
            quota(&[], &[rate]),
            quota(&[("planet", None)], &[rate]),
            quota(&[("user", Some("bob"))], &[("no_such_rate", 1.0, false)]),
            quota(&[("user", Some("bob"))], &[("producer_byte_rate", -1.0, false)]),
            quota(&[("user", Some("eve"))], &[rate, rate]),
        ]
    };
    let codes = [0, 0, 42, 42, 42, 42, 42, 42];
    assert_eq!(alter_quotas(&mut admin, entries(), true).await, codes);
    let users = ("user", 2, None);
    assert_eq!(describe_quotas(&mut admin, users).await, (0, Some(0)));
    assert_eq!(alter_quotas(&mut admin, entries(), false).await, codes);
    assert_eq!(describe_quotas(&mut admin, users).await, (0, Some(3)));
    let alice = ("user", 0, Some("alice"));
    assert_eq!(describe_quotas(&mut admin, alice).await, (0, Some(2)));
    assert_eq!(describe_quotas(&mut admin, ("user", 1, None)).await, (0, Some(1)));
    assert_eq!(describe_quotas(&mut admin, ("user", 0, None)).await, (42, None));
    assert_eq!(describe_quotas(&mut admin, ("planet", 2, None)).await, (35, None));
    let removal = quota(
        &[("user", Some("alice"))],
        &[("producer_byte_rate", 0.0, true), ("no_such_rate", 0.0, true)],
    );
    assert_eq!(alter_quotas(&mut admin, vec![removal], false).await, [0]);
    assert_eq!(describe_quotas(&mut admin, alice).await, (0, Some(1)));
    one.drain().await;
}

#[test]
fn a_salted_password_is_that_of_a_derived_credential() {
    let derived = ScramCredential::derive(ScramMechanism::Sha256, "x", b"salt".to_vec(), 4096).unwrap();
    let salted = pbkdf2("x", b"salt", 4096);
    let sent = ScramCredential::from_salted_password(ScramMechanism::Sha256, b"salt".to_vec(), 4096, &salted);
    assert_eq!(sent.unwrap(), derived);
}
