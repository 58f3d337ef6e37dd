#!/usr/bin/env bash
# The node of hack/cluster-up.sh, from its namespaces to its last process. Run by hack/lib-cluster.sh, as root:
#
#   cluster-node.sh enter DIR KUBERNETES   makes control groups for the node, and goes into new namespaces as `join`
#   cluster-node.sh join DIR KUBERNETES    is the first process there: joins the control groups, which `run` then sees as the roots
#   cluster-node.sh run DIR KUBERNETES     goes on: mounts, network, then Kubernetes
#   cluster-node.sh leave DIR              removes the control groups, once all processes have ended
#
# The namespaces hold all that a node changes: when the first process ends, the kernel ends the others and takes the mounts, links and
# packet filters with them. Only control groups are the machine's, so all of the node's are below one of its own.
set -euo pipefail

NODE_IP=192.168.66.1
SERVICE_RANGE=10.96.0.0/16
POD_RANGE=10.244.0.0/16

# group_of DIR: the name of the node's control group.
group_of() { echo "streamhouse-$(printf '%s' "$1" | sha256sum | cut -c1-12)"; }

# Prints "controllers folder" for each hierarchy of version 1 and where this process is in it; for version 2 "unified folder".
hierarchies() {
  local controllers path
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    echo "unified /sys/fs/cgroup"
    return
  fi
  while IFS=: read -r _ controllers path; do
    if [ -n "$controllers" ] && [ -d "/sys/fs/cgroup/${controllers#name=}" ]; then
      echo "$controllers /sys/fs/cgroup/${controllers#name=}${path%/}"
    fi
  done </proc/self/cgroup
}

enter() {
  local dir=$1 kubernetes=$2 controllers folder group name
  group=$(group_of "$dir")
  while read -r controllers folder; do
    if [ "$controllers" = unified ]; then
      for name in cpu cpuset io memory pids; do echo "+$name" >"$folder/cgroup.subtree_control" || true; done
    fi
    folder=$folder/$group
    mkdir -p "$folder"
    if [ -e "$folder/cpuset.cpus" ] && [ "$controllers" != unified ]; then
      cat "${folder%/*}/cpuset.cpus" >"$folder/cpuset.cpus"
      cat "${folder%/*}/cpuset.mems" >"$folder/cpuset.mems"
    fi
    echo "$folder" >>"$dir/cgroups"
  done < <(hierarchies)
  exec unshare --mount --net --pid --ipc --uts --propagation private --fork --kill-child bash "$0" join "$dir" "$kubernetes"
}

join() {
  local folder
  while read -r folder; do echo $$ >"$folder/cgroup.procs"; done <"$1/cgroups"
  exec unshare --cgroup bash "$0" run "$@"
}

leave() {
  local folder
  [ -e "$1/cgroups" ] || return 0
  while read -r folder; do
    [ ! -d "$folder" ] || find "$folder" -depth -type d -exec rmdir {} + || { echo "cannot remove $folder" >&2; return 1; }
  done <"$1/cgroups"
  rm -f "$1/cgroups"
}

mounts() {
  local dir=$1 kubernetes=$2 name
  # The folders of the machine first: what is mounted next may hide them.
  mount -t tmpfs -o mode=755 tmpfs /var/log
  mkdir /var/log/node /var/log/bin /var/log/pods /var/log/containers
  mount --bind "$dir" /var/log/node
  mount --bind "$kubernetes" /var/log/bin
  for name in /run /var/lib; do mount -t tmpfs -o mode=755 tmpfs "$name"; done
  mkdir /run/node /run/bin /run/lock
  mount --move /var/log/node /run/node
  mount --move /var/log/bin /run/bin
  rmdir /var/log/node /var/log/bin
  for name in kubelet containerd; do
    mkdir -p "/var/lib/$name" "/run/node/$name"
    mount --bind "/run/node/$name" "/var/lib/$name"
  done
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=755 tmpfs /dev/shm
}

# The control groups as the node shall see them: its own group is the root.
control_groups() {
  local controllers path name
  if [ "$1" = 2 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    # A group that passes controllers on must hold no process itself.
    mkdir /sys/fs/cgroup/init
    echo 1 >/sys/fs/cgroup/init/cgroup.procs
    for name in cpu cpuset io memory pids; do echo "+$name" >/sys/fs/cgroup/cgroup.subtree_control || true; done
    return
  fi
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  while IFS=: read -r _ controllers path; do
    [ -n "$controllers" ] || continue
    name=${controllers#name=}
    mkdir "/sys/fs/cgroup/$name"
    [ "$name" = "$controllers" ] || controllers=none,$controllers
    mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$name" || { rmdir "/sys/fs/cgroup/$name"; continue; }
    controllers=$name
    for name in ${controllers//,/ }; do [ -e "/sys/fs/cgroup/$name" ] || ln -s "$controllers" "/sys/fs/cgroup/$name"; done
  done </proc/self/cgroup
}

# A network without a way out: the machine's own is not in it, and nothing here talks to the world.
network() {
  echo node >/proc/sys/kernel/hostname
  ip link set lo up
  # The other end leads nowhere, but without one the device would count as unplugged.
  ip link add node0 type veth peer name node1
  ip address add "$NODE_IP/24" dev node0
  ip link set node0 up
  ip link set node1 up
  ip route add default via 192.168.66.254 dev node0
  echo 1 >/proc/sys/net/ipv4/ip_forward
  [ -e /proc/sys/net/bridge ] || modprobe br_netfilter 2>/dev/null || true
  [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
}

# start NAME COMMAND...: a process of the node with a log of its own.
start() {
  local name=$1
  shift
  "$@" >>"/run/node/log/$name.log" 2>&1 </dev/null &
  NAMES[$!]=$name
}

control_plane() {
  local pki=/run/node/pki
  start etcd etcd --data-dir=/run/node/etcd --logger=zap --log-level=warn
  start kube-apiserver /run/bin/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$NODE_IP" \
    --service-cluster-ip-range="$SERVICE_RANGE" --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --allow-privileged=true --client-ca-file=$pki/ca.crt --tls-cert-file=$pki/kube-apiserver.crt --tls-private-key-file=$pki/kube-apiserver.key \
    --kubelet-certificate-authority=$pki/ca.crt --kubelet-client-certificate=$pki/admin.crt --kubelet-client-key=$pki/admin.key \
    --kubelet-preferred-address-types=InternalIP --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-key-file=$pki/accounts.pub --service-account-signing-key-file=$pki/accounts.key
  start kube-controller-manager /run/bin/kube-controller-manager --kubeconfig=/run/node/kube-controller-manager.kubeconfig \
    --leader-elect=false --use-service-account-credentials=true --service-account-private-key-file=$pki/accounts.key \
    --root-ca-file=$pki/ca.crt --cluster-cidr="$POD_RANGE"
  start kube-scheduler /run/bin/kube-scheduler --kubeconfig=/run/node/kube-scheduler.kubeconfig --leader-elect=false
}

node() {
  start containerd containerd --config /run/node/containerd.toml
  # The kubelet does not wait for containerd: it ends.
  start kubelet bash -c 'until ctr version >/dev/null 2>&1; do sleep 0.1; done; exec "$@"' - /run/bin/kubelet --config=/run/node/kubelet.yaml --kubeconfig=/run/node/kubelet.kubeconfig --hostname-override=node \
    --node-ip="$NODE_IP" --node-labels=topology.kubernetes.io/zone=local
  start kube-proxy /run/bin/kube-proxy --config=/run/node/kube-proxy.yaml
  # The way in for the machine: a socket in the file system belongs to no network.
  start way-in socat UNIX-LISTEN:/run/node/api.sock,fork,mode=600 "TCP:$NODE_IP:6443"
}

run() {
  local version=1 ended status=0
  declare -gA NAMES=()
  [ ! -e /sys/fs/cgroup/cgroup.controllers ] || version=2
  mounts "$1" "$2"
  control_groups "$version"
  cd /run/node
  export HOME=/run/node PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
  network
  control_plane
  node
  echo "the node's processes have started"
  # Containers' processes become children of this one when their parents end, and are waited for too.
  while ended= && { wait -n -p ended || status=$?; }; do
    [ -z "${NAMES[${ended:-0}]:-}" ] || break
  done
  echo "${NAMES[${ended:-0}]:-the last process} has ended with status $status, so the node ends"
  exit 1
}

case ${1:-} in
  enter | join | run | leave) "$@" ;;
  *) echo "usage: hack/cluster-up.sh" >&2; exit 2 ;;
esac
