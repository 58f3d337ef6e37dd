//! Owns the TLS certificates of the agent's listeners: which listeners have one, and the newest of
//! each. Loaded by [`assembly`](crate::assembly) before any port is bound;
//! [`server`](crate::server) accepts connections with it.
//!
//! Files that change while the agent runs are reloaded (see [`RELOAD_INTERVAL`]). Files that cannot
//! be used never replace a working certificate: the agent keeps the one in use and logs why.

mod files;
mod peers;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::{Duration, sleep};
use tokio_rustls::TlsAcceptor;

use self::files::CertificateFiles;
use crate::metrics::AgentMetrics;

/// Interval between two checks of the files. Kubernetes itself takes about a minute to update a
/// Secret in a pod.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(30);

/// Reason why a listener cannot have TLS; names the file and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

/// The kind of a listener, by its protocol. Each kind has a built-in listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// gRPC, for clients.
    Grpc,
    /// HTTP, for probes and Prometheus.
    Http,
    /// Kafka's protocol, for Kafka clients.
    Kafka,
}

impl ListenerKind {
    /// Returns the name of the built-in listener: its folder below `tls-dir`, and its label in
    /// metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Http => "http",
            Self::Kafka => "kafka",
        }
    }

    /// Returns the ALPN name of its protocol; Kafka's has none.
    const fn alpn_protocol(self) -> Option<&'static [u8]> {
        match self {
            Self::Grpc => Some(b"h2"),
            Self::Http => Some(b"http/1.1"),
            Self::Kafka => None,
        }
    }
}

/// The certificates of the listeners that have one.
#[derive(Debug, Default)]
pub struct ListenerCertificates {
    grpc: Option<Arc<ListenerCertificate>>,
    http: Option<Arc<ListenerCertificate>>,
    kafka: Option<Arc<ListenerCertificate>>,
    /// Further listeners.
    named: BTreeMap<String, Arc<ListenerCertificate>>,
}

impl ListenerCertificates {
    /// Loads the certificate of each built-in listener that has a folder below `directory`, none
    /// without a directory; and those of the further listeners with these names.
    ///
    /// # Errors
    /// If a certificate cannot be used or that of a name is missing, or the directory has no
    /// listener's folder: setting it means that TLS is wanted.
    pub async fn load(
        directory: Option<&Path>,
        names: &[(String, ListenerKind)],
        metrics: &Arc<AgentMetrics>,
    ) -> Result<Self, TlsError> {
        let Some(directory) = directory else {
            return match names.first() {
                None => Ok(Self::default()),
                Some((name, _)) => Err(TlsError(format!(
                    "tls-dir: listener {name:?} is to serve TLS and tls-dir is not set; set it to the directory with \
                     {name}/tls.crt and {name}/tls.key"
                ))),
            };
        };
        let builtin = async |kind: ListenerKind| {
            let folder = directory.join(kind.name());
            if !tokio::fs::try_exists(&folder).await.unwrap_or(true) {
                return Ok(None);
            }
            let loaded = ListenerCertificate::load(kind.name(), kind, folder, metrics).await;
            loaded.map(Some)
        };
        let mut tls = Self {
            grpc: builtin(ListenerKind::Grpc).await?,
            http: builtin(ListenerKind::Http).await?,
            kafka: builtin(ListenerKind::Kafka).await?,
            named: BTreeMap::new(),
        };
        for (name, kind) in names {
            let folder = directory.join(name);
            let loaded = ListenerCertificate::load(name, *kind, folder, metrics).await?;
            tls.named.insert(name.clone(), loaded);
        }
        if tls.certificates().next().is_none() {
            return Err(TlsError(format!(
                "tls-dir: {} has no folder grpc, http or kafka; put tls.crt and tls.key into one of them",
                directory.display()
            )));
        }
        Ok(tls)
    }

    /// Returns the certificate of a listener, if it has one.
    pub fn certificate(&self, listener: ListenerKind) -> Option<&Arc<ListenerCertificate>> {
        match listener {
            ListenerKind::Grpc => self.grpc.as_ref(),
            ListenerKind::Http => self.http.as_ref(),
            ListenerKind::Kafka => self.kafka.as_ref(),
        }
    }

    /// Returns the certificate of a further listener, if it has one.
    pub fn named_certificate(&self, name: &str) -> Option<&Arc<ListenerCertificate>> {
        self.named.get(name)
    }

    /// Reloads changed files once in every interval; never returns.
    pub async fn reload_periodically(&self, every: Duration) {
        loop {
            sleep(every).await;
            for certificate in self.certificates() {
                certificate.reload().await;
            }
        }
    }

    fn certificates(&self) -> impl Iterator<Item = &Arc<ListenerCertificate>> {
        let builtin = self.grpc.iter().chain(&self.http).chain(&self.kafka);
        builtin.chain(self.named.values())
    }
}

/// The newest usable certificate of one listener.
pub struct ListenerCertificate {
    name: String,
    kind: ListenerKind,
    directory: PathBuf,
    provider: Arc<CryptoProvider>,
    metrics: Arc<AgentMetrics>,
    loaded: ArcSwap<LoadedCertificate>,
    /// Problem with the files at the last check; logged once, not in every round.
    problem: Mutex<Option<TlsError>>,
}

struct LoadedCertificate {
    files: CertificateFiles,
    key: Arc<CertifiedKey>,
}

impl ListenerCertificate {
    async fn load(
        name: &str,
        kind: ListenerKind,
        directory: PathBuf,
        metrics: &Arc<AgentMetrics>,
    ) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let files = CertificateFiles::read(&directory).await?;
        let (key, expires) = files.parse_certified_key(&provider)?;
        check_authority(name, &files)?;
        metrics.set_certificate_expiry(name, expires);
        Ok(Arc::new(Self {
            name: name.to_owned(),
            kind,
            directory,
            provider,
            metrics: metrics.clone(),
            loaded: ArcSwap::from_pointee(LoadedCertificate { files, key }),
            problem: Mutex::default(),
        }))
    }

    /// Returns the listener's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the acceptor of the listener's handshakes, each of which uses the certificate that
    /// is newest then.
    ///
    /// # Errors
    /// If rustls refuses the configuration.
    pub fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, TlsError> {
        let config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError(format!("cannot set up TLS: {error}")))?;
        let mut config = config.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = self
            .kind
            .alpn_protocol()
            .map(<[u8]>::to_vec)
            .into_iter()
            .collect();
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reloads the files if they have changed and can be used. Returns `true` if a new certificate
    /// is in use.
    pub async fn reload(&self) -> bool {
        let listener = self.name.as_str();
        match self.load_changed().await {
            Ok(newer) => {
                let changed = newer.is_some();
                if let Some((found, expires)) = newer {
                    self.loaded.store(Arc::new(found));
                    self.metrics.set_certificate_expiry(listener, expires);
                    tracing::info!(listener, "loaded a new certificate");
                }
                if self.problem.lock().take().is_some() && !changed {
                    tracing::info!(listener, "the certificate's files match the ones in use again");
                }
                changed
            }
            Err(error) => {
                let mut problem = self.problem.lock();
                if problem.as_ref() != Some(&error) {
                    tracing::warn!(listener, %error, "cannot load the certificate's files; keeping the certificate in use");
                }
                *problem = Some(error);
                false
            }
        }
    }

    async fn load_changed(&self) -> Result<Option<(LoadedCertificate, i64)>, TlsError> {
        let files = CertificateFiles::read(&self.directory).await?;
        if files == self.loaded.load().files {
            return Ok(None);
        }
        let (key, expires) = files.parse_certified_key(&self.provider)?;
        check_authority(&self.name, &files)?;
        Ok(Some((LoadedCertificate { files, key }, expires)))
    }
}

/// Checks the authority of the agents, which is only that of the listener by which they connect.
fn check_authority(listener: &str, files: &CertificateFiles) -> Result<(), TlsError> {
    if listener == ListenerKind::Grpc.name() {
        files.authority_certificates()?;
    }
    Ok(())
}

impl ResolvesServerCert for ListenerCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.loaded.load().key.clone())
    }
}

impl fmt::Debug for ListenerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("listener", &self.name)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
