//! Keys that change, and providers that do not answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex as SyncMutex;
use serde_json::json;
use streamhouse_core::time::{system_clock, system_entropy};
use streamhouse_testkit::TokenIssuer;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

/// An identity provider that answers every request with the same bytes.
struct KeyServer {
    url: String,
    answer: Arc<SyncMutex<String>>,
    requests: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(key_set: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let answer = Arc::new(SyncMutex::new(ok(key_set)));
        let requests = Arc::new(AtomicUsize::new(0));
        let (answers, counted) = (answer.clone(), requests.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = client.read(&mut request).await;
                counted.fetch_add(1, Ordering::Relaxed);
                let answer = answers.lock().clone();
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
            }
        });
        Self {
            url,
            answer,
            requests,
        }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

async fn load(dir: &TempDir, keys: &str) -> Result<Arc<OAuthVerifier>, OAuthFileError> {
    let path = dir.path().join("oauth.yaml");
    let text = format!("issuer: https://id.example\naudience: streamhouse\n{keys}\n");
    std::fs::write(&path, text).unwrap();
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    OAuthVerifier::load(&path, system_clock(), system_entropy().as_ref(), metrics).await
}

fn token_of(issuer: &TokenIssuer, seconds: i64) -> String {
    let exp = system_clock().now_ms() / 1000 + seconds;
    let claims = json!({ "iss": "https://id.example", "aud": "streamhouse", "sub": "alice", "exp": exp });
    issuer.sign(&claims).unwrap()
}

/// Lets the keys be read again at once, as some time later.
async fn allow_refresh(verifier: &OAuthVerifier) {
    verifier.source.lock().await.attempted_at = None;
}

#[tokio::test]
async fn keys_behind_a_url_are_read_again_for_an_unknown_one_and_not_too_often() {
    let (first, second) = (TokenIssuer::new("1").unwrap(), TokenIssuer::new("2").unwrap());
    let server = KeyServer::start(&first.key_set()).await;
    let dir = TempDir::new().unwrap();
    let verifier = load(&dir, &format!("jwksUrl: {}", server.url)).await.unwrap();
    assert_eq!(
        server.requests(),
        0,
        "an agent starts without its identity provider"
    );
    let (old, new) = (token_of(&first, 600), token_of(&second, 600));
    let accepted = verifier.verify(&old).await.unwrap();
    assert_eq!(accepted.principal.to_string(), "User:alice");
    assert!(accepted.remaining > Duration::from_secs(620) && accepted.clock_skew == Duration::from_secs(30));
    *server.answer.lock() = ok(&second.key_set());
    for _ in 0..3 {
        let refused = verifier.verify(&new).await.unwrap_err();
        assert!(matches!(refused, TokenRefusal::Token(TokenError::UnknownKey)));
    }
    assert_eq!(server.requests(), 1);
    allow_refresh(&verifier).await;
    let attempts = (0..50).map(|_| verifier.verify(&new));
    for attempt in futures::future::join_all(attempts).await {
        attempt.unwrap();
    }
    assert_eq!(server.requests(), 2);
    assert!(
        verifier.verify(&old).await.is_err(),
        "what was verified by the old key is forgotten"
    );
}

#[tokio::test]
async fn the_old_keys_stay_while_there_are_no_others() {
    let (first, second) = (TokenIssuer::new("1").unwrap(), TokenIssuer::new("2").unwrap());
    let server = KeyServer::start(&first.key_set()).await;
    let dir = TempDir::new().unwrap();
    let verifier = load(&dir, &format!("jwksUrl: {}", server.url)).await.unwrap();
    verifier.verify(&token_of(&first, 600)).await.unwrap();
    let large = format!("{}{}", second.key_set(), " ".repeat(1 << 20));
    for (requests, answer) in [
        (2, "HTTP/1.1 500 Oops\r\nconnection: close\r\n\r\n".to_owned()),
        (
            3,
            "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1/\r\nconnection: close\r\n\r\n".to_owned(),
        ),
        (4, ok(r#"{"keys":[]}"#)),
        (5, ok("<html>")),
        (6, ok(&large)),
        (7, "nonsense".to_owned()),
    ] {
        *server.answer.lock() = answer;
        allow_refresh(&verifier).await;
        assert!(verifier.verify(&token_of(&second, 600)).await.is_err());
        assert_eq!(server.requests(), requests);
        verifier.verify(&token_of(&first, 600)).await.unwrap();
    }
    let problem = verifier.source.lock().await.problem.clone().unwrap();
    assert!(problem.starts_with(&server.url), "{problem}");
}

#[tokio::test]
async fn before_the_keys_are_known_no_token_is_refused_for_good() {
    let issuer = TokenIssuer::new("1").unwrap();
    let dir = TempDir::new().unwrap();
    // Port 1 answers nothing.
    let verifier = load(&dir, "jwksUrl: http://127.0.0.1:1/keys").await.unwrap();
    let refused = verifier.verify(&token_of(&issuer, 600)).await.unwrap_err();
    assert!(matches!(refused, TokenRefusal::NoKeys));
}

#[tokio::test]
async fn a_changed_file_is_used_and_a_wrong_one_is_not() {
    let (first, second) = (TokenIssuer::new("1").unwrap(), TokenIssuer::new("2").unwrap());
    let dir = TempDir::new().unwrap();
    let keys = dir.path().join("keys.json");
    std::fs::write(&keys, first.key_set()).unwrap();
    let verifier = load(&dir, "jwksFile: keys.json").await.unwrap();
    let (old, new) = (token_of(&first, 600), token_of(&second, 600));
    verifier.verify(&old).await.unwrap();
    let follow = {
        let verifier = verifier.clone();
        tokio::spawn(async move { verifier.follow().await })
    };
    let wait = |is_done: Box<dyn Fn() -> bool>| async move {
        for _ in 0..600 {
            if is_done() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("the change is not in use");
    };
    let invalid = |wanted: i64| {
        let metrics = verifier.metrics.clone();
        Box::new(move || metrics.oauth_invalid.get() == wanted)
    };
    std::fs::write(&keys, "nonsense").unwrap();
    wait(invalid(1)).await;
    verifier.verify(&old).await.unwrap();
    std::fs::write(&keys, second.key_set()).unwrap();
    wait(invalid(0)).await;
    verifier.verify(&new).await.unwrap();
    assert!(verifier.verify(&old).await.is_err());
    let config = dir.path().join("oauth.yaml");
    std::fs::write(&config, "issuer: x").unwrap();
    wait(invalid(1)).await;
    verifier.verify(&new).await.unwrap();
    std::fs::write(
        &config,
        "issuer: other\naudience: streamhouse\njwksFile: keys.json",
    )
    .unwrap();
    wait(invalid(0)).await;
    let refused = verifier.verify(&new).await.unwrap_err();
    assert!(matches!(refused, TokenRefusal::Token(TokenError::Issuer)));
    follow.abort();
}

#[tokio::test]
async fn a_start_with_files_that_cannot_be_used_is_refused() {
    let dir = TempDir::new().unwrap();
    for (keys, problem) in [
        ("jwksFile: missing.json", "missing.json"),
        ("jwksFile: oauth.yaml", "no JSON Web Key Set"),
        ("jwksFile: a\njwksUrl: https://id.example/", "one of"),
    ] {
        let error = load(&dir, keys).await.unwrap_err().to_string();
        assert!(
            error.starts_with("oauth-file: ") && error.contains(problem),
            "{error}"
        );
    }
}
