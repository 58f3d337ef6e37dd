//! Determines why agents are not ready, from the status of their pods. Used by the status while
//! fewer agents are available than desired. Only reads.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, ResourceExt, api::ListParams};

use crate::context::OperatorContext;

/// Waiting reasons of a container that is starting normally.
const STARTING_REASONS: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Waiting reasons of a container whose image is not on the node and cannot be pulled.
const IMAGE_REASONS: [&str; 5] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "RegistryUnavailable",
];
/// What to do about an image that cannot be pulled.
const IMAGE_ADVICE: &str = "build the images and load or push them, or correct spec.image: \
    https://github.com/streamhouse/streamhouse/blob/main/docs/install/helm.md#images";

/// Returns the first problem of the pods with these labels, as `pod: reason: message`.
pub(super) async fn find_problem(
    context: &OperatorContext,
    namespace: &str,
    selector: &str,
) -> kube::Result<Option<String>> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let mut pods = pods.list(&ListParams::default().labels(selector)).await?.items;
    // The newest pod first: it has the current template.
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.creation_timestamp()));
    Ok(pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .find_map(|pod| Some(format!("pod {}: {}", pod.name_any(), pod_problem(pod)?))))
}

/// Returns the termination message of a finished container.
pub(super) fn termination_message(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find_map(|status| {
        let ended = [&status.state, &status.last_state]
            .into_iter()
            .find_map(|state| state.as_ref()?.terminated.clone())?;
        ended
            .message
            .map(|message| message.trim().to_owned())
            .filter(|message| !message.is_empty())
    })
}

/// Returns the problem of a pod.
pub(super) fn pod_problem(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unschedulable {
        let reason = condition.reason.as_deref().unwrap_or("Unschedulable");
        return Some(format_reason(reason, condition.message.as_deref()));
    }
    if status.phase.as_deref() == Some("Failed") {
        return Some(format_reason(
            status.reason.as_deref().unwrap_or("Failed"),
            status.message.as_deref(),
        ));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    containers.into_iter().find_map(container_problem)
}

fn container_problem(status: &ContainerStatus) -> Option<String> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    if STARTING_REASONS.contains(&reason) {
        return None;
    }
    if IMAGE_REASONS.contains(&reason) {
        let image = &status.image;
        let why = format_reason(reason, waiting.message.as_deref());
        return Some(format!("image {image} cannot be pulled: {IMAGE_ADVICE} ({why})"));
    }
    // The termination message of a crashed container says more than the back-off message.
    let ended = status
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    let message = ended
        .and_then(|ended| ended.message.as_deref())
        .or(waiting.message.as_deref());
    Some(format_reason(reason, message))
}

fn format_reason(reason: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{reason}: {message}"),
        None => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
    }

    #[test]
    fn an_unschedulable_pod_says_why() {
        let status = json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: insufficient cpu" }] });
        assert_eq!(
            pod_problem(&pod(status)).unwrap(),
            "Unschedulable: 0/1 nodes: insufficient cpu"
        );
    }

    #[test]
    fn a_crashing_pod_says_its_last_words() {
        let status = json!({ "containerStatuses": [{ "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
            "lastState": { "terminated": { "exitCode": 2, "message": "there is no setting x\n" } } }] });
        assert_eq!(
            pod_problem(&pod(status.clone())).unwrap(),
            "CrashLoopBackOff: there is no setting x"
        );
        assert_eq!(
            termination_message(&pod(status)).unwrap(),
            "there is no setting x"
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named_with_what_to_do() {
        let waiting =
            json!({ "reason": "ImagePullBackOff", "message": "Back-off pulling image \"r/agent:1\"" });
        let status = json!({ "containerStatuses": [{ "name": "agent", "image": "r/agent:1", "imageID": "", "ready": false,
            "restartCount": 0, "state": { "waiting": waiting } }] });
        let problem = pod_problem(&pod(status)).unwrap();
        for part in [
            "image r/agent:1 cannot be pulled",
            "load or push",
            "docs/install/helm.md#images",
            "(ImagePullBackOff: Back-off",
        ] {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn a_pod_that_is_only_starting_has_no_trouble() {
        let status = json!({ "containerStatuses": [{ "name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": "ContainerCreating" } } }] });
        assert_eq!(pod_problem(&pod(status)), None);
    }
}
