//! Certificates that are missing, broken, changed or swapped as Kubernetes does, and a small
//! authority for other tests.

use std::{fs, os::unix::fs::symlink};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// A certificate authority.
pub(crate) struct TestAuthority {
    /// Certificate of the authority.
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl TestAuthority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes a new pair for `name`, valid until the end of 2099, to a listener's folder, which is
    /// created if necessary.
    pub(crate) fn write(&self, tls: &Path, listener: ListenerKind, name: &str) {
        self.write_until(&tls.join(listener.name()), name, 2100);
    }

    /// Writes a new pair for `name` to any folder.
    pub(crate) fn write_to(&self, folder: &Path, name: &str) {
        self.write_until(folder, name, 2100);
    }

    fn write_until(&self, folder: &Path, name: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::write(folder.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(folder.join("tls.key"), key.serialize_pem()).unwrap();
    }
}

/// Expiry at the start of 2100 and of 2101.
const EXPIRIES: [&str; 2] = ["4102444800", "4133980800"];

async fn load_certificates(tls: &Path) -> Result<(ListenerCertificates, Arc<AgentMetrics>), String> {
    load_named_certificates(tls, &[]).await
}

async fn load_named_certificates(
    tls: &Path,
    names: &[&str],
) -> Result<(ListenerCertificates, Arc<AgentMetrics>), String> {
    let metrics = Arc::new(AgentMetrics::new().unwrap());
    let named = |name: &&str| ((*name).to_owned(), ListenerKind::Grpc);
    let names: Vec<(String, ListenerKind)> = names.iter().map(named).collect();
    let loaded = ListenerCertificates::load(Some(tls), &names, &metrics).await;
    loaded
        .map(|tls| (tls, metrics))
        .map_err(|error| error.to_string())
}

fn has_expiry_metric(metrics: &AgentMetrics, listener: &str, end: &str) -> bool {
    let line = format!("streamhouse_agent_certificate_not_after_seconds{{listener=\"{listener}\"}} {end}\n");
    metrics.render().unwrap().contains(&line)
}

#[tokio::test]
async fn a_listener_without_a_folder_has_no_certificate() {
    let dir = TempDir::new().unwrap();
    TestAuthority::new().write(dir.path(), ListenerKind::Grpc, "agents");
    let (tls, metrics) = load_certificates(dir.path()).await.unwrap();
    assert!(tls.certificate(ListenerKind::Grpc).is_some() && tls.certificate(ListenerKind::Http).is_none());
    assert!(has_expiry_metric(&metrics, "grpc", EXPIRIES[0]));
    assert!(!metrics.render().unwrap().contains("listener=\"http\""));
    let none = ListenerCertificates::load(None, &[], &metrics).await.unwrap();
    assert_eq!(none.certificates().count(), 0);
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_the_file_named() {
    type BreakFiles = fn(&Path);
    let authority = TestAuthority::new();
    let cases: [(&str, BreakFiles, &str); 7] = [
        (
            "no folder",
            |grpc| fs::remove_dir_all(grpc).unwrap(),
            "no folder grpc",
        ),
        (
            "no key",
            |grpc| fs::remove_file(grpc.join("tls.key")).unwrap(),
            "tls.key",
        ),
        (
            "no certificate",
            |grpc| fs::remove_file(grpc.join("tls.crt")).unwrap(),
            "tls.crt",
        ),
        (
            "an empty certificate",
            |grpc| fs::write(grpc.join("tls.crt"), "").unwrap(),
            "tls.crt",
        ),
        (
            "a damaged certificate",
            |grpc| {
                let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
                fs::write(grpc.join("tls.crt"), damaged).unwrap();
            },
            "tls.crt",
        ),
        (
            "no PEM",
            |grpc| fs::write(grpc.join("tls.key"), "-----BEGIN hunter2").unwrap(),
            "tls.key",
        ),
        (
            "a key of another certificate",
            |grpc| fs::write(grpc.join("tls.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap(),
            "the pair",
        ),
    ];
    for (what, breaks, named) in cases {
        let dir = TempDir::new().unwrap();
        authority.write(dir.path(), ListenerKind::Grpc, "agents");
        breaks(&dir.path().join("grpc"));
        let error = load_certificates(dir.path()).await.map(|_| what).unwrap_err();
        assert!(
            error.starts_with("tls-dir: ") && error.contains(named),
            "{what}: {error}"
        );
        assert!(!error.contains("hunter2"), "{what}: {error}");
    }
}

#[tokio::test]
async fn a_new_pair_is_taken_up_and_a_bad_one_is_not() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    authority.write(dir.path(), ListenerKind::Http, "agents");
    let (tls, metrics) = load_certificates(dir.path()).await.unwrap();
    let http = tls.certificate(ListenerKind::Http).unwrap();
    let in_use = || http.loaded.load().key.cert[0].clone();
    let first = in_use();
    assert!(!http.reload().await, "nothing has changed");

    let folder = dir.path().join("http");
    let key = fs::read(folder.join("tls.key")).unwrap();
    authority.write_until(&folder, "agents", 2101);
    let newer = fs::read(folder.join("tls.key")).unwrap();
    fs::write(folder.join("tls.key"), key).unwrap();
    assert!(!http.reload().await, "the key is not that of the certificate");
    assert!(http.problem.lock().is_some());
    assert_eq!(in_use(), first);
    assert!(has_expiry_metric(&metrics, "http", EXPIRIES[0]));

    fs::write(folder.join("tls.key"), newer).unwrap();
    assert!(http.reload().await);
    assert!(http.problem.lock().is_none());
    assert_ne!(in_use(), first);
    assert!(has_expiry_metric(&metrics, "http", EXPIRIES[1]));

    fs::remove_dir_all(&folder).unwrap();
    assert!(!http.reload().await, "a folder that goes takes nothing with it");
    assert!(http.problem.lock().is_some());
}

#[tokio::test]
async fn an_authority_that_is_no_certificate_is_refused_and_not_told() {
    let authority = TestAuthority::new();
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let key = KeyPair::generate().unwrap().serialize_pem();
    for wrong in ["hunter2", key.as_str(), damaged] {
        let dir = TempDir::new().unwrap();
        authority.write(dir.path(), ListenerKind::Grpc, "agents");
        fs::write(dir.path().join("grpc/ca.crt"), wrong).unwrap();
        let error = load_certificates(dir.path()).await.map(drop).unwrap_err();
        assert!(
            error.starts_with("tls-dir: ca.crt cannot be used") && !error.contains(wrong),
            "{error}"
        );
    }
}

#[tokio::test]
async fn agents_keep_the_authority_in_use_when_another_cannot_be_used() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    for listener in [ListenerKind::Grpc, ListenerKind::Http] {
        authority.write(dir.path(), listener, "agents");
    }
    let authorities = dir.path().join("grpc/ca.crt");
    fs::write(&authorities, &authority.pem).unwrap();
    // That of HTTP is for clients only.
    fs::write(dir.path().join("http/ca.crt"), "none").unwrap();
    let (tls, _) = load_certificates(dir.path()).await.unwrap();
    let grpc = tls.certificate(ListenerKind::Grpc).unwrap();
    fs::write(&authorities, "none").unwrap();
    assert!(!grpc.reload().await);
    let problem = grpc.problem.lock().clone().unwrap().to_string();
    assert!(problem.contains("ca.crt"), "{problem}");
    let kept = grpc.loaded.load().files.authority_certificates().unwrap();
    assert_eq!(kept.len(), 1);
    fs::remove_file(&authorities).unwrap();
    assert!(grpc.reload().await, "without one, the own certificate is trusted");
}

/// A mounted Secret: `tls.crt -> ..data/tls.crt`, where `..data` is replaced by a folder with the
/// new files.
#[tokio::test]
async fn a_folder_swapped_as_kubernetes_does_is_taken_up() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    let grpc = dir.path().join("grpc");
    fs::create_dir(&grpc).unwrap();
    authority.write_until(&grpc.join("..one"), "agents", 2100);
    authority.write_until(&grpc.join("..two"), "agents", 2101);
    symlink("..one", grpc.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), grpc.join(file)).unwrap();
    }
    let (tls, metrics) = load_certificates(dir.path()).await.unwrap();
    symlink("..two", grpc.join("..new")).unwrap();
    fs::rename(grpc.join("..new"), grpc.join("..data")).unwrap();
    assert!(tls.certificate(ListenerKind::Grpc).unwrap().reload().await);
    assert!(has_expiry_metric(&metrics, "grpc", EXPIRIES[1]));
}

#[tokio::test]
async fn changed_files_are_noticed() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    for listener in [ListenerKind::Grpc, ListenerKind::Http] {
        authority.write(dir.path(), listener, "agents");
    }
    let (tls, metrics) = load_certificates(dir.path()).await.unwrap();
    authority.write_until(&dir.path().join("http"), "agents", 2101);
    let noticed = async {
        while !has_expiry_metric(&metrics, "http", EXPIRIES[1]) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = tls.reload_periodically(Duration::from_millis(1)) => unreachable!("it never returns"),
        noticed = tokio::time::timeout(Duration::from_secs(60), noticed) => noticed.unwrap(),
    }
    assert!(
        has_expiry_metric(&metrics, "grpc", EXPIRIES[0]),
        "the other one is as it was"
    );
}

#[tokio::test]
async fn a_further_listener_needs_its_certificate() {
    let (dir, authority) = (TempDir::new().unwrap(), TestAuthority::new());
    authority.write_to(&dir.path().join("external"), "broker.example.com");
    let (tls, metrics) = load_named_certificates(dir.path(), &["external"]).await.unwrap();
    let external = tls.named_certificate("external").unwrap();
    assert_eq!((external.name(), tls.certificates().count()), ("external", 1));
    assert!(has_expiry_metric(&metrics, "external", EXPIRIES[0]));
    let error = load_named_certificates(dir.path(), &["external", "other"]).await;
    let error = error.map(drop).unwrap_err();
    assert!(error.contains("other/tls.crt"), "{error}");
    let names = [("external".to_owned(), ListenerKind::Kafka)];
    let error = ListenerCertificates::load(None, &names, &metrics)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("tls-dir is not set"), "{error}");
}
