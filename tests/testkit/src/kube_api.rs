//! A real Kubernetes API: etcd and kube-apiserver on free ports with RBAC, and optionally the
//! controller manager.
//!
//! Called by tests of the operator and of the chart. Each test uses a namespace of its own in
//! [`KubeApi::shared`], or a server of its own from [`KubeApi::start`] if it stops the server or
//! changes cluster-wide resources. There is no node: pods are accepted but never run.

mod kubeconfig;
mod pki;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::Context;
use tempfile::TempDir;

use crate::{ChildProcess, ProcessBuilder, ReservedPort, guard, http_get, programs, wait};
use kubeconfig::KubeIdentity;
use pki::TestPki;

const SERVICE_RANGE: &str = "10.96.0.0/16";

/// An API server with its etcd.
#[derive(Debug)]
pub struct KubeApi {
    folder: TempDir,
    pki: TestPki,
    port: ReservedPort,
    etcd: ReservedPort,
    etcd_peers: ReservedPort,
    kubeconfig: PathBuf,
    running: Mutex<Option<RunningServers>>,
}

/// The processes, in the order in which they are stopped.
#[derive(Debug)]
struct RunningServers {
    controllers: Option<ChildProcess>,
    server: ChildProcess,
    store: ChildProcess,
}

impl KubeApi {
    /// Returns the server shared by all tests of this process, started on the first call. Do not
    /// stop it.
    pub fn shared() -> anyhow::Result<&'static KubeApi> {
        static SHARED: OnceLock<Result<KubeApi, String>> = OnceLock::new();
        let shared = SHARED.get_or_init(|| KubeApi::start().map_err(|error| format!("{error:#}")));
        shared.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Creates and starts a server, which holds only what Kubernetes creates by itself.
    pub fn start() -> anyhow::Result<KubeApi> {
        let folder = guard::create_temp_folder("streamhouse-kube-")?;
        let pki = TestPki::create(folder.path())?;
        let port = ReservedPort::reserve()?;
        let kubeconfig = folder.path().join("admin.kubeconfig");
        let kubeconfig = kubeconfig::write(kubeconfig, port.number(), &pki, &KubeIdentity::Admin)?;
        let server = KubeApi {
            folder,
            pki,
            port,
            etcd: ReservedPort::reserve()?,
            etcd_peers: ReservedPort::reserve()?,
            kubeconfig,
            running: Mutex::new(None),
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts the controllers: garbage collection, deletion of namespaces, deployments, service
    /// accounts. They stop with the server.
    pub fn start_controller_manager(&self) -> anyhow::Result<()> {
        let mut slot = self.lock();
        let running = slot.as_mut().context("the API server does not run")?;
        anyhow::ensure!(
            running.controllers.is_none(),
            "the controller manager runs already"
        );
        let kubeconfig = self.kubeconfig.as_path();
        let controllers = kubernetes_program("kube-controller-manager")?
            .arg(path_flag("kubeconfig", kubeconfig))
            .arg(path_flag(
                "service-account-private-key-file",
                &self.pki.accounts_key,
            ))
            .arg(path_flag("root-ca-file", &self.pki.authority))
            .args(["--leader-elect=false", "--secure-port=0"])
            .start()?;
        running.controllers = Some(controllers);
        drop(slot);
        // Only the controllers create this account, so it shows that they run.
        wait::wait_until("the start of the controllers", wait::SERVER_TIMEOUT, || {
            Ok(self
                .kubectl(&["get", "serviceaccount", "default", "-n", "default"])
                .ok())
        })?;
        Ok(())
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Creates a kubeconfig for a user in these groups, who has only the permissions granted by
    /// RBAC.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> anyhow::Result<PathBuf> {
        self.write_kubeconfig(user, &KubeIdentity::User { name: user, groups })
    }

    /// Creates a kubeconfig with a one-hour token of an existing service account, as its pods have.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let token = self.kubectl(&["create", "token", name, "-n", namespace])?;
        self.write_kubeconfig(&format!("{namespace}.{name}"), &KubeIdentity::Token(token.trim()))
    }

    /// Runs kubectl as the administrator and returns its output.
    ///
    /// # Errors
    ///
    /// Fails with kubectl's error output if kubectl fails.
    pub fn kubectl(&self, args: &[&str]) -> anyhow::Result<String> {
        self.kubectl_as(&self.kubeconfig, args, "")
    }

    /// Applies these manifests with `kubectl apply` as the administrator.
    pub fn apply(&self, manifests: &str) -> anyhow::Result<String> {
        let args = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.kubectl_as(&self.kubeconfig, &args, manifests)
    }

    /// Installs the custom resources of the Prometheus operator, such as ServiceMonitor, from its
    /// own release.
    pub fn install_monitoring_definitions(&self) -> anyhow::Result<()> {
        let folder = programs::monitoring_definitions()?;
        for name in ["servicemonitors", "prometheusrules"] {
            let path = folder.join(format!("monitoring.coreos.com_{name}.yaml"));
            let definition =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            self.apply(&definition)?;
            let established = format!("crd/{name}.monitoring.coreos.com");
            self.kubectl(&[
                "wait",
                "--for=condition=Established",
                "--timeout=60s",
                &established,
            ])?;
        }
        Ok(())
    }

    /// Runs kubectl as the user of the kubeconfig, with `input` as standard input.
    pub fn kubectl_as(&self, kubeconfig: &Path, args: &[&str], input: &str) -> anyhow::Result<String> {
        let mut kubectl = kubernetes_program("kubectl")?
            .arg(path_flag("kubeconfig", kubeconfig))
            // A separate cache: another server on this port may have been cached.
            .arg(path_flag("cache-dir", &self.folder.path().join("kubectl")))
            .args(args)
            .input(input)
            .start()?;
        let status = kubectl.wait(wait::SERVER_TIMEOUT)?;
        anyhow::ensure!(
            status.success(),
            "kubectl {}: {}",
            args.join(" "),
            kubectl.stderr().trim_end()
        );
        Ok(kubectl.stdout())
    }

    /// Runs helm as the administrator and returns its output.
    ///
    /// # Errors
    ///
    /// Fails with helm's error output if helm fails.
    pub fn helm(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut helm = ProcessBuilder::new(programs::helm()?)
            .clean_env()
            .env("HELM_CACHE_HOME", self.folder.path().join("helm"))
            .env("HELM_CONFIG_HOME", self.folder.path().join("helm"))
            .arg(path_flag("kubeconfig", &self.kubeconfig))
            .args(args)
            .start()?;
        let status = helm.wait(wait::SERVER_TIMEOUT)?;
        anyhow::ensure!(
            status.success(),
            "helm {}: {}",
            args.join(" "),
            helm.stderr().trim_end()
        );
        Ok(helm.stdout())
    }

    /// Prepares a shell that runs `script` as the administrator, with kubectl and helm. The paths
    /// of the programs are in `$KUBECTL` and `$HELM`, and their folders at the end of `$PATH`.
    ///
    /// # Errors
    ///
    /// Fails if a program is missing.
    pub fn shell(&self, script: &str) -> anyhow::Result<ProcessBuilder> {
        let (kubectl, helm) = (programs::kubernetes("kubectl")?, programs::helm()?);
        let mut path = std::env::var_os("PATH").unwrap_or_default();
        for folder in [&kubectl, &helm]
            .into_iter()
            .filter_map(|program| program.parent())
        {
            path.push(":");
            path.push(folder);
        }
        Ok(ProcessBuilder::new("bash")
            .clean_env()
            .env("PATH", path)
            .env("KUBECTL", kubectl)
            .env("HELM", helm)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.folder.path().join("kubectl"))
            .env("HELM_CACHE_HOME", self.folder.path().join("helm"))
            .env("HELM_CONFIG_HOME", self.folder.path().join("helm"))
            .env("HELM_DATA_HOME", self.folder.path().join("helm"))
            .args(["-e", "-o", "pipefail", "-c", script]))
    }

    /// Creates a namespace with a unique name that starts with `prefix`.
    pub fn create_namespace(&self, prefix: &str) -> anyhow::Result<String> {
        let manifest =
            format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"generateName":"{prefix}-"}}}}"#);
        let args = ["create", "-o", "jsonpath={.metadata.name}", "-f", "-"];
        self.kubectl_as(&self.kubeconfig, &args, &manifest)
    }

    /// Kills the server, etcd and, if they run, the controllers, as a crash would.
    pub fn stop(&self) -> anyhow::Result<()> {
        let Some(running) = self.lock().take() else {
            return Ok(());
        };
        if let Some(mut controllers) = running.controllers {
            controllers.kill9()?;
        }
        for mut process in [running.server, running.store] {
            process.kill9()?;
        }
        Ok(())
    }

    /// Starts again after [`KubeApi::stop`], on the same port with the same objects, without the
    /// controllers.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let mut slot = self.lock();
        anyhow::ensure!(slot.is_none(), "the API server runs already");
        let mut store = self.spawn_etcd()?;
        let started = wait::wait_until("the start of etcd", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(store.is_running(), "etcd ended while starting");
            let answer = http_get(self.etcd.address(), "/health");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        });
        started.with_context(|| store.log_tail())?;
        let mut server = self.spawn_server()?;
        let started = wait::wait_until("the start of kube-apiserver", wait::SERVER_TIMEOUT, || {
            anyhow::ensure!(server.is_running(), "kube-apiserver ended while starting");
            Ok(self.is_ready().then_some(()))
        });
        started.with_context(|| server.log_tail())?;
        *slot = Some(RunningServers {
            controllers: None,
            server,
            store,
        });
        Ok(())
    }

    /// Stops the server and starts it again.
    pub fn restart(&self) -> anyhow::Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Pauses the server, which holds its connections without responding until [`KubeApi::resume`].
    pub fn pause(&self) -> anyhow::Result<()> {
        let mut slot = self.lock();
        slot.as_mut()
            .context("the API server does not run")?
            .server
            .pause()
    }

    /// Resumes the server after [`KubeApi::pause`].
    pub fn resume(&self) -> anyhow::Result<()> {
        let mut slot = self.lock();
        slot.as_mut()
            .context("the API server does not run")?
            .server
            .resume()
    }

    /// Returns the server's own metrics, such as `apiserver_request_total{verb="PATCH",...}`, in
    /// the Prometheus text format.
    pub fn metrics(&self) -> anyhow::Result<String> {
        self.kubectl(&["get", "--raw", "/metrics"])
    }

    fn lock(&self) -> MutexGuard<'_, Option<RunningServers>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_kubeconfig(&self, name: &str, identity: &KubeIdentity<'_>) -> anyhow::Result<PathBuf> {
        let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        kubeconfig::write(path, self.port(), &self.pki, identity)
    }

    /// Returns whether the server is ready and the default namespace exists.
    fn is_ready(&self) -> bool {
        // Connecting first is cheap; kubectl is a process.
        std::net::TcpStream::connect(self.port.address()).is_ok()
            && self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
            && self.kubectl(&["get", "namespace", "default"]).is_ok()
    }

    fn spawn_etcd(&self) -> anyhow::Result<ChildProcess> {
        let clients = format!("http://{}", self.etcd.address());
        let peers = format!("http://{}", self.etcd_peers.address());
        ProcessBuilder::new("etcd")
            .clean_env()
            .arg(path_flag("data-dir", &self.folder.path().join("etcd")))
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("default={peers}")])
            .args(["--logger", "zap", "--log-level", "warn"])
            .start()
            .context("etcd is missing: run hack/test.sh, which installs it")
    }

    fn spawn_server(&self) -> anyhow::Result<ChildProcess> {
        let TestPki { server, .. } = &self.pki;
        kubernetes_program("kube-apiserver")?
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            // The address of a loopback device cannot be an endpoint, and no test needs one.
            .arg("--endpoint-reconciler-type=none")
            .arg(format!("--secure-port={}", self.port()))
            .arg(format!("--etcd-servers=http://{}", self.etcd.address()))
            .arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"))
            .args([
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
                "--profiling=false",
            ])
            .arg(path_flag("tls-cert-file", &server.certificate))
            .arg(path_flag("tls-private-key-file", &server.key))
            .arg(path_flag("client-ca-file", &self.pki.authority))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(path_flag("service-account-key-file", &self.pki.accounts_public))
            .arg(path_flag(
                "service-account-signing-key-file",
                &self.pki.accounts_key,
            ))
            .start()
    }
}

/// Prepares a program of Kubernetes without the developer's environment.
fn kubernetes_program(name: &str) -> anyhow::Result<ProcessBuilder> {
    Ok(ProcessBuilder::new(programs::kubernetes(name)?).clean_env())
}

fn path_flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}
