//! The words of the catalogue: what a tool is, how it is installed, and how one sees that it is
//! there.
//!
//! Only data: `installer` decides what is missing, `packages` and `build` do the work.

use super::name::ToolName;

/// A program, or several that are used together, and what it takes to have them.
#[derive(Debug)]
pub(crate) struct ToolSpec {
    /// What `cargo xtask tools` calls it.
    pub(crate) name: &'static str,
    /// A line of `cargo xtask tools --list`.
    pub(crate) what: &'static str,
    /// Tools that are installed before it.
    pub(crate) needs: &'static [ToolName],
    /// Packages of Debian and Ubuntu.
    pub(crate) packages: &'static [AptPackage],
    /// What is built or downloaded into the cache.
    pub(crate) cached: Option<CachedTool>,
    /// Variables for who uses it.
    pub(crate) variables: &'static [ToolVariable],
    /// A variable that names the user's own program. If it is set, nothing is installed.
    pub(crate) substitute: Option<&'static str>,
}

impl ToolSpec {
    /// A tool without anything, for `..ToolSpec::EMPTY`.
    pub(crate) const EMPTY: ToolSpec = ToolSpec {
        name: "",
        what: "",
        needs: &[],
        packages: &[],
        cached: None,
        variables: &[],
        substitute: None,
    };
}

/// A package of Debian and Ubuntu.
#[derive(Debug)]
pub(crate) struct AptPackage {
    pub(crate) names: &'static [&'static str],
    /// Any of these shows that it, or its like of another system, is installed.
    pub(crate) evidence: &'static [PackageEvidence],
    /// The systemd unit that must not start at the next boot.
    pub(crate) service: Option<&'static str>,
}

impl AptPackage {
    /// A package whose programs show that it is there.
    pub(crate) const fn with_programs(
        names: &'static [&'static str],
        evidence: &'static [PackageEvidence],
    ) -> AptPackage {
        AptPackage {
            names,
            evidence,
            service: None,
        }
    }

    /// The same package, whose service stays switched off.
    pub(crate) const fn without_service(self, unit: &'static str) -> AptPackage {
        AptPackage {
            names: self.names,
            evidence: self.evidence,
            service: Some(unit),
        }
    }
}

/// What shows that a package is installed.
#[derive(Debug)]
pub(crate) enum PackageEvidence {
    /// All of these programs are in PATH.
    Programs(&'static [&'static str]),
    /// There is a file of this absolute path, in which `*` stands for any part of a name.
    File(&'static str),
    /// Python can create virtual environments.
    PythonVenv,
}

/// What a tool has in the cache.
#[derive(Debug)]
pub(crate) struct CachedTool {
    /// What messages call it; `{version}` is the version of its folder.
    pub(crate) title: &'static str,
    /// How long it takes, such as "about 3 minutes".
    pub(crate) takes: &'static str,
    pub(crate) folder: FolderName,
    /// All of these must be there; several tools may share a folder.
    pub(crate) contents: &'static [ToolContent],
    pub(crate) source: ToolSource,
}

/// The name of a folder in the cache, which changes with what is built into it.
#[derive(Debug)]
pub(crate) enum FolderName {
    /// `NAME`: what never changes.
    Fixed(&'static str),
    /// `PREFIX-VERSION`, with the version that hack/versions.sh has under this key.
    Version(&'static str, &'static str),
    /// `PREFIX-DIGEST` of all inputs.
    Digest(&'static str, &'static [DigestInput]),
    /// `PREFIX-VERSION-DIGEST`.
    VersionAndDigest(&'static str, &'static str, &'static [DigestInput]),
}

/// Something that a build depends on.
#[derive(Debug)]
pub(crate) enum DigestInput {
    /// Files of the repository; `*` stands for any part of a name.
    Files(&'static str),
    /// Files that another tool has in the cache.
    ToolFiles(ToolName, &'static str),
    /// What `python3 --version` prints.
    PythonVersion,
}

/// A part of a tool's folder.
#[derive(Debug)]
pub(crate) enum ToolContent {
    /// An executable file.
    Program(&'static str),
    /// A file that is not empty.
    File(&'static str),
    /// A file that may be empty, and is written when all else is there.
    Marker(&'static str),
    Folder(&'static str),
}

/// Where a tool comes from.
#[derive(Debug)]
pub(crate) enum ToolSource {
    /// Programs of a Go module of this repository, whose go.mod pins all versions.
    GoModule(GoModule),
    /// `go install PACKAGE@VERSION`, with the version that hack/versions.sh has under this key.
    GoInstall(&'static str, &'static str),
    /// The tests of a Go package of the outside world, as a program.
    GoTests(GoTests),
    /// A virtual environment with the Python packages of this file.
    PythonPackages(PythonPackages),
    /// The Java archives of a project of Maven, in the folder `lib`.
    MavenPackages(MavenPackages),
    /// `cargo install CRATE`, with the version that hack/versions.sh has under this key.
    CargoInstall(&'static str, &'static str),
    /// One file of a package that is downloaded and not installed.
    PackageFile(PackageFile),
    /// Anything else.
    Steps(BuildSteps),
}

/// Programs of a Go module of this repository.
#[derive(Debug)]
pub(crate) struct GoModule {
    pub(crate) folder: &'static str,
    /// A module and the key of hack/versions.sh that must have the version of go.mod.
    pub(crate) pin: Option<(&'static str, &'static str)>,
    pub(crate) packages: &'static [&'static str],
    /// Strings in the programs that the linker sets.
    pub(crate) link: &'static [(&'static str, LinkValue)],
    /// What follows, such as files that are generated from the same module.
    pub(crate) then: Option<BuildSteps>,
}

/// The tests of a package that a Go module of this repository requires.
#[derive(Debug)]
pub(crate) struct GoTests {
    pub(crate) folder: &'static str,
    /// A module and the key of hack/versions.sh that must have the version of go.mod.
    pub(crate) pin: (&'static str, &'static str),
    pub(crate) package: &'static str,
    pub(crate) program: &'static str,
}

/// Java archives from Maven's repository.
#[derive(Debug)]
pub(crate) struct MavenPackages {
    /// Has the project `pom.xml`, and `jars.sha256` with the digest of every archive.
    pub(crate) folder: &'static str,
    /// A property of the project and the key of hack/versions.sh that must have its value.
    pub(crate) pin: (&'static str, &'static str),
}

/// Steps of a build that are code: a function in `build` for each.
#[derive(Debug, Clone, Copy)]
pub(crate) enum BuildSteps {
    /// Lays out the node image of kind, as root.
    KindNodeImage,
    /// Compiles Kubernetes' pause program, which is written in C.
    KubernetesPause,
    /// Generates JSON schemas from Kubernetes' OpenAPI document and from resource definitions.
    KubernetesSchemas,
    /// Generates the resource definitions of the Prometheus Operator from its types.
    MonitoringDefinitions,
    /// Copies a file of a Go module that the tool is built from.
    ModuleFile(&'static ModuleFile),
}

/// A file of a Go module that a module of this repository requires.
#[derive(Debug)]
pub(crate) struct ModuleFile {
    /// The folder of the module of this repository.
    pub(crate) folder: &'static str,
    pub(crate) module: &'static str,
    /// Its path in the module, in which `{version}` is the version without its `v` that
    /// hack/versions.sh has under `key`.
    pub(crate) path: &'static str,
    pub(crate) key: &'static str,
    /// Its name in the cache.
    pub(crate) file: &'static str,
}

/// A string that the linker sets, with keys of hack/versions.sh.
#[derive(Debug)]
pub(crate) enum LinkValue {
    /// As `v1.34.4`.
    Version(&'static str),
    /// As `1.34.4`.
    VersionWithoutV(&'static str),
    /// As `1`.
    Major(&'static str),
    /// As `34`.
    Minor(&'static str),
}

/// A virtual environment of Python.
#[derive(Debug)]
pub(crate) struct PythonPackages {
    pub(crate) requirements: &'static str,
    /// The oldest Python that will do: its major and minor version.
    pub(crate) minimum: Option<(u32, u32)>,
    /// Whether the file names all packages, so that pip adds none that they ask for.
    pub(crate) complete: bool,
}

/// A file of a package of Debian and Ubuntu.
#[derive(Debug)]
pub(crate) struct PackageFile {
    pub(crate) package: &'static str,
    /// Where it is if the package is installed; `None` if an installed one is not as good.
    pub(crate) installed: Option<&'static str>,
    /// Its paths in the package, which depend on the release.
    pub(crate) paths: &'static [&'static str],
    /// Its name in the cache.
    pub(crate) file: &'static str,
    /// What to do without the package.
    pub(crate) instead: &'static str,
}

/// A variable for who uses a tool.
#[derive(Debug)]
pub(crate) enum ToolVariable {
    /// The folder in the cache.
    Folder(&'static str),
    /// A path below the folder.
    Path(&'static str, &'static str),
    /// A path below the folder that comes first in PATH.
    SearchPath(&'static str),
}
