# shellcheck shell=bash
# A real Kubernetes node on this machine, without Docker: how it is started, reached and stopped. Shared by hack/cluster-up.sh,
# hack/cluster-down.sh and the tests; source it after hack/lib.sh. Every cluster lives in a folder DIR of its own and in namespaces of
# its own (hack/cluster-node.sh), so several may run at once, and nothing of them is left when they are stopped.
#
#   cluster_start DIR                    starts the node and waits until it is ready; does nothing if it runs
#   cluster_stop DIR                     ends it: all its processes, mounts, links and control groups
#   cluster_remove DIR                   removes what a stopped one kept, its data included
#   cluster_running DIR                  whether it runs
#   cluster_load_image DIR FILE          makes the images of a tar file (OCI or Docker archive) known to the node
#   cluster_exec DIR COMMAND...          runs a program of this machine in the cluster's network, where it reaches pods and services
#   cluster_service DIR NAME COMMAND...  the same in the background; it ends with the cluster; its log is DIR/log/NAME.log
#   cluster_logs DIR                     prints what explains a failure: events, pods, the ends of the logs
#   cluster_leftovers DIR                prints what a stopped cluster has left on this machine: nothing, if all is well
#   cluster_use DIR                      makes it the one that kubectl and helm, then in PATH, speak to
#   cluster_load_streamhouse DIR TAG...  makes our images known to the node, and those of the servers in config/dev
#   image_archive FILE NAME ROOT CONFIG  makes an image from a folder: an archive for cluster_load_image
#
# DIR/kubeconfig is the administrator's.

CLUSTER_DIR=${CLUSTER_DIR:-$PWD/.streamhouse/cluster}
case $CLUSTER_DIR in /*) ;; *) CLUSTER_DIR=$CALLED_FROM/$CLUSTER_DIR ;; esac
# Where the API server answers inside the cluster's network.
CLUSTER_NODE_IP=192.168.66.1

# cluster_kubectl DIR ARGUMENT...
cluster_kubectl() {
  local dir=$1
  shift
  "$KUBERNETES_FOLDER/kubectl" --kubeconfig "$dir/kubeconfig" --cache-dir "$dir/kubectl" "$@"
}

# process_birth PID: when it was born, in ticks since boot; fails if it has ended.
process_birth() {
  local text
  text=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -r -a text <<<"${text##*) }"
  [ "${text[0]}" != Z ] && [ "${text[0]}" != X ] && echo "${text[19]}"
}

# process_in FILE: the process that the file names, if it is that one that runs.
process_in() {
  local pid born
  { read -r pid born <"$1"; } 2>/dev/null || return 1
  [ -n "$born" ] && [ "$(process_birth "$pid")" = "$born" ] && echo "$pid"
}

# first_process DIR: the first process of the node, by its number on this machine.
first_process() {
  local outer child
  outer=$(process_in "$1/node.pid") || return 1
  # Before it has become `unshare`, its children are in the machine's own namespaces.
  [ "$(cat "/proc/$outer/comm" 2>/dev/null)" = unshare ] || return 1
  child=$(cat "/proc/$outer/task/$outer/children" 2>/dev/null)
  [ -n "$child" ] && echo "${child%% *}"
}

# as_root_again SCRIPT ARGUMENT...: a node makes namespaces, mounts and control groups. Goes on as root, with the user's cache.
as_root_again() {
  local script=$1
  shift
  [ "$(id -u)" != 0 ] || return 0
  note "as root from here on"
  as_root env HOME="$HOME" PATH="$PATH" STREAMHOUSE_CACHE="$CACHE" CLUSTER_DIR="$CLUSTER_DIR" CLUSTER_API_PORT="${CLUSTER_API_PORT:-}" \
    CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}" ${CARGO_HOME:+CARGO_HOME="$CARGO_HOME"} ${RUSTUP_HOME:+RUSTUP_HOME="$RUSTUP_HOME"} \
    bash "hack/$script" "$@"
  exit 0
}

has_processes() { first_process "$1" >/dev/null && process_in "$1/way-in.pid" >/dev/null; }

cluster_running() { [ -e "$1/ready" ] && has_processes "$1"; }

# openssl_quietly ARGUMENT...
openssl_quietly() { quietly openssl "$@"; }

# issue DIR FILE SUBJECT [SAN]: a key and a certificate of the cluster's authority, for servers and clients.
issue() {
  local pki=$1/pki name=$2 subject=$3 san=${4:-}
  openssl_quietly req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$pki/$name.key" -out "$pki/$name.csr" -subj "$subject"
  {
    echo "extendedKeyUsage=serverAuth,clientAuth"
    [ -z "$san" ] || echo "subjectAltName=$san"
  } >"$pki/$name.ext"
  openssl_quietly x509 -req -in "$pki/$name.csr" -CA "$pki/ca.crt" -CAkey "$pki/ca.key" -CAcreateserial -days 365 -out "$pki/$name.crt" \
    -extfile "$pki/$name.ext"
  rm "$pki/$name.csr" "$pki/$name.ext"
}

# write_kubeconfig DIR FILE SERVER NAME: for who has the certificate NAME.
write_kubeconfig() {
  local pki=$1/pki
  cat >"$2" <<YAML
apiVersion: v1
kind: Config
clusters:
- name: streamhouse
  cluster: {server: "$3", certificate-authority-data: $(base64 -w 0 "$pki/ca.crt")}
users:
- name: $4
  user: {client-certificate-data: $(base64 -w 0 "$pki/$4.crt"), client-key-data: $(base64 -w 0 "$pki/$4.key")}
contexts:
- name: streamhouse
  context: {cluster: streamhouse, user: $4}
current-context: streamhouse
YAML
}

# write_settings DIR PORT: certificates and settings of the node.
write_settings() {
  local dir=$1 port=$2 name inside="https://$CLUSTER_NODE_IP:6443" snapshotter=overlayfs cni=/usr/lib/cni
  mkdir -p "$dir/pki" "$dir/cni" "$dir/log"
  openssl_quietly req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$dir/pki/ca.key" -out "$dir/pki/ca.crt" -days 365 \
    -subj "/CN=streamhouse cluster"
  openssl_quietly genrsa -out "$dir/pki/accounts.key" 2048
  openssl_quietly rsa -in "$dir/pki/accounts.key" -pubout -out "$dir/pki/accounts.pub"
  issue "$dir" kube-apiserver /CN=kube-apiserver "$(printf 'DNS:%s,' localhost kubernetes kubernetes.default kubernetes.default.svc \
    kubernetes.default.svc.cluster.local)IP:127.0.0.1,IP:10.96.0.1,IP:$CLUSTER_NODE_IP"
  issue "$dir" admin /O=system:masters/CN=admin
  issue "$dir" kubelet /O=system:nodes/CN=system:node:node "IP:$CLUSTER_NODE_IP,DNS:node"
  for name in kube-controller-manager kube-scheduler kube-proxy; do issue "$dir" "$name" "/CN=system:$name"; done
  for name in kubelet kube-controller-manager kube-scheduler kube-proxy; do
    write_kubeconfig "$dir" "$dir/$name.kubeconfig" "$inside" "$name"
  done
  write_kubeconfig "$dir" "$dir/kubeconfig" "https://127.0.0.1:$port" admin
  # Where this folder is itself on an overlay, the kernel puts no other on top.
  [ "$(stat -f -c %T "$dir")" != overlayfs ] || snapshotter=native
  [ -x "$cni/bridge" ] || cni=/opt/cni/bin
  sed -e "s|@SNAPSHOTTER@|$snapshotter|" -e "s|@CNI@|$cni|" hack/cluster/containerd.toml >"$dir/containerd.toml"
  cp hack/cluster/cni.conflist "$dir/cni/pods.conflist"
  cp hack/cluster/kubelet.yaml hack/cluster/kube-proxy.yaml "$dir"
  : >"$dir/resolv.conf"
  chmod -R go-rwx "$dir/pki" "$dir"/*kubeconfig
}

# free_port: a port of 127.0.0.1 that nobody listens on, below those that the system gives to connections.
free_port() {
  local port=$((20000 + RANDOM % 10000))
  while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 10000)); done
  echo "$port"
}

# spawn DIR NAME COMMAND...: in the background, beyond the end of the script; DIR/NAME.pid names it.
spawn() {
  local dir=$1 name=$2 pid
  shift 2
  (cd "$dir" && exec setsid "$@") >>"$dir/log/$name.log" 2>&1 </dev/null &
  pid=$!
  # Its end is not the script's to report.
  disown
  echo "$pid $(process_birth "$pid")" >"$dir/$name.pid"
}

# wait_for DIR WHAT COMMAND...: three minutes at most; no use in waiting for a node that has ended.
wait_for() {
  local dir=$1 what=$2 end=$((SECONDS + 180))
  shift 2
  until "$@" >/dev/null 2>&1; do
    if ! has_processes "$dir" || [ "$SECONDS" -gt "$end" ]; then
      cluster_logs "$dir" >&2
      fail "the cluster in $dir: $what did not happen"
    fi
    sleep 0.2
  done
  note "$what: after $((SECONDS - CLUSTER_BEGIN)) s"
}

cluster_start() {
  local dir=$1 port
  CLUSTER_BEGIN=$SECONDS
  if cluster_running "$dir"; then
    note "the node in $dir runs already"
    return
  fi
  # What a machine that was switched off, or a start that failed, has left.
  [ ! -e "$dir/node.pid" ] || { cluster_stop "$dir"; cluster_remove "$dir"; }
  mkdir -p "$dir"
  machine_network >"$dir/before"
  port=${CLUSTER_API_PORT:-$(free_port)}
  write_settings "$dir" "$port"
  [ -z "${SUDO_UID:-}" ] || chown "$SUDO_UID" "$dir" "$dir/kubeconfig"
  spawn "$dir" node bash "$PWD/hack/cluster-node.sh" enter "$dir" "$KUBERNETES_FOLDER"
  spawn "$dir" way-in socat "TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr" UNIX-CONNECT:api.sock
  until first_process "$dir" >/dev/null || ! process_in "$dir/node.pid" >/dev/null; do sleep 0.05; done
  stat -Lc %i "/proc/$(first_process "$dir")/ns/net" >"$dir/network" 2>/dev/null || true
  wait_for "$dir" "the API server is ready" curl --noproxy '*' --silent --fail --max-time 5 --cacert "$dir/pki/ca.crt" \
    --cert "$dir/pki/admin.crt" --key "$dir/pki/admin.key" "https://127.0.0.1:$port/readyz"
  wait_for "$dir" "containerd is ready" cluster_ctr "$dir" version
  system_images "$dir"
  wait_for "$dir" "the node has registered" cluster_kubectl "$dir" get node node
  wait_for "$dir" "the node is ready" cluster_kubectl "$dir" wait node/node --for=condition=Ready --timeout=1s
  wait_for "$dir" "the name server's manifests are applied" cluster_kubectl "$dir" apply --server-side -f hack/cluster/coredns.yaml
  wait_for "$dir" "the name server answers" cluster_kubectl "$dir" -n kube-system rollout status deployment/coredns --timeout=1s
  : >"$dir/ready"
}

# The two images that a node itself needs.
system_images() {
  local dir=$1 root
  root=$(mktemp -d)
  mkdir "$root/pause" "$root/coredns"
  cp "$KUBERNETES_FOLDER/pause" "$root/pause/"
  cp "$KUBERNETES_TOOLS_FOLDER/coredns" "$root/coredns/"
  image_archive "$root/pause.tar" streamhouse.local/pause:3.10 "$root/pause" '"Entrypoint": ["/pause"], "User": "65535:65535"'
  image_archive "$root/coredns.tar" streamhouse.local/coredns:built "$root/coredns" '"Entrypoint": ["/coredns"]'
  cluster_load_image "$dir" "$root/pause.tar"
  cluster_load_image "$dir" "$root/coredns.tar"
  rm -rf "$root"
}

# image_archive FILE NAME ROOT CONFIG: CONFIG is what stands between the braces of the image's "config", in JSON.
image_archive() {
  local file=$1 name=$2 root=$3 config=$4 folder digest arch
  case $(uname -m) in aarch64) arch=arm64 ;; *) arch=amd64 ;; esac
  folder=$(mktemp -d)
  # The same bytes for the same content, whenever and by whomever it is built.
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$folder/layer.tar" -C "$root" .
  digest=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
  printf '{"architecture": "%s", "os": "linux", "config": {%s}, "rootfs": {"type": "layers", "diff_ids": ["sha256:%s"]}}\n' \
    "$arch" "$config" "$digest" >"$folder/config.json"
  printf '[{"Config": "config.json", "RepoTags": ["%s"], "Layers": ["layer.tar"]}]\n' "$name" >"$folder/manifest.json"
  tar -cf "$file" -C "$folder" manifest.json config.json layer.tar
  rm -rf "$folder"
}

# toolbox_archive FILE: the image streamhouse.local/toolbox:1, Debian's static busybox: a shell, wget, nslookup, httpd, nc for tests.
toolbox_archive() {
  local root applet
  need busybox
  root=$(mktemp -d)
  chmod 755 "$root"
  mkdir "$root/bin" "$root/tmp" "$root/etc"
  cp "$BUSYBOX" "$root/bin/"
  for applet in $("$root/bin/busybox" --list); do [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"; done
  chmod 1777 "$root/tmp"
  image_archive "$1" streamhouse.local/toolbox:1 "$root" '"Entrypoint": ["/bin/sh"], "Env": ["PATH=/bin"], "User": "65532:65532"'
  rm -rf "$root"
}

# cluster_inside DIR COMMAND...: in all namespaces of the node.
cluster_inside() {
  local first
  first=$(first_process "$1") || fail "no node runs in $1: hack/cluster-up.sh starts one"
  shift
  nsenter --target "$first" --mount --net --pid --ipc --uts --cgroup -- "$@"
}

# A program of this machine sees the machine's files, and the cluster's network.
cluster_exec() {
  local first
  first=$(first_process "$1") || fail "no node runs in $1: hack/cluster-up.sh starts one"
  shift
  nsenter --target "$first" --net --pid -- "$@"
}

cluster_service() {
  local dir=$1 name=$2 first
  shift 2
  first=$(first_process "$dir") || fail "no node runs in $dir: hack/cluster-up.sh starts one"
  spawn "$dir" "$name" nsenter --target "$first" --net --pid -- "$@"
}

cluster_ctr() {
  local dir=$1
  shift
  cluster_inside "$dir" ctr --namespace k8s.io "$@"
}

# What kubectl and helm keep stays in DIR.
cluster_use() {
  export KUBECONFIG="$1/kubeconfig" KUBECACHEDIR="$1/kubectl"
  export HELM_CACHE_HOME="$1/helm" HELM_CONFIG_HOME="$1/helm" HELM_DATA_HOME="$1/helm"
  export PATH="$KUBERNETES_FOLDER:$KUBERNETES_TOOLS_FOLDER:$PATH"
}

# cluster_load_streamhouse DIR TAG...: from the programs in target/release as they are. Sets how config/dev must name its images.
cluster_load_streamhouse() {
  local dir=$1 folder tag file options=()
  shift
  for tag; do options+=(--tag "$tag"); done
  folder=$(mktemp -d)
  quietly hack/build-images.sh --no-build --out "$folder" "${options[@]}"
  quietly hack/build-images.sh --dev-servers --out "$folder" --tag built
  for file in "$folder"/*.tar; do cluster_load_image "$dir" "$file"; done
  rm -rf "$folder"
  export POSTGRESQL_IMAGE=localhost/streamhouse-dev/postgresql:built MINIO_IMAGE=localhost/streamhouse-dev/minio:built
}

cluster_load_image() { cluster_ctr "$1" images import - <"$2" >/dev/null; }

cluster_stop() {
  local dir=$1 name pid tries=0
  # Without the first process, the kernel ends all others of its namespace, and then removes what no process uses any more.
  for name in node way-in; do
    if pid=$(process_in "$dir/$name.pid"); then kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true; fi
  done
  while [ -n "$(cluster_processes "$dir")" ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || fail "these processes of the cluster do not end: $(cluster_processes "$dir" | tr '\n' ' ')"
    sleep 0.1
  done
  until bash hack/cluster-node.sh leave "$dir" 2>/dev/null; do
    tries=$((tries + 1))
    if [ "$tries" -ge 300 ]; then bash hack/cluster-node.sh leave "$dir" || fail "the cluster's control groups could not be removed"; fi
    sleep 0.1
  done
  rm -f "$dir"/*.pid "$dir/ready"
}

# cluster_remove DIR: removes what a stopped cluster kept. Only what it has put there: the folder may have been somebody's before.
cluster_remove() {
  local dir=$1
  (cd "$dir" && rm -rf pki cni log etcd containerd kubelet kubectl helm kubeconfig ./*.kubeconfig containerd.toml kubelet.yaml kube-proxy.yaml \
    resolv.conf api.sock network before)
  rmdir "$dir" 2>/dev/null || note "other files stay in $dir"
}

# cluster_processes DIR: the numbers of all processes in the cluster's network, however they got there, and of its way in.
cluster_processes() {
  local network
  process_in "$1/way-in.pid" || true
  network=$(cat "$1/network" 2>/dev/null) || return 0
  # Should it be the machine's own, the answer would be everyone.
  [ -n "$network" ] && [ "$(readlink /proc/self/ns/net)" != "net:[$network]" ] || return 0
  # Processes that end while find looks are no failure.
  { find /proc -maxdepth 3 -path '/proc/[0-9]*/ns/net' -lname "net:\[$network\]" 2>/dev/null || true; } | cut -d/ -f3
}

cluster_logs() {
  local dir=$1 file
  say "the cluster in $dir"
  if has_processes "$dir"; then
    timeout 30 "$KUBERNETES_FOLDER/kubectl" --kubeconfig "$dir/kubeconfig" get nodes,pods --all-namespaces -o wide 2>&1 || true
    { timeout 30 "$KUBERNETES_FOLDER/kubectl" --kubeconfig "$dir/kubeconfig" get events --all-namespaces 2>&1 || true; } | tail -n 40
  fi
  for file in "$dir"/log/*.log; do
    [ -s "$file" ] || continue
    say "the end of $file"
    tail -n 15 "$file" | cut -c1-240
  done
}

cluster_leftovers() {
  local dir=$1 pid
  # Its processes are in its network, or work in its folder.
  for pid in $(cluster_processes "$dir"; find /proc -maxdepth 2 -path '/proc/[0-9]*/cwd' -lname "$dir" 2>/dev/null | cut -d/ -f3); do
    [ "$pid" = $$ ] || echo "process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || true)"
  done
  grep -F "$dir/" /proc/self/mounts | sed 's/^/mount: /' || true
  find /sys/fs/cgroup -type d -name "streamhouse-$(printf '%s' "$dir" | sha256sum | cut -c1-12)" 2>/dev/null | sed 's/^/control group: /'
  machine_network | { grep -vxFf "$dir/before" || true; }
}

# Links and packet filters of the machine itself, such as a node makes.
machine_network() {
  { ip -o link show 2>/dev/null || true; } | sed -nE 's/^[0-9]+: ((cni|node|veth)[^:@]*).*/link: \1/p'
  { iptables-save 2>/dev/null || true; } | sed -nE 's/^(:|-A )(KUBE-[^ ]*|CNI-[^ ]*).*/packet filter: \2/p' | sort -u
}
