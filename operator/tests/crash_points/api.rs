//! A client of the API server whose writes pass a crash point.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::http::{Method, Request, Response};
use kube::{Client, client::Body};
use tower::Service;

use crate::crash_points::CrashPoint;

/// Returns a client that passes this point before it writes.
pub(crate) fn crashing_client(client: &Client, point: Arc<CrashPoint>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let client = client.clone();
    Client::new(CrashingApi { client, point }, namespace)
}

struct CrashingApi {
    client: Client,
    point: Arc<CrashPoint>,
}

impl Service<Request<Body>> for CrashingApi {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = kube::Result<Response<Body>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<kube::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (client, point) = (self.client.clone(), self.point.clone());
        Box::pin(async move {
            if request.method() == Method::GET {
                return client.send(request).await;
            }
            let name = write_name(&request);
            point.write(&name, client.send(request)).await
        })
    }
}

/// Returns what the request does, such as `PATCH users/status`.
fn write_name(request: &Request<Body>) -> String {
    let path = request.uri().path();
    let in_namespace = path.split_once("/namespaces/").map_or(path, |(_, rest)| rest);
    let parts: Vec<&str> = in_namespace.split('/').collect();
    let resource = match parts.as_slice() {
        [_, kind, _, part] => format!("{kind}/{part}"),
        [_, kind, ..] => (*kind).to_owned(),
        _ => path.to_owned(),
    };
    format!("{} {resource}", request.method())
}
