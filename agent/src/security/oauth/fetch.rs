//! Reads the keys of an identity provider, from a file or by HTTP. A redirect is no answer.

use std::{error::Error as _, fmt};

use axum::http::StatusCode;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::crypto::ring;
use streamhouse_core::security::MAX_JWKS_BYTES;
use tokio::time::{Duration, timeout};

use super::file::{KeyLocation, read_bounded};

/// Time limit of one request.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

type HttpsClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Reads keys.
pub(super) struct KeyReader {
    client: HttpsClient,
}

impl fmt::Debug for KeyReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyReader").finish_non_exhaustive()
    }
}

impl KeyReader {
    /// Creates a reader that trusts the certificates of the operating system.
    pub(super) fn new() -> Result<Self, String> {
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(ring::default_provider())
            .map_err(|problem| format!("the certificates of the operating system cannot be read: {problem}"))?
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        })
    }

    /// Reads the bytes of a key set.
    pub(super) async fn read(&self, location: &KeyLocation) -> Result<Vec<u8>, String> {
        match location {
            KeyLocation::File(path) => read_bounded(path, MAX_JWKS_BYTES).await,
            KeyLocation::Url(url) => {
                let fetched = timeout(FETCH_TIMEOUT, self.fetch(url.clone())).await;
                fetched
                    .unwrap_or_else(|_| Err(format!("no answer within {FETCH_TIMEOUT:?}")))
                    .map_err(|problem| format!("{url}: {problem}"))
            }
        }
    }

    async fn fetch(&self, url: Uri) -> Result<Vec<u8>, String> {
        let response = self.client.get(url).await.map_err(|problem| {
            let cause = problem.source().map(|cause| format!(": {cause}"));
            format!("{problem}{}", cause.unwrap_or_default())
        })?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_JWKS_BYTES).collect().await;
        let body = body.map_err(|problem| format!("the answer cannot be read: {problem}"))?;
        Ok(body.to_bytes().to_vec())
    }
}
