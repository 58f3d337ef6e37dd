//! The one test command: `hack/test.sh` and CI run it.
//!
//! Owns the options, what is installed first, and the order of the stages. Two lanes go side by
//! side once everything is built: one has the tests and the documented commands, the other what
//! only reads the code, with lower priority, and then what waits for Kubernetes most of the time.

mod lanes;
mod plan;
mod stage;
mod summary;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context;

pub(crate) use self::plan::{OPERATOR_TESTS, TESTED_PACKAGES};
use self::plan::{QUICK, STAGES, StageSpec};
use crate::target_cache::{RestoredDependencies, TargetCache};
use crate::tools::{self, ToolContext, ToolName};

/// The folder of programs that take the place of others in every stage.
const TEST_PROGRAMS: &str = "hack/test-bin";

const USAGE: &str = "\
usage: hack/test.sh [--quick] [--only STAGE]... [--one-by-one] [-- TEST-ARGUMENTS...]

Installs what is missing (on Debian and Ubuntu with apt-get; MinIO, Kubernetes, Apache Kafka, the OpenTelemetry Collector, Python packages
and others into ~/.cache/streamhouse or $STREAMHOUSE_CACHE), then runs these stages:

";

const OPTIONS: &str = "
  --quick       format, structure, build and tests only
  --only STAGE  this stage only; may be given several times
  --one-by-one  no two stages side by side
  --            what follows goes to cargo test, such as: hack/test.sh --only tests -- -p streamhouse-metadata

All stages use the release profile, so that dependencies are built once, with the project's own crates unoptimised
(config/cargo-tests.toml). What dependencies were compiled to is kept in the cache for the next clean checkout, also for one with other
dependencies (STREAMHOUSE_TARGET_CACHE=off: not). The servers run on free ports of 127.0.0.1 with their data in temporary folders, and
end with the tests; several runs may go on at the same time.
";

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct TestOptions {
    stages: Vec<&'static str>,
    one_by_one: bool,
    test_arguments: Vec<String>,
}

/// Runs the command; its exit code tells whether every stage passed.
pub(crate) fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<ExitCode> {
    let Some(options) = parse(arguments)? else {
        print!("{}", usage());
        return Ok(ExitCode::SUCCESS);
    };
    let chosen: Vec<&'static StageSpec> = STAGES
        .iter()
        .filter(|stage| options.stages.contains(&stage.name))
        .collect();
    let context = ToolContext::open(root)?;
    let cache = context.cache.as_path();
    let clock = summary::now();
    // The scripts find each other from the root.
    std::env::set_current_dir(root).context("cannot enter the repository")?;
    let environments = install(&context, &chosen)?;
    println!("    {}", describe_machine(cache));
    let target_cache = TargetCache::open(root, cache)?;
    match target_cache.as_ref().map(TargetCache::restore) {
        Some(Ok(RestoredDependencies::SameLock)) => println!(
            "    dependencies as they were compiled before, from {}",
            cache.display()
        ),
        Some(Ok(RestoredDependencies::OtherLock)) => println!(
            "    dependencies as they were compiled for another Cargo.lock, from {}; what differs is compiled",
            cache.display()
        ),
        // They are compiled then.
        Some(Err(error)) => println!("    {error:#}"),
        _ => {}
    }
    let mut lanes = lanes::StageLanes::new(root, environments, &options.test_arguments);
    let results = lanes.run(&chosen, options.one_by_one)?;
    if options.stages.contains(&"build") {
        keep(target_cache.as_ref());
    }
    Ok(summary::print(&results, clock))
}

/// The artifacts of dependencies are worth keeping whether or not a test fails; an error is no
/// reason to fail.
fn keep(target_cache: Option<&TargetCache>) {
    match target_cache.map(TargetCache::save) {
        Some(Ok(true)) => {
            println!("    kept what dependencies were compiled to, for the next clean checkout")
        }
        Some(Err(error)) => println!("    {error:#}"),
        _ => {}
    }
}

fn usage() -> String {
    let mut text = USAGE.to_owned();
    for stage in STAGES {
        let mut name = stage.name;
        for line in stage.what {
            text.push_str(&format!("  {name:<13} {line}\n"));
            name = "";
        }
    }
    text + OPTIONS
}

/// None: help was asked for.
fn parse(arguments: &[&str]) -> anyhow::Result<Option<TestOptions>> {
    let mut options = TestOptions::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--help" | "-h" => return Ok(None),
            "--quick" => options.stages.extend(QUICK),
            "--one-by-one" => options.one_by_one = true,
            "--only" => {
                let all: Vec<&str> = STAGES.iter().map(|stage| stage.name).collect();
                let name = rest
                    .next()
                    .with_context(|| format!("--only needs the name of a stage: {}", all.join(" ")))?;
                let stage = STAGES
                    .iter()
                    .find(|stage| stage.name == *name)
                    .with_context(|| format!("no stage {name}; the stages are: {}", all.join(" ")))?;
                options.stages.push(stage.name);
            }
            "--" => {
                options.test_arguments = rest.by_ref().map(|argument| (*argument).to_owned()).collect();
            }
            other => {
                eprint!("{}", usage());
                anyhow::bail!("unknown option {other}");
            }
        }
    }
    if options.stages.is_empty() {
        options.stages = STAGES.iter().map(|stage| stage.name).collect();
    }
    if options.test_arguments.is_empty() {
        let packages = TESTED_PACKAGES.iter().map(|argument| (*argument).to_owned());
        options.test_arguments.extend(packages);
    }
    Ok(Some(options))
}

/// Installs what the stages need, in this terminal: sudo may ask for a password. Returns the
/// variables of each stage.
fn install(
    context: &ToolContext,
    stages: &[&'static StageSpec],
) -> anyhow::Result<BTreeMap<&'static str, BTreeMap<String, String>>> {
    let all: Vec<ToolName> = stages.iter().flat_map(|stage| stage.needs).copied().collect();
    // Together, so that apt-get runs once and before everything that takes long.
    tools::install(context, &all).context("what the stages need could not be installed")?;
    let path = stage_path(&context.root, std::env::var_os("PATH"))?;
    let mut environments = BTreeMap::new();
    for stage in stages {
        let exports = tools::install(context, stage.needs)?;
        let mut environment = exports.to_environment(Some(path.clone().into()))?;
        environment.entry("PATH".to_owned()).or_insert(path.clone());
        environments.insert(stage.name, environment);
    }
    Ok(environments)
}

/// Returns PATH with the cargo of the test command before all others.
fn stage_path(root: &Path, path: Option<OsString>) -> anyhow::Result<String> {
    let path = path.unwrap_or_default();
    let folders = [root.join(TEST_PROGRAMS)]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let path = std::env::join_paths(folders)?;
    Ok(path.to_string_lossy().into_owned())
}

/// What the log of a run should say about the machine.
fn describe_machine(cache: &Path) -> String {
    let cargo = Command::new("cargo").arg("--version").output();
    let cargo = cargo.map_or_else(
        |_| "no cargo".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cargo}, {cores} cores, cache in {}", cache.display())
}

#[cfg(test)]
mod tests;
