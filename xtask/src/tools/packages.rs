//! Packages of Debian and Ubuntu.
//!
//! Guarantees: an installed server is not started, neither now nor at the next boot, because the
//! tests and scripts start their own.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

use super::command::{as_root, note, run_quietly, say, write_as_root};
use super::machine::MachineFacts;
use super::spec::AptPackage;

/// While this script is there, no package starts a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// What Debian's PostgreSQL reads before it creates a cluster of databases.
const CREATE_CLUSTER: &str = "/etc/postgresql-common/createcluster.conf";

/// What has to be installed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MissingPackages {
    pub(crate) names: BTreeSet<&'static str>,
    pub(crate) services: BTreeSet<&'static str>,
}

impl MissingPackages {
    /// Finds the packages of which there is no evidence on the machine.
    pub(crate) fn find<'a>(
        packages: impl IntoIterator<Item = &'a AptPackage>,
        machine: &dyn MachineFacts,
    ) -> MissingPackages {
        let mut missing = MissingPackages::default();
        for package in packages {
            if !package
                .evidence
                .iter()
                .any(|evidence| machine.has_evidence(evidence))
            {
                missing.names.extend(package.names);
                missing.services.extend(package.service);
            }
        }
        missing
    }

    /// Installs them with apt-get.
    pub(crate) fn install(&self, machine: &dyn MachineFacts) -> anyhow::Result<()> {
        if self.names.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = self.names.iter().copied().collect();
        let list = names.join(" ");
        anyhow::ensure!(
            machine.has_program("apt-get"),
            "missing: {list}. Packages are installed on Debian and Ubuntu only: install their like by hand"
        );
        anyhow::ensure!(
            machine.is_root() || machine.has_program("sudo"),
            "missing: {list}. Installing them needs root, and there is no sudo: run as root: apt-get install {list}"
        );
        say(&format!("installing with apt-get: {list}"));
        if !machine.is_root() {
            note("with sudo, which may ask for your password");
        }
        if self.names.contains("postgresql") {
            forbid_postgresql_cluster(machine)?;
        }
        let policy = NoServicesPolicy::create(machine)?;
        if run_quietly(apt_get(machine)?.arg("update")).is_err() {
            note("apt-get update failed; trying with the lists at hand");
        }
        let installed = run_quietly(
            apt_get(machine)?
                .args(["install", "-y", "--no-install-recommends"])
                .args(&names),
        );
        policy.remove(machine)?;
        installed.with_context(|| format!("apt-get could not install: {list}"))?;
        self.disable_services(machine)
    }

    fn disable_services(&self, machine: &dyn MachineFacts) -> anyhow::Result<()> {
        if !machine.has_program("systemctl") {
            return Ok(());
        }
        for service in &self.services {
            // Where systemd does not run, nothing starts it either.
            let _ = as_root(machine, "systemctl")?.args(["disable", service]).output();
        }
        Ok(())
    }
}

fn apt_get(machine: &dyn MachineFacts) -> anyhow::Result<Command> {
    let mut command = as_root(machine, "env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    Ok(command)
}

fn forbid_postgresql_cluster(machine: &dyn MachineFacts) -> anyhow::Result<()> {
    if Path::new(CREATE_CLUSTER).exists() {
        return Ok(());
    }
    run_quietly(as_root(machine, "mkdir")?.args(["-p", "/etc/postgresql-common"]))?;
    write_as_root(machine, CREATE_CLUSTER, "create_main_cluster = false\n")
}

/// The script that keeps services from being started, unless the machine has one of its own.
#[derive(Debug)]
struct NoServicesPolicy {
    created: bool,
}

impl NoServicesPolicy {
    fn create(machine: &dyn MachineFacts) -> anyhow::Result<NoServicesPolicy> {
        let created = !Path::new(POLICY).exists();
        if created {
            write_as_root(machine, POLICY, "#!/bin/sh\nexit 101\n")?;
            run_quietly(as_root(machine, "chmod")?.args(["755", POLICY]))?;
        }
        Ok(NoServicesPolicy { created })
    }

    fn remove(self, machine: &dyn MachineFacts) -> anyhow::Result<()> {
        if self.created {
            run_quietly(as_root(machine, "rm")?.args(["-f", POLICY]))?;
        }
        Ok(())
    }
}

/// Downloads a package and unpacks it into a folder without installing it.
pub(crate) fn unpack(machine: &dyn MachineFacts, package: &str, folder: &Path) -> anyhow::Result<()> {
    const OPTIONS: [&str; 4] = ["-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30"];
    let download = tempfile::Builder::new()
        .permissions(world_readable())
        .tempdir()
        .context("cannot make a temporary folder")?;
    let fetch = || {
        let mut command = Command::new("apt-get");
        command
            .args(OPTIONS)
            .args(["download", package])
            .current_dir(&download);
        command
    };
    if run_quietly(&mut fetch()).is_err() {
        run_quietly(as_root(machine, "apt-get")?.args(OPTIONS).arg("update"))?;
        run_quietly(&mut fetch())?;
    }
    let file = super::machine::find_files(download.path(), &format!("{package}_*.deb"));
    let file = file
        .first()
        .with_context(|| format!("apt-get downloaded no {package}"))?;
    run_quietly(Command::new("dpkg-deb").arg("-x").arg(file).arg(folder))
}

/// For apt's own user, who downloads.
fn world_readable() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}
