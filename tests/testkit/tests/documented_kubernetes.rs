//! The documented commands for Kubernetes, in order, against a real API server that holds nothing.
//!
//! There is no node, so commands that wait for pods only have to name objects that exist, and
//! pods are created with `--dry-run=server`. The stage `cluster` runs the tutorial on kind.

use std::path::{Path, PathBuf};
use std::time::Duration;

use streamhouse_testkit::{CommandScope, KubeApi, extract_commands};

/// Functions in place of kubectl and helm, which replace what needs a node. `kubectl create` and
/// the like are the real ones.
const WITHOUT_NODES: &str = r#"
kubectl() {
  local argument verb= arguments=()
  for argument; do
    case $argument in
      wait | run) [ -n "$verb" ] || verb=$argument ;;
      rollout) verb=rollout ;;
    esac
  done
  case $verb in
    run) for argument; do case $argument in --) break ;; --rm | -i) ;; *) arguments+=("$argument") ;; esac; done
      "$KUBECTL" "${arguments[@]}" --dry-run=server ;;
    wait | rollout)
      for argument; do case $argument in --for=* | --timeout=* | --all | status) ;; wait | rollout) arguments+=(get) ;; *) arguments+=("$argument") ;; esac; done
      "$KUBECTL" "${arguments[@]}" ;;
    *) "$KUBECTL" "$@" ;;
  esac
}
helm() {
  local argument arguments=()
  if [ "$1" = test ]; then "$HELM" get hooks "${@:2}"; return; fi
  for argument; do [ "$argument" = --wait ] || arguments+=("$argument"); done
  "$HELM" "${arguments[@]}"
}
"#;

const LIMIT: Duration = Duration::from_secs(120);

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn start_empty_cluster() -> anyhow::Result<KubeApi> {
    let api = KubeApi::start()?;
    // Creates the service accounts without which no pod is admitted.
    api.start_controller_manager()?;
    Ok(api)
}

/// Runs a document's blocks for Kubernetes in these sections, or all of them, and returns their
/// output.
fn run_document(api: &KubeApi, path: &str, sections: &[&str]) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(repository().join(path))?;
    let mut script = format!("cd '{}'\n{WITHOUT_NODES}", repository().display());
    let mut count = 0;
    for command in extract_commands(&text)? {
        let chosen = sections.is_empty() || sections.contains(&command.section.as_str());
        if chosen && command.scope == CommandScope::Kubernetes {
            script.push_str(&format!("echo '== line {}'\n{}", command.line, command.code));
            count += 1;
        }
    }
    anyhow::ensure!(count > 0, "{path} has no commands for Kubernetes");
    let mut shell = api.shell(&script)?.name(path).start()?;
    let status = shell.wait(LIMIT)?;
    anyhow::ensure!(status.success(), "{status}\n{}", shell.log_tail());
    Ok(shell.stdout())
}

#[test]
fn the_tutorial_works_in_an_empty_cluster() -> anyhow::Result<()> {
    let api = start_empty_cluster()?;
    let sections = [
        "On an existing cluster",
        "Produce and consume",
        "Change something",
    ];
    // The last two follow the first for this reader, although the page has them first.
    run_document(&api, "docs/start/kubernetes.md", &sections[..1])?;
    let output = run_document(&api, "docs/start/kubernetes.md", &sections[1..])?;
    assert!(output.contains("pod/client created (server dry run)"), "{output}");
    let partitions = [
        "-n",
        "streamhouse",
        "get",
        "topic",
        "orders",
        "-o",
        "jsonpath={.spec.partitions}",
    ];
    assert_eq!(api.kubectl(&partitions)?, "8");
    Ok(())
}

#[test]
fn the_installation_guide_works_in_an_empty_cluster() -> anyhow::Result<()> {
    let api = start_empty_cluster()?;
    let output = run_document(&api, "docs/install/helm.md", &[])?;
    let created =
        "streamhousecluster.streamhouse.io/streamhouse created\ntopic.streamhouse.io/orders created\n";
    assert!(output.contains(created), "{output}");
    let clusters = api.kubectl(&["get", "streamhouseclusters", "--all-namespaces", "-o", "name"])?;
    assert_eq!(clusters, "", "the last section deletes the cluster");
    Ok(())
}

#[test]
fn the_chart_installs_as_the_guide_to_images_says() -> anyhow::Result<()> {
    let api = start_empty_cluster()?;
    run_document(&api, "docs/install/images.md", &[])?;
    let images = [
        "-n",
        "streamhouse-system",
        "get",
        "deployment",
        "streamhouse-operator",
        "-o",
        "jsonpath={.spec.template.spec.containers[*].image}",
    ];
    assert!(
        api.kubectl(&images)?
            .starts_with("ghcr.io/streamhouse/streamhouse-operator:")
    );
    Ok(())
}

#[test]
fn the_chart_gives_the_same_commands_as_the_guide() -> anyhow::Result<()> {
    let commands = |path: &str| {
        let text = std::fs::read_to_string(repository().join(path))?;
        anyhow::Ok(
            extract_commands(&text)?
                .into_iter()
                .map(|command| command.code)
                .collect::<Vec<_>>(),
        )
    };
    let (chart, guide) = (
        commands("charts/streamhouse-operator/README.md")?,
        commands("docs/install/helm.md")?,
    );
    assert_eq!(chart, &guide[..1]);
    Ok(())
}
