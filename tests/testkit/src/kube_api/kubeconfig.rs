//! Writes kubeconfigs, with which clients find a test's API server and authenticate.
//!
//! Called by `kube_api` only. JSON is valid YAML, so every client can read the files.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::pki::TestPki;

/// The identity of a client.
#[derive(Debug)]
pub(super) enum KubeIdentity<'a> {
    /// The administrator, by certificate.
    Admin,
    /// A user and groups, impersonated by the administrator's certificate: authorization considers
    /// only these.
    User { name: &'a str, groups: &'a [&'a str] },
    /// The owner of a token.
    Token(&'a str),
}

/// Writes a kubeconfig for the server at `port` on 127.0.0.1.
pub(super) fn write(
    path: PathBuf,
    port: u16,
    pki: &TestPki,
    identity: &KubeIdentity<'_>,
) -> anyhow::Result<PathBuf> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": path_text(&pki.authority),
        }}],
        "users": [{"name": "user", "user": user_entry(pki, identity)}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user", "namespace": "default"}}],
        "current-context": "test",
    });
    std::fs::write(&path, serde_json::to_vec_pretty(&config)?)?;
    Ok(path)
}

fn user_entry(pki: &TestPki, identity: &KubeIdentity<'_>) -> Value {
    let mut admin = json!({
        "client-certificate": path_text(&pki.admin.certificate),
        "client-key": path_text(&pki.admin.key),
    });
    match identity {
        KubeIdentity::Admin => admin,
        KubeIdentity::User { name, groups } => {
            admin["as"] = json!(name);
            admin["as-groups"] = json!(groups);
            admin
        }
        KubeIdentity::Token(token) => json!({"token": token}),
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
