//! Calls to the API server that the reconciliations of Topics and of Users share. Each has a
//! timeout.

use std::{fmt::Debug, time::Duration};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{context::OperatorContext, crd::FIELD_MANAGER};

/// Timeout of one call to the API server.
const API_TIMEOUT: Duration = Duration::from_secs(30);

/// The API server rejected a request or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The resource does not exist, or another one has its name.
    #[error("the resource does not exist")]
    NotFound,
    /// The resource was changed or created concurrently.
    #[error("{0}")]
    Conflict(String),
    /// Any other error.
    #[error("{0}")]
    Failed(String),
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.is_not_found() => Self::NotFound,
            kube::Error::Api(status) if status.is_conflict() => Self::Conflict(status.message),
            kube::Error::Api(status) => Self::Failed(status.message),
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Limits the duration of a call to the API server.
///
/// # Errors
///
/// Returns the error of the call, or that it took too long.
pub(crate) async fn with_timeout<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(API_TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ApiError::Failed(format!(
            "no response within {} s",
            API_TIMEOUT.as_secs()
        ))),
    }
}

/// Returns whether the namespace is being deleted. Without the right to read namespaces, only the
/// state of the cluster is considered.
///
/// # Errors
///
/// Returns the error of the API server.
pub(crate) async fn is_namespace_terminating(
    context: &OperatorContext,
    namespace: &str,
) -> Result<bool, ApiError> {
    let namespaces: Api<Namespace> = Api::all(context.client.clone());
    let found = with_timeout(async {
        match namespaces.get_opt(namespace).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() => Ok(Some(Namespace::default())),
            other => other,
        }
    });
    Ok(found
        .await?
        .is_none_or(|namespace| namespace.metadata.deletion_timestamp.is_some()))
}

/// Returns whether the resource with this name and uid exists. Asks the API server itself: a watch
/// may lag, and another replica may know more.
///
/// # Errors
///
/// Returns the error of the API server.
pub(crate) async fn exists<K>(
    context: &OperatorContext,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<bool, ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let found = with_timeout(api.get_metadata_opt(name)).await?;
    Ok(found.is_some_and(|found| found.metadata.uid.as_deref() == Some(uid)))
}

/// Applies the status and returns the changed resource. The uid prevents writing to a recreated
/// resource of the same name.
///
/// # Errors
///
/// Returns the error of the API server.
pub(crate) async fn apply_status<K, S>(
    context: &OperatorContext,
    object: &K,
    status: &S,
) -> Result<K, ApiError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    S: Serialize,
{
    let metadata = object.meta();
    let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
        return Err(ApiError::NotFound);
    };
    let kind = K::kind(&());
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "metadata": { "name": name, "namespace": namespace, "uid": metadata.uid },
        "status": status,
    });
    let api: Api<K> = Api::namespaced(context.client.clone(), namespace);
    let how = PatchParams::apply(FIELD_MANAGER).force();
    let written = with_timeout(api.patch_status(name, &how, &Patch::Apply(&patch))).await?;
    context.metrics.api_writes.with_label_values(&[&*kind]).inc();
    Ok(written)
}
