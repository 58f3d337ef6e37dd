//! The further listeners of an agent, and the certificates of all.

use std::sync::Arc;

use streamhouse_core::settings::AgentSettings;

use crate::{
    listeners::{AddressAnswers, ListenerProtocol, ListenersFileReader},
    metrics::AgentMetrics,
    server::{FurtherListener, FurtherListenerTls},
    tls::{ListenerCertificates, ListenerKind},
};

/// Name of the listener of `grpc-forward-listen`.
const FORWARD_LISTENER: &str = "forward";

/// What the settings say about listeners.
#[derive(Debug)]
pub(super) struct AgentListeners {
    /// Certificates of all listeners.
    pub(super) tls: Arc<ListenerCertificates>,
    /// Listeners besides the built-in ones.
    pub(super) further: Vec<FurtherListener>,
    /// The listeners file, if there is one.
    pub(super) file: Option<ListenersFileReader>,
}

impl AgentListeners {
    /// Loads the listeners file and the certificates.
    ///
    /// # Errors
    /// [`ListenersFileError`](crate::listeners::ListenersFileError) or
    /// [`TlsError`](crate::tls::TlsError).
    pub(super) async fn load(settings: &AgentSettings, metrics: &Arc<AgentMetrics>) -> anyhow::Result<Self> {
        let file = match &settings.listeners_file {
            Some(path) => Some(ListenersFileReader::load(path, metrics).await?),
            None => None,
        };
        let mut further = Vec::new();
        if !settings.grpc_forward_listen.is_empty() {
            further.push(FurtherListener {
                name: FORWARD_LISTENER.to_owned(),
                protocol: ListenerProtocol::Grpc,
                listen: settings.grpc_forward_listen.clone(),
                tls: FurtherListenerTls::AsBuiltIn,
                answers: AddressAnswers::ClientAuthority,
            });
        }
        for (file, listener) in file
            .iter()
            .flat_map(|file| file.listeners().iter().map(move |l| (file, l)))
        {
            further.push(FurtherListener {
                name: listener.name.clone(),
                protocol: listener.protocol,
                listen: listener.listen.clone(),
                tls: if listener.tls {
                    FurtherListenerTls::Own
                } else {
                    FurtherListenerTls::Off
                },
                answers: AddressAnswers::Listed(file.address_book().clone()),
            });
        }
        let secure = further
            .iter()
            .filter(|listener| listener.tls == FurtherListenerTls::Own);
        let kind = |protocol| match protocol {
            ListenerProtocol::Grpc => ListenerKind::Grpc,
            ListenerProtocol::Kafka => ListenerKind::Kafka,
        };
        let named = |listener: &FurtherListener| (listener.name.clone(), kind(listener.protocol));
        let names: Vec<(String, ListenerKind)> = secure.map(named).collect();
        let tls = ListenerCertificates::load(settings.tls_dir.as_deref(), &names, metrics).await?;
        Ok(Self {
            tls: Arc::new(tls),
            further,
            file,
        })
    }
}
