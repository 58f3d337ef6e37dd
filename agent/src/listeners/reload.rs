//! Follows changes of the listeners file. New addresses are used at once; which sockets are open is
//! fixed when the agent starts. A file that cannot be used changes nothing.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use tokio::time::{Duration, sleep};

use super::file::{self, ListenerAddresses, ListenerDefinition, ListenersFileError};
use crate::metrics::AgentMetrics;

/// Interval between two checks of the file. A check reads it: Kubernetes replaces the folder of a
/// mounted ConfigMap, which changes no time of the file that is named.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// The newest addresses of every listener of the file.
#[derive(Debug, Default)]
pub struct ListenerAddressBook {
    listeners: ArcSwap<BTreeMap<String, Arc<ListenerAddresses>>>,
}

impl ListenerAddressBook {
    /// Returns the addresses of a listener; none if the file does not name it any more.
    pub fn addresses(&self, listener: &str) -> Arc<ListenerAddresses> {
        self.listeners.load().get(listener).cloned().unwrap_or_default()
    }

    fn replace(&self, listeners: &[ListenerDefinition]) {
        let by_name = listeners.iter().map(|listener| {
            let addresses = Arc::new(listener.addresses.clone());
            (listener.name.clone(), addresses)
        });
        self.listeners.store(Arc::new(by_name.collect()));
    }
}

/// Reads the file again and again.
#[derive(Debug)]
pub struct ListenersFileReader {
    path: PathBuf,
    /// The listeners that were opened.
    started: Vec<ListenerDefinition>,
    book: Arc<ListenerAddressBook>,
    metrics: Arc<AgentMetrics>,
    /// The file as of the last check, so that each change is reported once.
    seen: Result<Vec<u8>, ListenersFileError>,
}

impl ListenersFileReader {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// If it cannot be read or names listeners that cannot be served.
    pub async fn load(path: &Path, metrics: &Arc<AgentMetrics>) -> Result<Self, ListenersFileError> {
        let bytes = file::read(path).await?;
        let started = file::parse(&bytes)?;
        let book = Arc::new(ListenerAddressBook::default());
        book.replace(&started);
        Ok(Self {
            path: path.to_owned(),
            started,
            book,
            metrics: metrics.clone(),
            seen: Ok(bytes),
        })
    }

    /// Returns the listeners to open.
    pub fn listeners(&self) -> &[ListenerDefinition] {
        &self.started
    }

    /// Returns the addresses, which follow the file.
    pub fn address_book(&self) -> &Arc<ListenerAddressBook> {
        &self.book
    }

    /// Checks the file once in every interval; never returns.
    pub async fn reload_periodically(mut self, every: Duration) {
        loop {
            sleep(every).await;
            self.reload().await;
        }
    }

    /// Uses the file's addresses if it has changed and can be used. Returns whether they are in
    /// use.
    pub async fn reload(&mut self) -> bool {
        let found = file::read(&self.path).await;
        if found == self.seen {
            return false;
        }
        let parsed = found
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|bytes| file::parse(bytes));
        self.seen = found;
        self.metrics
            .listeners_file_invalid
            .set(i64::from(parsed.is_err()));
        let listeners = match parsed {
            Ok(listeners) => listeners,
            Err(error) => {
                tracing::error!(
                    file = %self.path.display(), %error,
                    "the changed listeners file cannot be used; clients are given the addresses of the last good one"
                );
                return false;
            }
        };
        let restart = !is_same_sockets(&self.started, &listeners);
        self.metrics.listeners_restart_pending.set(i64::from(restart));
        if restart {
            tracing::warn!(
                file = %self.path.display(),
                "the listeners file names other sockets than those that are open; restart the agent to open them"
            );
        }
        self.book.replace(&listeners);
        tracing::info!(file = %self.path.display(), "loaded the changed listeners file");
        true
    }
}

fn is_same_sockets(started: &[ListenerDefinition], found: &[ListenerDefinition]) -> bool {
    let socket = |listener: &ListenerDefinition| {
        let (name, listen) = (listener.name.clone(), listener.listen.clone());
        (name, listen, listener.protocol, listener.tls)
    };
    let sorted = |listeners: &[ListenerDefinition]| {
        let mut sockets: Vec<_> = listeners.iter().map(socket).collect();
        sockets.sort();
        sockets
    };
    sorted(started) == sorted(found)
}

#[cfg(test)]
mod tests;
