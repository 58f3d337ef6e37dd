//! A minimal HTTP client.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// Larger than any metrics.
const MAX_BODY: usize = 16 << 20;

/// Returns the body of `http://{address}{path}` as text.
pub async fn get(address: &str, path: &str) -> Result<String> {
    let url = format!("http://{address}{path}");
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<bytes::Bytes>>();
    let ask = async {
        let answer = client.get(url.parse()?).await?;
        ensure!(answer.status().is_success(), "it answers {}", answer.status());
        let body = Limited::new(answer.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!(error))?;
        Ok(String::from_utf8(body.to_bytes().into())?)
    };
    let answer = tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .context("no answer in 5 s")?;
    answer.with_context(|| format!("cannot get {url}"))
}
