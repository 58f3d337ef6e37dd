//! Clients that authenticate by tokens: Kafka's by OAUTHBEARER, gRPC's by Bearer, and what becomes
//! of their sessions when the tokens expire.

use serde_json::{Value, json};
use streamhouse_core::{
    kafka::{
        MetadataRequest, SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest,
        SaslHandshakeResponse,
    },
    time::system_clock,
};
use streamhouse_testkit::TokenIssuer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, transport::Endpoint};

use super::{
    grpc_auth::AuthenticatedClient,
    kafka_client::RawKafkaClient,
    kafka_sasl::{handshake, is_served, token as send_message},
    stores::FaultyStores,
    *,
};
use crate::security::OAuthFileError;

const INVALID_TOKEN: &[u8] = br#"{"status":"invalid_token"}"#;

/// An agent with its identity provider.
struct OAuthAgent {
    agent: Agent,
    issuer: TokenIssuer,
    _stores: FaultyStores,
    _dir: TempDir,
}

impl OAuthAgent {
    /// Starts an agent that takes tokens until the second in which they expire.
    async fn start(mechanisms: &str) -> Self {
        let (dir, issuer) = (TempDir::new().unwrap(), TokenIssuer::p256("k1").unwrap());
        std::fs::write(dir.path().join("keys.json"), issuer.key_set()).unwrap();
        let file = dir.path().join("oauth.yaml");
        let text = "issuer: https://id.example\naudience: streamhouse\njwksFile: keys.json\nclockSkew: 0s";
        std::fs::write(&file, text).unwrap();
        let stores = FaultyStores::new().await;
        let settings = [
            format!("--authentication={mechanisms}"),
            format!("--oauth-file={}", file.display()),
        ];
        let agent = stores
            .start_ready_agent("one", &settings.each_ref().map(String::as_str))
            .await;
        create_topic(&agent, "orders", 1).await;
        Self {
            agent,
            issuer,
            _stores: stores,
            _dir: dir,
        }
    }

    fn token_with(&self, subject: &str, seconds: i64, other: (&str, Value)) -> String {
        let exp = system_clock().now_ms() / 1000 + seconds;
        let mut claims = json!({
            "iss": "https://id.example", "aud": "streamhouse", "sub": subject, "exp": exp,
        });
        claims[other.0] = other.1;
        self.issuer.sign(&claims).unwrap()
    }

    fn token(&self, subject: &str, seconds: i64) -> String {
        self.token_with(subject, seconds, ("jti", json!("1")))
    }

    async fn grpc(&self, token: &str) -> AuthenticatedClient {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.agent.addresses().0)).unwrap();
        let client = AuthenticatedClient::new(endpoint.connect().await.unwrap());
        client.with_header("authorization", &format!("Bearer {token}"))
    }
}

fn first_message(token: &str) -> Vec<u8> {
    format!("n,,\u{1}auth=Bearer {token}\u{1}\u{1}").into_bytes()
}

async fn log_in(client: &mut RawKafkaClient, token: &str) -> SaslAuthenticateResponse {
    assert_eq!(handshake(client, "OAUTHBEARER", 1).await.0, 0);
    send_message(client, first_message(token)).await
}

/// Asserts that a connection is refused as Kafka refuses a token: twice.
async fn assert_refused(client: &mut RawKafkaClient, token: &str) {
    let refused = log_in(client, token).await;
    assert_eq!(
        (refused.error_code, &refused.auth_bytes.expose()[..]),
        (0, INVALID_TOKEN)
    );
    assert_eq!(refused.session_lifetime_ms, 0);
    let ended = send_message(client, vec![1]).await;
    assert_eq!(ended.error_code, 58);
    assert_eq!(
        ended.error_message.as_deref(),
        Some(r#"{"status":"invalid_token"}"#)
    );
    client.assert_closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_authenticates_kafka_clients_for_as_long_as_it_is_valid() {
    let one = OAuthAgent::start("OAUTHBEARER").await;
    let mut client = RawKafkaClient::connect(&one.agent).await;
    let answer = log_in(&mut client, &one.token("alice", 600)).await;
    assert!(answer.error_code == 0 && answer.auth_bytes.expose().is_empty());
    assert!(
        (540_000..=600_000).contains(&answer.session_lifetime_ms),
        "{answer:?}"
    );
    assert!(is_served(&mut client).await);
    let mut client = RawKafkaClient::connect(&one.agent).await;
    handshake(&mut client, "OAUTHBEARER", 1).await;
    let named = format!(
        "n,a=alice,\u{1}auth=Bearer {}\u{1}x=y\u{1}\u{1}",
        one.token("alice", 600)
    );
    assert_eq!(send_message(&mut client, named.into_bytes()).await.error_code, 0);
    assert!(is_served(&mut client).await);
    assert_eq!(
        handshake(&mut RawKafkaClient::connect(&one.agent).await, "PLAIN", 1)
            .await
            .0,
        33
    );
    let metrics = one.agent.node.metrics.render().unwrap();
    let counted = r#"authentications_total{mechanism="OAUTHBEARER",outcome="ok"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    one.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_valid_here_and_now_are_refused_twice() {
    let one = OAuthAgent::start("OAUTHBEARER").await;
    let stranger = TokenIssuer::p256("k1").unwrap();
    let exp = system_clock().now_ms() / 1000 + 600;
    let claims = json!({ "iss": "https://id.example", "aud": "streamhouse", "sub": "alice", "exp": exp });
    let unsigned = one.issuer.sign_with(&json!({ "alg": "none" }), &claims).unwrap();
    for token in [
        one.token("alice", -1),
        one.token_with("alice", 600, ("iss", json!("https://other.example"))),
        one.token_with("alice", 600, ("aud", json!("other"))),
        one.token_with("alice", 600, ("nbf", json!(exp))),
        one.token_with("alice", 600, ("exp", Value::Null)),
        one.token("*", 600),
        stranger.sign(&claims).unwrap(),
        TokenIssuer::p256("k2").unwrap().sign(&claims).unwrap(),
        unsigned,
        "abc".to_owned(),
    ] {
        assert_refused(&mut RawKafkaClient::connect(&one.agent).await, &token).await;
    }
    let mut client = RawKafkaClient::connect(&one.agent).await;
    handshake(&mut client, "OAUTHBEARER", 1).await;
    let other = format!("n,a=bob,\u{1}auth=Bearer {}\u{1}\u{1}", one.token("alice", 600));
    let refused = send_message(&mut client, other.into_bytes()).await;
    assert_eq!(refused.auth_bytes.expose(), INVALID_TOKEN);
    // A valid token is no acknowledgement.
    let late = send_message(&mut client, first_message(&one.token("alice", 600))).await;
    assert_eq!(late.error_code, 58);
    client.assert_closed().await;
    one.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_cut_too_long_or_together_are_taken_as_they_are() {
    let one = OAuthAgent::start("OAUTHBEARER").await;
    let whole = first_message(&one.token("alice", 600));
    let huge = first_message(&"x".repeat(16 * 1024 + 1));
    let cuts = [0, 1, 3, 20, whole.len() - 2, whole.len() - 1].map(|end| whole[..end].to_vec());
    for message in cuts.into_iter().chain([huge, vec![1]]) {
        let mut client = RawKafkaClient::connect(&one.agent).await;
        handshake(&mut client, "OAUTHBEARER", 1).await;
        let refused = send_message(&mut client, message).await;
        assert_eq!(refused.error_code, 58);
        client.assert_closed().await;
    }
    let mut client = RawKafkaClient::connect(&one.agent).await;
    let begin = SaslHandshakeRequest {
        mechanism: "OAUTHBEARER".to_owned(),
    };
    let message = SaslAuthenticateRequest {
        auth_bytes: whole.into(),
    };
    client.send(&begin, 1).await;
    client.send(&message, 2).await;
    client.send(&MetadataRequest::default(), 12).await;
    let begun: SaslHandshakeResponse = client.receive::<SaslHandshakeRequest>(1).await.unwrap();
    let ended = client.receive::<SaslAuthenticateRequest>(2).await.unwrap();
    assert_eq!((begun.error_code, ended.error_code), (0, 0));
    assert!(client.receive::<MetadataRequest>(12).await.is_ok());
    one.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_token_has_expired_may_only_authenticate_again() {
    let one = OAuthAgent::start("OAUTHBEARER,PLAIN").await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = RawKafkaClient::connect(&one.agent).await;
        let answer = log_in(&mut client, &one.token("alice", 3)).await;
        assert_eq!(answer.error_code, 0);
        assert!((1..=3000).contains(&answer.session_lifetime_ms), "{answer:?}");
        clients.push(client);
    }
    sleep(Duration::from_millis(1100)).await;
    // Before the end, and for longer.
    let renewed = log_in(&mut clients[0], &one.token("alice", 600)).await;
    assert!(renewed.error_code == 0 && renewed.session_lifetime_ms > 540_000);
    sleep(Duration::from_millis(2500)).await;
    assert!(is_served(&mut clients[0]).await);
    assert!(!is_served(&mut clients[1]).await);
    let renewed = log_in(&mut clients[2], &one.token("alice", 600)).await;
    assert_eq!(renewed.error_code, 0);
    assert!(is_served(&mut clients[2]).await);
    let other = log_in(&mut clients[3], &one.token("bob", 600)).await;
    assert_eq!(other.error_code, 58);
    clients[3].assert_closed().await;
    sleep(Duration::from_millis(1100)).await;
    assert_eq!(handshake(&mut clients[0], "PLAIN", 1).await.0, 0);
    let other = send_message(&mut clients[0], b"\0alice\0secret".to_vec()).await;
    assert_eq!(other.error_code, 58, "the mechanism stays the same");
    one.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bearer_tokens_authenticate_grpc_calls() {
    let one = OAuthAgent::start("OAUTHBEARER").await;
    let describe = |token: String| {
        let one = &one;
        async move {
            let client = one.grpc(&token).await;
            let described = client
                .admin()
                .describe_cluster(v1::DescribeClusterRequest {})
                .await;
            described.map_or_else(|status| status.code(), |_| Code::Ok)
        }
    };
    let token = one.token("alice", 600);
    for _ in 0..3 {
        assert_eq!(describe(token.clone()).await, Code::Ok);
    }
    for refused in [
        one.token("alice", -1),
        one.token_with("alice", 600, ("aud", json!("other"))),
        "abc".to_owned(),
        String::new(),
    ] {
        assert_eq!(describe(refused).await, Code::Unauthenticated);
    }
    let endpoint = Endpoint::from_shared(format!("http://{}", one.agent.addresses().0)).unwrap();
    let client = AuthenticatedClient::new(endpoint.connect().await.unwrap()).with_password("alice", "secret");
    let status = client
        .admin()
        .describe_cluster(v1::DescribeClusterRequest {})
        .await;
    let status = status.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("tokens"), "{}", status.message());
    one.agent.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_and_a_stream_end_with_their_token() {
    let one = OAuthAgent::start("OAUTHBEARER").await;
    let client = one.grpc(&one.token("alice", 2)).await;
    let (requests, stream) = mpsc::unbounded_channel();
    let mut answers = client
        .data()
        .produce(UnboundedReceiverStream::new(stream))
        .await
        .unwrap()
        .into_inner();
    sleep(Duration::from_millis(2100)).await;
    requests.send(v1::ProduceRequest::default()).unwrap();
    let ended = timeout(EVENT_TIMEOUT, answers.message()).await.unwrap();
    let status = ended.unwrap_err();
    assert!(status.message().contains("expired"), "{status}");
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "the client may call again with another token"
    );
    let status = client
        .admin()
        .describe_cluster(v1::DescribeClusterRequest {})
        .await;
    assert_eq!(status.unwrap_err().code(), Code::Unauthenticated);
    one.agent.drain().await;
}

#[tokio::test]
async fn without_its_file_an_agent_does_not_start() {
    let dir = TempDir::new().unwrap();
    let file = format!("--oauth-file={}", dir.path().join("missing.yaml").display());
    let settings = settings(dir.path(), "one", &["--authentication=OAUTHBEARER", &file]);
    let error = Agent::start(settings).await.unwrap_err();
    assert!(error.is::<OAuthFileError>(), "{error:#}");
}
