//! Authentication of Kafka connections: right and wrong passwords, and clients that try to get
//! around it.

use bytes::Bytes;
use streamhouse_core::{
    kafka::{
        ApiVersionsRequest, MetadataRequest, MetadataRequestTopic, SaslAuthenticateRequest,
        SaslAuthenticateResponse, SaslHandshakeRequest,
    },
    security::{ScramClient, ScramCredential, ScramMechanism},
    time::system_entropy,
};
use streamhouse_metadata::{AclRow, ScramAlteration, ScramCredentialId, ScramCredentialRow};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{
    kafka_acls::fetch,
    kafka_client::{RawKafkaClient, batch, produce_request, produced},
    stores::FaultyStores,
    *,
};

pub(super) const MECHANISMS: &str = "--authentication=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512";
/// The settings of an agent whose clients need ACLs, but for one.
pub(super) const ACLS: [&str; 3] = [MECHANISMS, "--authorization=acl", "--super-users=User:admin"];
const PASSWORD: &str = "correct horse";

/// Waits until an agent has the users and ACLs of the metadata store.
async fn wait_for_security(stores: &FaultyStores, agent: &Agent) {
    let wanted = stores.metadata.inner().load_security().await.unwrap().version;
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while agent.node.security.version() != wanted {
        assert!(Instant::now() < deadline, "the users are not in force");
        agent.node.directory.refresh().await;
    }
}

/// Stores a user's password for both mechanisms.
pub(super) async fn put_user(stores: &FaultyStores, agent: &Agent, user: &str, password: &str) {
    let upserts = ScramMechanism::ALL.map(|mechanism| {
        let salt = format!("salt of {user}").into_bytes();
        ScramCredentialRow::new(
            user,
            &ScramCredential::derive(mechanism, password, salt, 4096).unwrap(),
        )
    });
    let alteration = ScramAlteration {
        upserts: upserts.to_vec(),
        ..ScramAlteration::default()
    };
    let metadata = stores.metadata.inner();
    metadata.alter_scram_credentials(&alteration).await.unwrap();
    wait_for_security(stores, agent).await;
}

/// Stores ACLs that allow an operation: user, operation, type and name of the resource.
pub(super) async fn allow(stores: &FaultyStores, agent: &Agent, acls: &[(&str, &str, &str, &str)]) {
    let rows = acls
        .iter()
        .map(|(user, operation, resource_type, resource_name)| AclRow {
            principal: format!("User:{user}"),
            resource_type: (*resource_type).to_owned(),
            resource_name: (*resource_name).to_owned(),
            pattern_type: "LITERAL".to_owned(),
            host: "*".to_owned(),
            operation: (*operation).to_owned(),
            permission: "ALLOW".to_owned(),
        });
    let rows: Vec<AclRow> = rows.collect();
    stores.metadata.inner().create_acls(&rows).await.unwrap();
    wait_for_security(stores, agent).await;
}

fn plain(user: &str, password: &str) -> Vec<u8> {
    format!("\0{user}\0{password}").into_bytes()
}

pub(super) async fn handshake(
    client: &mut RawKafkaClient,
    mechanism: &str,
    version: i16,
) -> (i16, Vec<String>) {
    let request = SaslHandshakeRequest {
        mechanism: mechanism.to_owned(),
    };
    let answer = client.call(&request, version).await;
    (answer.error_code, answer.mechanisms)
}

pub(super) async fn token(client: &mut RawKafkaClient, message: Vec<u8>) -> SaslAuthenticateResponse {
    let request = SaslAuthenticateRequest {
        auth_bytes: message.into(),
    };
    client.call(&request, 2).await
}

/// Returns the code with which an exchange ends.
pub(super) async fn authenticate(
    client: &mut RawKafkaClient,
    mechanism: &str,
    (user, password): (&str, &str),
) -> i16 {
    assert_eq!(handshake(client, mechanism, 1).await.0, 0);
    let Ok(mechanism) = mechanism.parse::<ScramMechanism>() else {
        return token(client, plain(user, password)).await.error_code;
    };
    let scram = ScramClient::new(mechanism, user, password, system_entropy().as_ref()).unwrap();
    let challenge = token(client, scram.first_message().as_bytes().to_vec()).await;
    assert_eq!(challenge.error_code, 0);
    let proof = scram.respond(challenge.auth_bytes.expose()).unwrap();
    let answer = token(client, proof.message().as_bytes().to_vec()).await;
    if answer.error_code == 0 {
        proof.verify(answer.auth_bytes.expose()).unwrap();
    }
    answer.error_code
}

/// Returns a connection that has authenticated.
pub(super) async fn log_in(agent: &Agent, user: &str, password: &str) -> RawKafkaClient {
    let mut client = RawKafkaClient::connect(agent).await;
    assert_eq!(authenticate(&mut client, "PLAIN", (user, password)).await, 0);
    client
}

pub(super) async fn is_served(client: &mut RawKafkaClient) -> bool {
    client.send(&MetadataRequest::default(), 12).await;
    client.receive::<MetadataRequest>(12).await.is_ok()
}

async fn started() -> (FaultyStores, Agent) {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[MECHANISMS]).await;
    put_user(&stores, &one, "alice", PASSWORD).await;
    (stores, one)
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_authenticate_by_every_mechanism() {
    let (_stores, one) = started().await;
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let mut client = RawKafkaClient::connect(&one).await;
        client.call(&ApiVersionsRequest::default(), 2).await;
        let code = authenticate(&mut client, mechanism, ("alice", PASSWORD)).await;
        assert_eq!((code, is_served(&mut client).await), (0, true), "{mechanism}");
        for (user, password) in [("alice", "wrong"), ("nobody", PASSWORD)] {
            let mut client = RawKafkaClient::connect(&one).await;
            assert_eq!(authenticate(&mut client, mechanism, (user, password)).await, 58);
            client.assert_closed().await;
        }
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_without_header_are_those_of_the_first_version() {
    let (_stores, one) = started().await;
    let exchange = async |client: &mut RawKafkaClient, message: &[u8]| {
        let length = i32::try_from(message.len()).unwrap().to_be_bytes();
        let frame = [&length[..], message].concat();
        client.stream.write_all(&frame).await.unwrap();
        client.receive_frame().await
    };
    let mut client = RawKafkaClient::connect(&one).await;
    assert_eq!(handshake(&mut client, "PLAIN", 0).await.0, 0);
    let answer = exchange(&mut client, &plain("alice", PASSWORD)).await.unwrap();
    assert!(answer.is_empty() && is_served(&mut client).await);

    let mut client = RawKafkaClient::connect(&one).await;
    assert_eq!(handshake(&mut client, "SCRAM-SHA-256", 0).await.0, 0);
    let entropy = system_entropy();
    let scram = ScramClient::new(ScramMechanism::Sha256, "alice", PASSWORD, entropy.as_ref()).unwrap();
    let challenge = exchange(&mut client, scram.first_message().as_bytes())
        .await
        .unwrap();
    let proof = scram.respond(&challenge).unwrap();
    let signature = exchange(&mut client, proof.message().as_bytes()).await.unwrap();
    proof.verify(&signature).unwrap();
    assert!(is_served(&mut client).await);

    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "PLAIN", 0).await;
    assert!(exchange(&mut client, &plain("alice", "wrong")).await.is_err());
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_served_before() {
    let (_stores, one) = started().await;
    let mut client = RawKafkaClient::connect(&one).await;
    assert!(!is_served(&mut client).await);
    let mut client = RawKafkaClient::connect(&one).await;
    let request = SaslAuthenticateRequest {
        auth_bytes: plain("alice", PASSWORD).into(),
    };
    client.send(&request, 2).await;
    client.assert_closed().await;

    let mut client = RawKafkaClient::connect(&one).await;
    let offered = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].map(str::to_owned);
    assert_eq!(handshake(&mut client, "GSSAPI", 1).await, (33, offered.to_vec()));
    client.assert_closed().await;

    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "PLAIN", 1).await;
    assert!(!is_served(&mut client).await, "within an exchange");
    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "PLAIN", 1).await;
    assert_eq!(handshake(&mut client, "PLAIN", 1).await.0, 34);
    client.assert_closed().await;
    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "PLAIN", 1).await;
    let answer = client.call(&ApiVersionsRequest::default(), 2).await;
    assert_eq!(answer.error_code, 34);
    client.assert_closed().await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_behind_an_exchange_wait_for_its_end() {
    let (_stores, one) = started().await;
    for (password, code) in [(PASSWORD, 0), ("wrong", 58)] {
        let mut client = RawKafkaClient::connect(&one).await;
        let begin = SaslHandshakeRequest {
            mechanism: "PLAIN".to_owned(),
        };
        client.send(&begin, 1).await;
        let message = SaslAuthenticateRequest {
            auth_bytes: plain("alice", password).into(),
        };
        client.send(&message, 2).await;
        client.send(&MetadataRequest::default(), 12).await;
        let begun = client.receive::<SaslHandshakeRequest>(1).await.unwrap();
        let ended = client.receive::<SaslAuthenticateRequest>(2).await.unwrap();
        assert_eq!((begun.error_code, ended.error_code), (0, code));
        let served = client.receive::<MetadataRequest>(12).await;
        assert_eq!(served.is_ok(), code == 0);
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_not_authenticated_get_little() {
    let (_stores, one) = started().await;
    let large = MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some("x".repeat(30_000)),
            ..MetadataRequestTopic::default()
        }]),
        ..MetadataRequest::default()
    };
    let large_token = SaslAuthenticateRequest {
        auth_bytes: vec![b'x'; 70_000].into(),
    };
    let mut silent = RawKafkaClient::connect(&one).await;
    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "PLAIN", 1).await;
    client.send(&large_token, 2).await;
    client.assert_closed().await;
    // Within a frame.
    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "SCRAM-SHA-256", 1).await;
    client.stream.write_all(&[0, 0, 0, 99, 0, 36, 0]).await.unwrap();
    client.stream.shutdown().await.unwrap();
    client.assert_closed().await;
    let mut client = log_in(&one, "alice", PASSWORD).await;
    let answer = client.call(&large, 12).await;
    assert_eq!(answer.topics[0].error_code, 17);
    let begun = Instant::now();
    silent.assert_closed().await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(is_served(&mut client).await, "it has authenticated");
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_another_exchange_proves_nothing() {
    let (_stores, one) = started().await;
    let entropy = system_entropy();
    let scram = ScramClient::new(ScramMechanism::Sha512, "alice", PASSWORD, entropy.as_ref()).unwrap();
    let first = scram.first_message().as_bytes().to_vec();
    let mut client = RawKafkaClient::connect(&one).await;
    handshake(&mut client, "SCRAM-SHA-512", 1).await;
    let challenge = token(&mut client, first.clone()).await;
    let proof = scram.respond(challenge.auth_bytes.expose()).unwrap();
    let proof = proof.message().as_bytes().to_vec();
    assert_eq!(token(&mut client, proof.clone()).await.error_code, 0);
    let mut other = RawKafkaClient::connect(&one).await;
    handshake(&mut other, "SCRAM-SHA-512", 1).await;
    assert_eq!(token(&mut other, first).await.error_code, 0);
    assert_eq!(token(&mut other, proof.clone()).await.error_code, 58);
    other.assert_closed().await;
    // The exchange has ended, the connection has not.
    assert_eq!(token(&mut client, proof).await.error_code, 34);
    assert!(is_served(&mut client).await);
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_or_none_ends_the_connections_of_a_user() {
    let (stores, one) = started().await;
    put_user(&stores, &one, "bob", PASSWORD).await;
    let mut alice = log_in(&one, "alice", PASSWORD).await;
    let mut bob = log_in(&one, "bob", PASSWORD).await;
    put_user(&stores, &one, "alice", "another").await;
    assert!(!is_served(&mut alice).await);
    assert!(is_served(&mut bob).await);
    let deletions = ScramMechanism::ALL.map(|mechanism| ScramCredentialId {
        user_name: "bob".to_owned(),
        mechanism: mechanism.name().to_owned(),
    });
    let alteration = ScramAlteration {
        deletions: deletions.to_vec(),
        ..ScramAlteration::default()
    };
    let metadata = stores.metadata.inner();
    metadata.alter_scram_credentials(&alteration).await.unwrap();
    wait_for_security(&stores, &one).await;
    assert!(!is_served(&mut bob).await);
    let mut client = RawKafkaClient::connect(&one).await;
    assert_eq!(
        authenticate(&mut client, "SCRAM-SHA-256", ("bob", PASSWORD)).await,
        58
    );
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_fetch_is_not_answered_after_its_password_is_gone() {
    let (stores, one) = started().await;
    put_user(&stores, &one, "bob", PASSWORD).await;
    create_topic(&one, "orders", 1).await;
    let mut alice = log_in(&one, "alice", PASSWORD).await;
    let mut bob = log_in(&one, "bob", PASSWORD).await;
    let mut waiting = fetch("orders", Uuid::nil());
    (waiting.max_wait_ms, waiting.min_bytes) = (30_000, 1);
    alice.send(&waiting, 12).await;
    let begun = "streamhouse_agent_kafka_requests_total{api=\"Fetch\",version=\"12\"} 1";
    wait_until("the fetch waits", || {
        one.node.metrics.render().unwrap().contains(begun)
    })
    .await;
    put_user(&stores, &one, "alice", "another").await;
    let request = produce_request("orders", -1, batch(b"secret"));
    assert_eq!(produced(&bob.call(&request, 9).await), (0, 0));
    alice.assert_closed().await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_authenticates_again_as_the_same_user_only() {
    let (stores, one) = started().await;
    put_user(&stores, &one, "bob", PASSWORD).await;
    let begun = Instant::now();
    let mut client = log_in(&one, "alice", PASSWORD).await;
    let code = handshake(&mut client, "PLAIN", 1).await.0;
    let is_slow = begun.elapsed() > Duration::from_secs(1);
    assert!(
        is_slow || code == 34 && is_served(&mut client).await,
        "not so soon"
    );
    let mut client = log_in(&one, "alice", PASSWORD).await;
    let mut others = [
        log_in(&one, "alice", PASSWORD).await,
        log_in(&one, "alice", PASSWORD).await,
    ];
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(authenticate(&mut client, "PLAIN", ("alice", PASSWORD)).await, 0);
    assert!(is_served(&mut client).await);
    let code = authenticate(&mut others[0], "PLAIN", ("bob", PASSWORD)).await;
    assert_eq!(code, 58);
    assert_eq!(handshake(&mut others[1], "SCRAM-SHA-256", 1).await.0, 0);
    let first = b"n,,n=alice,r=abc".to_vec();
    assert_eq!(token(&mut others[1], first).await.error_code, 58);
    for other in &mut others {
        other.assert_closed().await;
    }
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_there_is_no_exchange() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[]).await;
    let mut client = RawKafkaClient::connect(&one).await;
    assert_eq!(handshake(&mut client, "PLAIN", 1).await, (34, Vec::new()));
    assert_eq!(token(&mut client, plain("alice", PASSWORD)).await.error_code, 34);
    assert!(is_served(&mut client).await);
    one.drain().await;
}

/// Tries a wrong password. Returns whether the connection ends with an answer.
async fn is_refused_with_answer(agent: &Agent) -> bool {
    let mut client = RawKafkaClient::connect(agent).await;
    handshake(&mut client, "PLAIN", 1).await;
    let request = SaslAuthenticateRequest {
        auth_bytes: plain("alice", "wrong").into(),
    };
    client.send(&request, 2).await;
    let mut answer = Vec::new();
    let read = timeout(EVENT_TIMEOUT, client.stream.read_to_end(&mut answer)).await;
    read.expect("the connection ends in time").unwrap();
    if answer.is_empty() {
        return false;
    }
    let frame = Bytes::from(answer).slice(4..);
    let answer = RawKafkaClient::decode::<SaslAuthenticateRequest>(frame, 2);
    assert_eq!(answer.error_code, 58);
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_too_often_gets_no_answer() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &[MECHANISMS]).await;
    let mut answers = 0;
    // Two windows have that many attempts at most, since each takes its time.
    while is_refused_with_answer(&one).await {
        answers += 1;
        assert!(answers < 100, "any number of passwords may be tried");
    }
    assert!(answers >= 20);
    one.drain().await;
}
