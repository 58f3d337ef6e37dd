//! gRPC clients that authenticate: right, wrong, missing and revoked credentials, what a client
//! without rights learns, calls that claim to be another agent's, and users and ACLs by the
//! security service.

#![allow(clippy::needless_update)] // messages get new fields

mod denials;
mod management;

use base64::{Engine, prelude::BASE64_STANDARD};
use streamhouse_core::{
    protocol::v1::{
        admin_service_client::AdminServiceClient, data_service_client::DataServiceClient,
        group_service_client::GroupServiceClient, security_service_client::SecurityServiceClient,
    },
    security::{ScramCredential, ScramMechanism},
};
use streamhouse_metadata::{
    AclRow, AgentSecret, MetadataStore, ScramAlteration, ScramCredentialId, ScramCredentialRow,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_client::ServerReflectionClient};

use super::{stores::FaultyStores, *};
use crate::{
    faulty_metadata::MetadataMethod,
    listeners::FORWARDED_HEADER,
    security::{AGENT_SCHEME, ClientIdentity, ClientSecurity},
};

pub(super) const SECURED: [&str; 3] = [
    "--authentication=PLAIN,SCRAM-SHA-512",
    "--authorization=acl",
    "--super-users=User:admin",
];
pub(super) const PASSWORD: &str = "correct horse";

/// Adds headers to every call.
#[derive(Debug, Clone, Default)]
pub(super) struct CallHeaders(Vec<(&'static str, MetadataValue<Ascii>)>);

impl Interceptor for CallHeaders {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in &self.0 {
            request.metadata_mut().append(*name, value.clone());
        }
        Ok(request)
    }
}

type AuthenticatedChannel = InterceptedService<Channel, CallHeaders>;

/// A client with its credentials.
#[derive(Debug, Clone)]
pub(super) struct AuthenticatedClient {
    channel: Channel,
    headers: CallHeaders,
}

impl AuthenticatedClient {
    pub(super) fn new(channel: Channel) -> Self {
        Self {
            channel,
            headers: CallHeaders::default(),
        }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.0.push((name, value.parse().unwrap()));
        self
    }

    pub(super) fn with_password(self, user: &str, password: &str) -> Self {
        let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.with_header("authorization", &format!("Basic {credentials}"))
    }

    fn intercepted(&self) -> AuthenticatedChannel {
        InterceptedService::new(self.channel.clone(), self.headers.clone())
    }

    pub(super) fn data(&self) -> DataServiceClient<AuthenticatedChannel> {
        DataServiceClient::new(self.intercepted())
    }

    pub(super) fn admin(&self) -> AdminServiceClient<AuthenticatedChannel> {
        AdminServiceClient::new(self.intercepted())
    }

    pub(super) fn groups(&self) -> GroupServiceClient<AuthenticatedChannel> {
        GroupServiceClient::new(self.intercepted())
    }

    pub(super) fn security(&self) -> SecurityServiceClient<AuthenticatedChannel> {
        SecurityServiceClient::new(self.intercepted())
    }

    /// Makes a call that needs no right, and returns how it ends.
    async fn code(&self) -> Code {
        let described = self.admin().describe_cluster(v1::DescribeClusterRequest {}).await;
        described.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    async fn topics(&self) -> Vec<String> {
        let request = v1::ListTopicsRequest::default();
        let listed = self.admin().list_topics(request).await.unwrap().into_inner();
        listed.topics.into_iter().map(|topic| topic.name).collect()
    }
}

/// Stores a user whose password is [`PASSWORD`].
pub(super) async fn put_user(stores: &FaultyStores, name: &str, password: &str) {
    let credential =
        ScramCredential::derive(ScramMechanism::Sha512, password, b"salt".to_vec(), 4096).unwrap();
    let alteration = ScramAlteration {
        upserts: vec![ScramCredentialRow::new(name, &credential)],
        deletions: Vec::new(),
    };
    stores
        .metadata
        .alter_scram_credentials(&alteration)
        .await
        .unwrap();
}

pub(super) async fn allow(stores: &FaultyStores, user: &str, resource: (&str, &str), operation: &str) {
    let row = AclRow {
        principal: format!("User:{user}"),
        resource_type: resource.0.to_owned(),
        resource_name: resource.1.to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: operation.to_owned(),
        permission: "ALLOW".to_owned(),
    };
    stores.metadata.create_acls(&[row]).await.unwrap();
}

/// Waits until an agent decides by what is stored.
pub(super) async fn wait_for_users(stores: &FaultyStores, agent: &Agent) {
    let stored = stores.metadata.load_security().await.unwrap().version;
    wait_until("the agent has read the users", || {
        agent.node.security.version() >= stored
    })
    .await;
}

/// An agent with the topic `orders` and the users `admin`, `alice` and `nobody`.
struct SecuredAgent {
    stores: FaultyStores,
    agent: Agent,
    channel: Channel,
}

impl SecuredAgent {
    async fn start() -> Self {
        let stores = FaultyStores::new().await;
        for user in ["admin", "alice", "nobody"] {
            put_user(&stores, user, PASSWORD).await;
        }
        let agent = stores.start_ready_agent("one", &SECURED).await;
        create_topic(&agent, "orders", 1).await;
        wait_for_users(&stores, &agent).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", agent.addresses().0)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self {
            stores,
            agent,
            channel,
        }
    }

    fn anonymous(&self) -> AuthenticatedClient {
        AuthenticatedClient::new(self.channel.clone())
    }

    fn client(&self, user: &str) -> AuthenticatedClient {
        self.anonymous().with_password(user, PASSWORD)
    }

    async fn allow(&self, user: &str, resource: (&str, &str), operation: &str) {
        allow(&self.stores, user, resource, operation).await;
        wait_for_users(&self.stores, &self.agent).await;
    }

    async fn delete_user(&self, name: &str) {
        let alteration = ScramAlteration {
            upserts: Vec::new(),
            deletions: vec![ScramCredentialId {
                user_name: name.to_owned(),
                mechanism: ScramMechanism::Sha512.name().to_owned(),
            }],
        };
        self.stores
            .metadata
            .alter_scram_credentials(&alteration)
            .await
            .unwrap();
        wait_for_users(&self.stores, &self.agent).await;
    }
}

fn record(topic: &str) -> v1::PartitionProduce {
    let mut batch = BatchBuilder::new(Compression::None);
    batch.append::<&str, &str>(0, None, Some(b"x"), &[]).unwrap();
    v1::PartitionProduce {
        topic: topic.to_owned(),
        records: batch.finish().unwrap(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_right_password_authenticates_and_health_needs_none() {
    let secured = SecuredAgent::start().await;
    assert_eq!(secured.client("alice").code().await, Code::Ok);
    for refused in [
        secured.anonymous(),
        secured.anonymous().with_password("alice", "wrong"),
        secured.anonymous().with_password("unknown", PASSWORD),
        secured.client("alice").with_password("alice", PASSWORD),
        secured.anonymous().with_header("authorization", "Bearer abc"),
    ] {
        let mut admin = refused.admin();
        let status = admin
            .list_topics(v1::ListTopicsRequest::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{refused:?}");
        let error = streamhouse_core::Error::from(status);
        assert_eq!(error.code(), ErrorCode::SaslAuthenticationFailed);
    }
    let mut health = HealthClient::new(secured.channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let mut reflection = ServerReflectionClient::new(secured.channel.clone());
    let asked = reflection.server_reflection_info(tokio_stream::iter([ServerReflectionRequest::default()]));
    assert_eq!(asked.await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_produce_stream_ends_when_the_password_is_changed() {
    let secured = SecuredAgent::start().await;
    secured.allow("alice", ("TOPIC", "orders"), "WRITE").await;
    let alice = secured.client("alice");
    let (requests, outgoing) = mpsc::unbounded_channel();
    let answers = alice.data().produce(UnboundedReceiverStream::new(outgoing)).await;
    let mut answers = answers.unwrap().into_inner();
    let send = |request_id, parts: &[&str]| {
        let request = v1::ProduceRequest {
            request_id,
            partitions: parts.iter().map(|topic| record(topic)).collect(),
            ..Default::default()
        };
        requests.send(request).unwrap();
    };
    send(1, &["secret", "orders", "other"]);
    let answer = answers.message().await.unwrap().unwrap();
    let results: Vec<(&str, i32)> = answer
        .partitions
        .iter()
        .map(|part| {
            (
                part.topic.as_str(),
                part.error.as_ref().map_or(0, |error| error.code),
            )
        })
        .collect();
    let denied = ErrorCode::TopicAuthorizationFailed.number();
    assert_eq!(results, [("secret", denied), ("orders", 0), ("other", denied)]);
    put_user(&secured.stores, "alice", "another").await;
    wait_for_users(&secured.stores, &secured.agent).await;
    send(2, &["orders"]);
    let status = answers.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(alice.code().await, Code::Unauthenticated);
    let again = secured.anonymous().with_password("alice", "another");
    assert_eq!(again.code().await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_that_waits_ends_unanswered_when_its_user_is_deleted() {
    let secured = SecuredAgent::start().await;
    secured.allow("alice", ("TOPIC", "orders"), "READ").await;
    let fetch = |max_wait_ms, topics: &[&str]| v1::FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partitions: topics
            .iter()
            .map(|topic| v1::PartitionFetch {
                topic: (*topic).to_owned(),
                max_bytes: 1 << 20,
                ..Default::default()
            })
            .collect(),
    };
    let mut data = secured.client("alice").data();
    let answer = data
        .fetch(fetch(60_000, &["secret", "orders"]))
        .await
        .unwrap()
        .into_inner();
    let codes: Vec<i32> = answer
        .partitions
        .iter()
        .map(|part| part.error.as_ref().map_or(0, |error| error.code))
        .collect();
    assert_eq!(codes, [ErrorCode::TopicAuthorizationFailed.number(), 0]);
    let waiting = tokio::spawn(async move { data.fetch(fetch(60_000, &["orders"])).await });
    let view = secured.agent.node.directory.view();
    let uid = view.partition("orders", 0).unwrap().uid;
    let led = secured.agent.node.session().unwrap().partitions.get(uid).unwrap();
    wait_until("the fetch waits", || led.reader_count() > 0).await;
    secured.delete_user("alice").await;
    produce(&secured.agent, "orders", 0, "news").await.unwrap();
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_are_newer_than_the_directory_are_not_read_again_and_again() {
    let secured = SecuredAgent::start().await;
    let (metadata, node) = (&secured.stores.metadata, &secured.agent.node);
    let unread = metadata.hang([MetadataMethod::load_security]);
    allow(&secured.stores, "alice", ("TOPIC", "orders"), "READ").await;
    unread.wait_for_blocked_calls(1).await;
    let blind = metadata.hang([MetadataMethod::snapshot]);
    node.directory.request_refresh();
    blind.wait_for_blocked_calls(1).await;
    allow(&secured.stores, "alice", ("TOPIC", "orders"), "WRITE").await;
    let wanted = metadata.inner().load_security().await.unwrap().version;
    unread.release();
    wait_until("the newer users are in force", || {
        node.security.version() == wanted
    })
    .await;
    let loads = metadata.calls(MetadataMethod::load_security);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(metadata.calls(MetadataMethod::load_security), loads);
    blind.release();
    wait_for_users(&secured.stores, &secured.agent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_agents_can_say_for_whom_they_call() {
    let secured = SecuredAgent::start().await;
    let secret = secured.stores.metadata.agent_secret().await.unwrap();
    let security = |secret: &AgentSecret| {
        let node = &secured.agent.node;
        let made = ClientSecurity::new(&node.settings, node.entropy.clone(), node.metrics.clone());
        let security = Arc::new(made);
        security.set_agent_secret(secret);
        security
    };
    let now = secured.agent.node.clock.now_ms();
    let admin = ClientIdentity::forwarded("User:admin".parse().unwrap());
    let token = |secret: &AgentSecret, made_at: i64| {
        let security = security(secret);
        let access = security.access(admin.clone(), Some("192.0.2.7".parse().unwrap()));
        security.agent_token(&access, made_at).unwrap()
    };
    let with_token = |token: &str| {
        secured
            .anonymous()
            .with_header("authorization", &format!("{AGENT_SCHEME} {token}"))
            .with_header(FORWARDED_HEADER, "192.0.2.7")
    };
    let right = token(&secret, now);
    wait_until("the agent knows the secret", || {
        secured
            .agent
            .node
            .security
            .verify_agent_token(&right, None, now)
            .is_ok()
    })
    .await;
    assert_eq!(
        with_token(&right).topics().await,
        ["orders"],
        "the admin may see it"
    );
    let other = AgentSecret::from_bytes(&[7; AgentSecret::BYTES]).unwrap();
    let altered = format!("{}A{}", &right[..20], &right[21..]);
    let altered = if altered == right {
        format!("{}B{}", &right[..20], &right[21..])
    } else {
        altered
    };
    for (what, refused) in [
        ("another secret", token(&other, now)),
        ("too old", token(&secret, now - 400_000)),
        ("from the future", token(&secret, now + 400_000)),
        ("altered", altered),
        ("cut", right[..right.len() - 1].to_owned()),
        ("empty", String::new()),
    ] {
        assert_eq!(with_token(&refused).code().await, Code::Unauthenticated, "{what}");
    }
    let forged = secured.anonymous().with_header(FORWARDED_HEADER, "192.0.2.7");
    assert_eq!(forged.code().await, Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_no_agent_has_the_address_of_its_connection() {
    let secured = SecuredAgent::start().await;
    secured.allow("alice", ("GROUP", "billing"), "READ").await;
    let client = secured.client("alice").with_header(FORWARDED_HEADER, "192.0.2.7");
    let join = v1::JoinGroupRequest {
        group_id: "billing".to_owned(),
        client_id: "test".to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![v1::GroupProtocol {
            name: "range".to_owned(),
            ..Default::default()
        }],
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 10_000,
        ..Default::default()
    };
    client.groups().join_group(join).await.unwrap();
    let describe = v1::DescribeGroupRequest {
        group_id: "billing".to_owned(),
    };
    let members = client
        .groups()
        .describe_group(describe)
        .await
        .unwrap()
        .into_inner()
        .members;
    assert_eq!(members[0].client_host, "127.0.0.1");
}
