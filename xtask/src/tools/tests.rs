//! The catalogue, and what is missing on machines of all kinds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::cache::{CacheLock, is_complete, new_folder, prepare_new_folder, publish};
use super::installer::{in_order, missing_packages};
use super::machine::{MachineFacts, find_files};
use super::spec::{CachedTool, FolderName, ToolContent, ToolSource, ToolSpec, ToolVariable};
use super::versions::{PinnedVersions, ensure_required, is_at_least};
use super::*;

/// A machine that has what it is given.
#[derive(Debug, Default)]
struct FakeMachine {
    programs: BTreeSet<&'static str>,
    files: BTreeSet<&'static str>,
    python_venv: bool,
    is_root: bool,
    variables: BTreeMap<&'static str, &'static str>,
}

impl MachineFacts for FakeMachine {
    fn has_program(&self, name: &str) -> bool {
        self.programs.contains(name)
    }

    fn has_file(&self, pattern: &str) -> bool {
        self.files.contains(pattern)
    }

    fn has_python_venv(&self) -> bool {
        self.python_venv
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).map(|value| (*value).to_owned())
    }

    fn is_root(&self) -> bool {
        self.is_root
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The tools of a repository, on a machine, with a cache beside it.
fn context(root: &Path, machine: FakeMachine) -> ToolContext {
    ToolContext {
        root: root.to_owned(),
        cache: root.join("cache"),
        versions: PinnedVersions::read(repository()).unwrap(),
        machine: Box::new(machine),
    }
}

fn specs() -> impl Iterator<Item = &'static ToolSpec> {
    ToolName::ALL.iter().map(|tool| tool.spec())
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn every_tool_has_a_name_of_its_own_and_is_listed() {
    let names: BTreeSet<&str> = specs().map(|spec| spec.name).collect();
    assert_eq!(names.len(), ToolName::ALL.len());
    for tool in ToolName::ALL {
        let spec = tool.spec();
        assert_eq!(ToolName::parse(spec.name), Some(*tool));
        assert!(list().contains(&format!("  {} ", spec.name)), "{}", spec.name);
        assert!(!spec.what.is_empty(), "{}", spec.name);
        assert!(
            spec.cached.is_some() || !spec.packages.is_empty(),
            "{} installs nothing",
            spec.name
        );
    }
}

#[test]
fn an_unknown_tool_is_refused_with_the_list() {
    let error = parse(&["minio", "docker-in-docker"]).unwrap_err().to_string();
    assert!(error.starts_with("no tool docker-in-docker; the tools are:\n"));
    assert!(error.contains("kubernetes-api"));
}

/// Returns the tools that `tool` needs, however indirectly.
fn all_needs(tool: ToolName) -> BTreeSet<ToolName> {
    let mut found = BTreeSet::new();
    let mut open = tool.spec().needs.to_vec();
    while let Some(need) = open.pop() {
        if found.insert(need) {
            open.extend(need.spec().needs);
        }
    }
    found
}

#[test]
fn no_tool_needs_itself() {
    for tool in ToolName::ALL {
        assert!(!all_needs(*tool).contains(tool), "{}", tool.spec().name);
    }
}

#[test]
fn what_a_tool_needs_comes_first_and_once() {
    let context = context(repository(), FakeMachine::default());
    let order = in_order(&context, ToolName::ALL);
    assert_eq!(order.len(), ToolName::ALL.len());
    let place = |tool: &ToolName| order.iter().position(|other| other == tool);
    for tool in ToolName::ALL {
        for need in tool.spec().needs {
            assert!(place(need) < place(tool), "{}", tool.spec().name);
        }
    }
}

#[test]
fn a_variable_that_tools_set_has_one_meaning_but_for_the_python_of_a_script() {
    let mut tools_of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for spec in specs() {
        let Some(cached) = &spec.cached else { continue };
        for variable in spec.variables {
            let (name, path) = match variable {
                ToolVariable::Folder(name) => (*name, ""),
                ToolVariable::Path(name, path) => (*name, *path),
                ToolVariable::SearchPath(_) => continue,
            };
            let value = format!("{:?}/{path}", cached.folder);
            let values = tools_of.entry(name).or_default();
            if !values.contains(&value) {
                values.push(value);
            }
        }
    }
    tools_of.remove("PYTHON");
    assert!(tools_of.len() > 8);
    for (name, values) in tools_of {
        assert_eq!(values.len(), 1, "{name}: {values:?}");
    }
}

#[test]
fn every_version_of_the_catalogue_is_pinned_as_in_its_go_mod() {
    let versions = PinnedVersions::read(repository()).unwrap();
    let mut pins = 0;
    for cached in specs().filter_map(|spec| spec.cached.as_ref()) {
        if let FolderName::Version(_, key) | FolderName::VersionAndDigest(_, key, _) = &cached.folder {
            versions.version(key).unwrap();
        }
        let pin = match &cached.source {
            ToolSource::GoModule(module) => module.pin.map(|pin| (module.folder, pin)),
            ToolSource::GoTests(tests) => Some((tests.folder, tests.pin)),
            _ => None,
        };
        if let Some((folder, (name, key))) = pin {
            let path = format!("{folder}/go.mod");
            let go_mod = fs::read_to_string(repository().join(&path)).unwrap();
            ensure_required(&go_mod, &path, name, versions.version(key).unwrap()).unwrap();
            pins += 1;
        }
    }
    assert!(pins >= 4);
}

#[test]
fn another_version_in_go_mod_is_refused() {
    let go_mod = "module x\n\nrequire k8s.io/kubernetes v1.34.4\n\nrequire (\n\tk8s.io/api v0.34.4\n)\n";
    let check = |module, version| ensure_required(go_mod, "hack/kubernetes/go.mod", module, version);
    check("k8s.io/kubernetes", "v1.34.4").unwrap();
    check("k8s.io/api", "v0.34.4").unwrap();
    assert!(check("k8s.io/api", "v0.34").is_err());
    let error = check("k8s.io/kubernetes", "v1.35.0").unwrap_err();
    assert_eq!(
        error.to_string(),
        "hack/versions.sh wants k8s.io/kubernetes v1.35.0, and hack/kubernetes/go.mod another version: \
         make them equal"
    );
}

#[test]
fn versions_are_compared_as_numbers() {
    assert!(is_at_least("1.26.1", "1.21"));
    assert!(is_at_least("1.21", "1.21"));
    assert!(is_at_least("1.100rc1", "1.21"));
    assert!(!is_at_least("1.9.9", "1.21"));
    assert!(!is_at_least("", "1.21"));
}

fn folder_name(context: &ToolContext, cached: &CachedTool) -> String {
    let folder = context.folder(cached).unwrap();
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_folder_is_named_after_its_version() {
    let mut context = context(repository(), FakeMachine::default());
    context.versions = PinnedVersions::parse("MINIO_VERSION=v7\n");
    let minio = ToolName::Minio.spec().cached.as_ref().unwrap();
    assert_eq!(folder_name(&context, minio), "minio-v7");
    assert_eq!(context.title(minio).unwrap(), "MinIO v7");
}

#[test]
fn a_folders_name_changes_with_each_of_its_inputs() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = [
        "hack/kubernetes/tools/go.mod",
        "hack/kubernetes/tools/go.sum",
        "hack/kubernetes/tools/coredns/main.go",
    ];
    for input in inputs {
        write(&folder.path().join(input), input, 0o644);
    }
    let context = context(folder.path(), FakeMachine::default());
    let tools = ToolName::KubernetesTools.spec().cached.as_ref().unwrap();
    let mut names = vec![folder_name(&context, tools)];
    write(
        &folder.path().join("hack/kubernetes/tools/README.md"),
        "no input",
        0o644,
    );
    assert_eq!(folder_name(&context, tools), names[0]);
    for input in inputs {
        write(&folder.path().join(input), "changed", 0o644);
        names.push(folder_name(&context, tools));
    }
    write(
        &folder.path().join("hack/kubernetes/tools/another/main.go"),
        "new",
        0o644,
    );
    names.push(folder_name(&context, tools));
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 5);
    assert!(names[0].starts_with("kubernetes-tools-") && names[0].len() == "kubernetes-tools-".len() + 12);
}

#[test]
fn an_input_that_is_not_there_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), FakeMachine::default());
    let error = context.folder_of(ToolName::KubernetesTools).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("there is no hack/kubernetes/tools/go.*")
    );
}

const CONTENTS: &[ToolContent] = &[
    ToolContent::Program("server"),
    ToolContent::File("words"),
    ToolContent::Folder("crds"),
];

#[test]
fn a_half_built_tool_does_not_count_as_there() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("tool-1");
    let new = prepare_new_folder(&folder).unwrap();
    write(&new.join("server"), "", 0o755);
    write(&new.join("words"), "a word", 0o644);
    write(&new.join("crds/one.yaml"), "", 0o644);
    assert!(!is_complete(&folder, CONTENTS));
    publish(&new, &folder).unwrap();
    assert!(is_complete(&folder, CONTENTS));
    assert!(!new.exists());
    fs::remove_file(folder.join("server")).unwrap();
    assert!(!is_complete(&folder, CONTENTS));
    // A download that ended early, and a program that may not be executed.
    write(&folder.join("server"), "", 0o644);
    assert!(!is_complete(&folder, CONTENTS));
    write(&folder.join("server"), "", 0o755);
    write(&folder.join("words"), "", 0o644);
    assert!(!is_complete(&folder, CONTENTS));
}

#[test]
fn a_virtual_environment_without_its_packages_does_not_count_as_there() {
    let cache = tempfile::tempdir().unwrap();
    write(&cache.path().join("bin/python"), "", 0o755);
    for spec in specs() {
        if let Some(cached) = &spec.cached
            && matches!(cached.source, ToolSource::PythonPackages(_))
        {
            assert!(!is_complete(cache.path(), cached.contents), "{}", spec.name);
        }
    }
}

#[test]
fn what_a_killed_build_left_is_removed() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("tool-1");
    write(&new_folder(&folder).join("server"), "half of it", 0o755);
    let new = prepare_new_folder(&folder).unwrap();
    assert_eq!(fs::read_dir(new).unwrap().count(), 0);
}

#[test]
fn tools_that_share_a_folder_keep_what_the_others_built() {
    let cache = tempfile::tempdir().unwrap();
    let folder = cache.path().join("kubernetes-1");
    for (name, text) in [("kubelet", "old"), ("kubectl", "one"), ("kubelet", "two")] {
        let new = prepare_new_folder(&folder).unwrap();
        write(&new.join(name), text, 0o755);
        publish(&new, &folder).unwrap();
    }
    assert_eq!(fs::read_to_string(folder.join("kubectl")).unwrap(), "one");
    assert_eq!(fs::read_to_string(folder.join("kubelet")).unwrap(), "two");
}

#[test]
fn missing_packages_follow_from_what_the_machine_has() {
    let machine = FakeMachine {
        programs: BTreeSet::from([
            "setpriv",
            "setsid",
            "unshare",
            "nsenter",
            "flock",
            "ip",
            "prometheus",
        ]),
        files: BTreeSet::from(["/usr/lib/postgresql/*/bin/initdb"]),
        ..FakeMachine::default()
    };
    let context = context(repository(), machine);
    let missing = missing_packages(&context, &[ToolName::DevServers, ToolName::TestServers]);
    let names = [
        "pgbouncer",
        "prometheus-alertmanager",
        "prometheus-node-exporter",
        "python3",
        "python3-venv",
    ];
    assert_eq!(missing.names, BTreeSet::from(names));
    let services = ["pgbouncer", "prometheus-alertmanager", "prometheus-node-exporter"];
    assert_eq!(missing.services, BTreeSet::from(services));
}

#[test]
fn one_program_of_several_is_not_the_package() {
    let machine = FakeMachine {
        programs: BTreeSet::from(["docker"]),
        ..FakeMachine::default()
    };
    let context = context(repository(), machine);
    let missing = missing_packages(&context, &[ToolName::Docker]);
    assert!(missing.names.contains("docker.io"));
}

#[test]
fn without_apt_the_missing_packages_are_named() {
    let context = context(repository(), FakeMachine::default());
    let missing = missing_packages(&context, &[ToolName::Postgresql, ToolName::Python]);
    let error = missing.install(context.machine.as_ref()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "missing: postgresql python3. Packages are installed on Debian and Ubuntu only: \
         install their like by hand"
    );
}

#[test]
fn without_root_and_sudo_the_command_for_root_is_named() {
    let machine = FakeMachine {
        programs: BTreeSet::from(["apt-get", "python3"]),
        ..FakeMachine::default()
    };
    let context = context(repository(), machine);
    let missing = missing_packages(&context, &[ToolName::Postgresql, ToolName::Python]);
    let error = missing.install(context.machine.as_ref()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "missing: postgresql. Installing them needs root, and there is no sudo: \
         run as root: apt-get install postgresql"
    );
}

#[test]
fn scripts_need_tools_of_the_catalogue() {
    let mut needed = BTreeSet::new();
    for script in find_files(repository(), "hack/*.sh") {
        let text = fs::read_to_string(&script).unwrap();
        let commands = text.lines().flat_map(|line| line.split(';'));
        let needs = commands.filter_map(|command| {
            let command = command.trim();
            command
                .strip_prefix("else ")
                .unwrap_or(command)
                .strip_prefix("need ")
        });
        for name in needs.flat_map(str::split_whitespace) {
            assert!(
                ToolName::parse(name).is_some(),
                "{} needs {name}",
                script.display()
            );
            needed.insert(name.to_owned());
        }
    }
    assert!(
        needed.contains("words") && needed.contains("kubernetes-schemas"),
        "{needed:?}"
    );
}

#[test]
fn the_users_own_program_takes_the_place_of_a_tool_and_of_what_it_needs() {
    let machine = FakeMachine {
        variables: BTreeMap::from([
            ("STREAMHOUSE_MINIO", "/opt/minio"),
            ("STREAMHOUSE_PYTHON", "/opt/python"),
        ]),
        ..FakeMachine::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), machine);
    let exports = install(&context, &[ToolName::Minio, ToolName::KafkaPython]).unwrap();
    assert_eq!(
        exports.to_shell(),
        "export STREAMHOUSE_MINIO='/opt/minio'\nexport STREAMHOUSE_PYTHON='/opt/python'\n"
    );
    assert!(!context.cache.exists());
}

#[test]
fn a_complete_tool_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(folder.path(), FakeMachine::default());
    let minio = context.folder_of(ToolName::Minio).unwrap();
    write(&minio.join("minio"), "", 0o755);
    let exports = install(&context, &[ToolName::Minio]).unwrap();
    let expected = format!("export STREAMHOUSE_MINIO='{}/minio'\n", minio.display());
    assert_eq!(exports.to_shell(), expected);
    assert!(!context.cache.join("lock").exists());
}

#[test]
fn one_process_at_a_time_builds() {
    let cache = tempfile::tempdir().unwrap();
    let flock = || {
        let lock = cache.path().join("lock");
        let mut flock = Command::new("flock");
        flock.arg("--nonblock").arg(lock).arg("true");
        flock.status().unwrap().success()
    };
    let lock = CacheLock::acquire(cache.path()).unwrap();
    assert!(!flock());
    drop(lock);
    assert!(flock());
}

#[test]
fn a_star_stands_for_any_part_of_a_name() {
    let folder = tempfile::tempdir().unwrap();
    for file in [
        "16/bin/initdb",
        "9/bin/initdb",
        "9/bin/psql",
        ".hidden/bin/initdb",
    ] {
        write(&folder.path().join(file), "", 0o755);
    }
    let found = |pattern| find_files(folder.path(), pattern).len();
    assert_eq!(found("*/bin/initdb"), 2);
    assert_eq!(found("9/bin/*"), 2);
    assert_eq!(found("9/*/p*l"), 1);
    assert_eq!(found("*/bin/postgres"), 0);
}
