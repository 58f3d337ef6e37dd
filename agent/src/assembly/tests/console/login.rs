//! The console's login: who gets in, what they see, and what ends a session.

use streamhouse_metadata::{AclRow, ScramAlteration, ScramCredentialId};

use super::{
    super::{grpc_auth::put_user, stores::FaultyStores},
    *,
};

const SETTINGS: [&str; 4] = [
    "--console=true",
    "--authentication=SCRAM-SHA-512",
    "--authorization=acl",
    "--super-users=User:admin",
];

fn acl(resource_type: &str, name: &str, operation: &str) -> AclRow {
    AclRow {
        principal: "User:viewer".to_owned(),
        resource_type: resource_type.to_owned(),
        resource_name: name.to_owned(),
        pattern_type: "LITERAL".to_owned(),
        host: "*".to_owned(),
        operation: operation.to_owned(),
        permission: "ALLOW".to_owned(),
    }
}

/// Sends the form of the login page with these additional headers.
async fn log_in(agent: &Agent, user: &str, password: &str, headers: &str) -> HttpAnswer {
    let form = format!("user={user}&password={password}");
    let length = form.len();
    let headers = format!(
        "host: localhost\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n{headers}"
    );
    let mut stream = TcpStream::connect(agent.addresses().1).await.unwrap();
    let request = format!("POST /console/login HTTP/1.1\r\n{headers}connection: close\r\n\r\n{form}");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// Returns the cookie of a new session.
async fn session(agent: &Agent, user: &str, password: &str) -> String {
    let answer = log_in(agent, user, password, "").await;
    assert_eq!(answer.status, 303, "{}", answer.body);
    assert!(answer.headers.contains("location: /console/\r\n"));
    let cookie = answer.cookie.unwrap();
    for part in ["Path=/console", "HttpOnly", "SameSite=Strict"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(password));
    cookie.split(';').next().unwrap().to_owned()
}

async fn get_as(agent: &Agent, cookie: &str, path: &str) -> HttpAnswer {
    let headers = format!("host: localhost\r\ncookie: {cookie}\r\n");
    send_request(agent, &format!("GET {path}"), &headers).await
}

/// Waits until an agent has read the users and the secret of the agents.
async fn until_users(agent: &Agent) {
    let read = async {
        let security = &agent.node.security;
        let has_secret = || security.agent_token(&security.anonymous(None), 0).is_some();
        while security.version() == 0 || !has_secret() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(EVENT_TIMEOUT, read).await.unwrap();
}

/// Waits until a path is answered with this status.
async fn until(agent: &Agent, cookie: &str, path: &str, status: u16) {
    let answered = async {
        while get_as(agent, cookie, path).await.status != status {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = timeout(EVENT_TIMEOUT, answered).await;
    assert!(waited.is_ok(), "{path} is not answered with {status}");
}

/// Asserts that without a session there is the login page, its style, and what is not the
/// console's.
async fn assert_login_is_needed(agent: &Agent) {
    for path in ["/console/", "/", "/console/app.js"] {
        let answer = get(agent, path).await;
        assert!(
            answer.headers.contains("location: /console/login\r\n"),
            "{path}: {}",
            answer.headers
        );
    }
    assert_eq!(
        get_error_code(agent, "overview").await,
        (401, "SASL_AUTHENTICATION_FAILED".to_owned())
    );
    for (path, status) in [
        ("/console/login", 200),
        ("/console/style.css", 200),
        ("/health", 200),
        ("/metrics", 200),
    ] {
        assert_eq!(get(agent, path).await.status, status, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_log_in_and_see_what_their_rights_allow() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &SETTINGS).await;
    let metadata = one.node.metadata.clone();
    put_user(&stores, "admin", "secret").await;
    put_user(&stores, "viewer", "secret").await;
    let grants = [
        acl("CLUSTER", "kafka-cluster", "DESCRIBE"),
        acl("TOPIC", "seen", "READ"),
    ];
    metadata.create_acls(&grants).await.unwrap();
    until_users(&one).await;

    assert_login_is_needed(&one).await;
    for (user, password) in [("admin", "wrong"), ("nobody", "secret"), ("admin", ""), ("", "")] {
        let answer = log_in(&one, user, password, "").await;
        assert_eq!((answer.status, answer.cookie), (401, None), "{user}");
        assert!(answer.body.contains("role=\"alert\""));
    }
    let foreign = log_in(&one, "admin", "secret", "origin: http://evil.example\r\n").await;
    assert_eq!((foreign.status, foreign.cookie), (403, None));

    let admin = session(&one, "admin", "secret").await;
    let data = get_as(&one, &admin, "/console/api/session").await.json();
    assert_eq!(data["user"], "admin");
    for path in ["/console/", "/console/api/overview", "/console/api/topics"] {
        assert_eq!(get_as(&one, &admin, path).await.status, 200, "{path}");
    }
    let viewer = session(&one, "viewer", "secret").await;
    until(&one, &viewer, "/console/api/overview", 200).await;
    let records = get_as(&one, &viewer, "/console/api/records?topic=orders&partition=0").await;
    assert_eq!(
        (records.status, records.code()),
        (403, "TOPIC_AUTHORIZATION_FAILED".to_owned())
    );
    let absent = get_as(&one, &viewer, "/console/api/records?topic=absent&partition=0").await;
    assert_eq!(absent.status, 403, "what does not exist is forbidden too");
    let seen = get_as(&one, &viewer, "/console/api/records?topic=seen&partition=0").await;
    assert_eq!(
        seen.status, 404,
        "who may read a topic learns that it does not exist"
    );

    // Rights, passwords and users that are taken away end it.
    metadata.delete_acls(&grants[..1]).await.unwrap();
    until(&one, &viewer, "/console/api/overview", 403).await;
    put_user(&stores, "admin", "another").await;
    until(&one, &admin, "/console/api/overview", 401).await;
    let gone = ScramAlteration {
        upserts: Vec::new(),
        deletions: vec![ScramCredentialId {
            user_name: "viewer".to_owned(),
            mechanism: "SCRAM-SHA-512".to_owned(),
        }],
    };
    metadata.alter_scram_credentials(&gone).await.unwrap();
    until(&one, &viewer, "/console/api/session", 401).await;
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_takes_the_cookie_away_and_only_the_own_page_can_log_out() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &SETTINGS).await;
    put_user(&stores, "admin", "secret").await;
    until_users(&one).await;
    let cookie = session(&one, "admin", "secret").await;
    let log_out = async |headers: &str| {
        let headers = format!("host: localhost\r\ncookie: {cookie}\r\ncontent-length: 0\r\n{headers}");
        send_request(&one, "POST /console/logout", &headers).await
    };
    let foreign = log_out("origin: http://evil.example\r\n").await;
    assert_eq!((foreign.status, foreign.cookie), (303, None));
    let own = log_out("origin: http://localhost\r\n").await;
    assert_eq!(own.status, 303);
    assert!(
        own.headers.contains("location: /console/login\r\n"),
        "{}",
        own.headers
    );
    let removed = own.cookie.unwrap();
    assert!(
        removed.starts_with("streamhouse_console=;") && removed.contains("Max-Age=0"),
        "{removed}"
    );
    let got = send_request(
        &one,
        "GET /console/logout",
        &format!("host: localhost\r\ncookie: {cookie}\r\n"),
    )
    .await;
    assert_eq!((got.status, got.cookie), (405, None), "no link logs anybody out");
    one.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_holds_at_every_agent_and_an_altered_one_at_none() {
    let stores = FaultyStores::new().await;
    let one = stores.start_ready_agent("one", &SETTINGS).await;
    let two = stores.start_ready_agent("two", &SETTINGS).await;
    put_user(&stores, "admin", "secret").await;
    until_users(&one).await;
    until_users(&two).await;
    let cookie = session(&one, "admin", "secret").await;
    assert_eq!(get_as(&one, &cookie, "/console/api/session").await.status, 200);
    until(&two, &cookie, "/console/api/session", 200).await;
    let (claims, tag) = cookie.split_once('.').unwrap();
    for altered in [
        format!("{claims}."),
        claims.to_owned(),
        format!(
            "{claims}.{}{}",
            if tag.starts_with('A') { 'B' } else { 'A' },
            &tag[1..]
        ),
        format!("{claims}AAAA.{tag}"),
        "streamhouse_console=".to_owned(),
        format!("streamhouse_console={}", "A".repeat(8_000)),
    ] {
        let answer = get_as(&one, &altered, "/console/api/session").await;
        assert_eq!(answer.status, 401, "{altered:.80}");
    }
    one.drain().await;
    two.drain().await;
}
