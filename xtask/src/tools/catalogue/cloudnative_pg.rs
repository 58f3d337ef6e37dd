//! CloudNativePG, its Barman Cloud plugin, and Barman: PostgreSQL with backups in an object store,
//! for the test on kind.

use super::servers::PYTHON_VENV;
use crate::tools::spec::{
    BuildSteps, CachedTool, DigestInput, FolderName, GoModule, ModuleFile, PythonPackages, ToolContent,
    ToolSource, ToolSpec, ToolVariable,
};

const MODULE: &str = "hack/kubernetes/cloudnative-pg";

pub(super) const OPERATOR: ToolSpec = ToolSpec {
    name: "cloudnative-pg",
    what: "CloudNativePG, an operator of PostgreSQL, and its manifest",
    cached: Some(CachedTool {
        title: "CloudNativePG {version}",
        takes: "about 3 minutes",
        folder: FolderName::Version("cloudnative-pg", "CLOUDNATIVE_PG_VERSION"),
        contents: &[
            ToolContent::Program("manager"),
            ToolContent::File("manifest.yaml"),
        ],
        source: ToolSource::GoModule(GoModule {
            folder: MODULE,
            pin: Some((
                "github.com/cloudnative-pg/cloudnative-pg",
                "CLOUDNATIVE_PG_VERSION",
            )),
            packages: &["github.com/cloudnative-pg/cloudnative-pg/cmd/manager"],
            link: &[],
            then: Some(BuildSteps::ModuleFile(&ModuleFile {
                folder: MODULE,
                module: "github.com/cloudnative-pg/cloudnative-pg",
                path: "releases/cnpg-{version}.yaml",
                key: "CLOUDNATIVE_PG_VERSION",
                file: "manifest.yaml",
            })),
        }),
    }),
    variables: &[ToolVariable::Folder("CLOUDNATIVE_PG_FOLDER")],
    ..ToolSpec::EMPTY
};

pub(super) const PLUGIN: ToolSpec = ToolSpec {
    name: "barman-plugin",
    what: "CloudNativePG's Barman Cloud plugin and its manifest",
    cached: Some(CachedTool {
        title: "the Barman Cloud plugin {version}",
        takes: "about 2 minutes",
        folder: FolderName::Version("barman-plugin", "BARMAN_PLUGIN_VERSION"),
        contents: &[
            ToolContent::Program("manager"),
            ToolContent::File("manifest.yaml"),
        ],
        source: ToolSource::GoModule(GoModule {
            folder: MODULE,
            pin: Some((
                "github.com/cloudnative-pg/plugin-barman-cloud",
                "BARMAN_PLUGIN_VERSION",
            )),
            packages: &["github.com/cloudnative-pg/plugin-barman-cloud/cmd/manager"],
            link: &[],
            then: Some(BuildSteps::ModuleFile(&ModuleFile {
                folder: MODULE,
                module: "github.com/cloudnative-pg/plugin-barman-cloud",
                path: "manifest.yaml",
                key: "BARMAN_PLUGIN_VERSION",
                file: "manifest.yaml",
            })),
        }),
    }),
    variables: &[ToolVariable::Folder("BARMAN_PLUGIN_FOLDER")],
    ..ToolSpec::EMPTY
};

/// What the plugin runs: a list of all packages, because Barman asks for a psycopg2 that has to be
/// compiled.
pub(super) const BARMAN: ToolSpec = ToolSpec {
    name: "barman",
    what: "Barman, which writes backups of PostgreSQL into an object store",
    packages: &[PYTHON_VENV],
    cached: Some(CachedTool {
        title: "the Python packages of hack/kubernetes/cloudnative-pg/requirements.txt",
        takes: "about half a minute",
        folder: FolderName::Digest(
            "venv-barman",
            &[
                DigestInput::PythonVersion,
                DigestInput::Files("hack/kubernetes/cloudnative-pg/requirements.txt"),
            ],
        ),
        contents: &[ToolContent::Marker("ready")],
        source: ToolSource::PythonPackages(PythonPackages {
            requirements: "hack/kubernetes/cloudnative-pg/requirements.txt",
            minimum: None,
            complete: true,
        }),
    }),
    variables: &[ToolVariable::Folder("BARMAN_FOLDER")],
    ..ToolSpec::EMPTY
};
