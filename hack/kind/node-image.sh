#!/usr/bin/env bash
# Makes an image of kind's nodes without an image registry: Debian's packages, Kubernetes from source, kind's own files. Run by
# `cargo xtask tools kind-node-image` as root, which sets the folders of the programs:
#
#   node-image.sh FOLDER   writes FOLDER/node.tar, for `docker load`; the image is streamhouse.local/kind-node:KUBERNETES_VERSION
#
# It differs from the image that kind publishes in its network (hack/kind/node/default-cni.yaml) and in Debian's containerd and runc.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. hack/versions.sh

OUT=${1:?usage: node-image.sh FOLDER}
: "${KUBERNETES_FOLDER:?}" "${KUBERNETES_TOOLS_FOLDER:?}" "${KIND_FOLDER:?}" "${KIND_SOURCES:?}" "${BUSYBOX:?}" "${LOCAL_PATH_PROVISIONER:?}"
WORK=$(mktemp -d "$OUT/work.XXXXXX")
ROOT=$WORK/root
FILES=hack/kind/node
SEARCH=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export LC_ALL=C

finish() {
  local status=$?
  # An interrupted debootstrap leaves these in its root.
  umount "$ROOT/proc" "$ROOT/sys" 2>/dev/null || true
  rm -rf "$WORK"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# What kind's Dockerfile installs, without what storage over a network needs, and with the runtime that it compiles.
PACKAGES=systemd,conntrack,iptables,nftables,iproute2,ethtool,util-linux,mount,kmod,libseccomp2,bash,ca-certificates,curl,jq,procps,socat
PACKAGES+=,containerd,runc,containernetworking-plugins

base() {
  debootstrap --variant=minbase --include="$PACKAGES" bookworm "$ROOT" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
  rm -rf "$ROOT"/var/lib/apt/lists/* "$ROOT"/var/cache/apt/*.bin "$ROOT"/var/cache/apt/archives/*.deb "$ROOT"/usr/share/{doc,man,locale,info}
  # As kind's Dockerfile switches off what a container has no use for.
  find "$ROOT/lib/systemd/system/sysinit.target.wants/" -name systemd-tmpfiles-setup.service -delete
  rm -f "$ROOT"/lib/systemd/system/multi-user.target.wants/* "$ROOT"/etc/systemd/system/*.wants/* \
    "$ROOT"/lib/systemd/system/local-fs.target.wants/* "$ROOT"/lib/systemd/system/sockets.target.wants/*udev* \
    "$ROOT"/lib/systemd/system/sockets.target.wants/*initctl* "$ROOT"/lib/systemd/system/basic.target.wants/*
  echo ReadKMsg=no >>"$ROOT/etc/systemd/journald.conf"
  ln -sf /lib/systemd/systemd "$ROOT/sbin/init"
  ln -s /usr/bin/containerd /usr/bin/ctr "$ROOT/usr/local/bin/"
  mkdir -p "$ROOT/opt/cni" "$ROOT/etc/kubernetes/manifests"
  ln -s /usr/lib/cni "$ROOT/opt/cni/bin"
  # A machine that is made of this image makes its own.
  : >"$ROOT/etc/machine-id"
  rm -f "$ROOT/etc/hostname" "$ROOT/etc/resolv.conf"
}

# kind's own files, Kubernetes' programs, and our network.
overlay() {
  local folder=$WORK/overlay program
  cp -r "$KIND_SOURCES/images/base/files/." "$folder"
  rm -rf "$folder/LICENSES"
  find "$folder" -type d -exec chmod 755 {} + -o -type f -exec chmod 644 {} +
  chmod 755 "$folder"/usr/local/bin/* "$folder"/kind/bin/*
  # Root of a container may lack the right to lower a process's score below its own.
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$folder/etc/containerd/config.toml"
  cat "$FILES/containerd.toml" >>"$folder/etc/containerd/config.toml"
  cp "$FILES/cni.tmpl" "$folder/etc/containerd/cni.tmpl"
  mkdir -p "$folder/kind/manifests" "$folder/usr/bin"
  printf %s "$KUBERNETES_VERSION" >"$folder/kind/version"
  for program in kubelet kubectl kubeadm; do install -m 755 "$KUBERNETES_FOLDER/$program" "$folder/usr/bin/"; done
  install -m 755 "$KIND_FOLDER/crictl" "$folder/usr/local/bin/"
  storage "$folder/kind/manifests/default-storage.yaml"
  sed "s|@HELPER@|$HELPER|" "$FILES/default-cni.yaml" >"$folder/kind/manifests/default-cni.yaml"
  cp -r --no-preserve=ownership "$folder/." "$ROOT"
  chroot "$ROOT" systemctl enable kubelet.service containerd.service undo-mount-hacks.service
  chroot "$ROOT" systemctl mask systemd-binfmt.service
  chroot "$ROOT" ctr oci spec | jq '.hooks.createContainer[.hooks.createContainer | length] |= . + {"path": "/kind/bin/mount-product-files.sh"}
    | del(.process.rlimits)' >"$ROOT/etc/containerd/cri-base.json"
}

# storage FILE: writes kind's own manifest of the storage class. Sets PROVISIONER and HELPER, the images in it.
storage() {
  local names
  names=$(python3 - "$KIND_SOURCES/pkg/build/nodeimage/const_storage.go" "$1" <<'PYTHON'
import re, sys
source = open(sys.argv[1]).read()
names = dict(re.findall(r'const (\w+Image) = "([^"]+)"', source))
manifest = re.search(r"const defaultStorageManifest = `(.*)`", source, re.S).group(1)
for name, image in names.items():
    manifest = manifest.replace("` + %s + `" % name, image)
assert "`" not in manifest, "kind's storage manifest has a form that is not known here"
open(sys.argv[2], "w").write(manifest)
print(names["storageProvisionerImage"], names["storageHelperImage"])
PYTHON
  )
  read -r PROVISIONER HELPER <<<"$names"
}

# image FILE NAME OPTION...: an image of programs of this machine, which run as root.
image() {
  local file=$1 name=$2
  shift 2
  python3 hack/images/image.py --output "$WORK/images/$file.tar" --name "$name" --user 0:0 --env "$SEARCH" "$@"
}

# server NAME PROGRAM: the image of a static program by its own name.
server() { image "${2##*/}" "$1" --file "$2=/usr/local/bin/${3:-${2##*/}}" --entrypoint "/usr/local/bin/${3:-${2##*/}}"; }

# The iptables of the node, with the libraries of its extensions: without libm, Services of several pods are silently not programmed.
kube_proxy() {
  local name library options=()
  for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do options+=(--link "/usr/sbin/$name=xtables-nft-multi"); done
  for library in $(chroot "$ROOT" bash -c 'ldd /usr/sbin/xtables-nft-multi /usr/lib/*/xtables/*.so' | grep -oE '/[^ ]+\.so[^ :]*' | sort -u) \
    $(cd "$ROOT" && printf '/%s\n' usr/lib/*/xtables/*.so); do
    options+=(--file "$(realpath -e "$ROOT$library")=$library")
  done
  image kube-proxy "$1" --file "$KUBERNETES_FOLDER/kube-proxy=/usr/local/bin/kube-proxy" --file "$ROOT/usr/sbin/xtables-nft-multi=/usr/sbin/xtables-nft-multi" \
    "${options[@]}" --entrypoint /usr/local/bin/kube-proxy
}

# The images that kubeadm and kind name, as kind preloads its own: known to containerd, unpacked when first used.
images() {
  local name applet options=()
  mkdir "$WORK/images"
  for name in $("$KUBERNETES_FOLDER/kubeadm" config images list --kubernetes-version "$KUBERNETES_VERSION" 2>/dev/null); do
    case $name in
      */kube-proxy:*) kube_proxy "$name" ;;
      */kube-*) server "$name" "$KUBERNETES_FOLDER/$(basename "${name%:*}")" ;;
      */etcd:*) server "$name" "$KIND_FOLDER/server" etcd ;;
      */coredns:*) image coredns "$name" --file "$KUBERNETES_TOOLS_FOLDER/coredns=/coredns" --entrypoint /coredns ;;
      */pause:*) image pause "$name" --file "$KUBERNETES_FOLDER/pause=/pause" --entrypoint /pause ;;
      *) echo "kubeadm names an image that is not known here: $name" >&2; return 1 ;;
    esac
  done
  name=$(sed -nE 's/^ *sandbox_image = "(.*)"/\1/p' "$ROOT/etc/containerd/config.toml")
  image sandbox "$name" --file "$KUBERNETES_FOLDER/pause=/pause" --entrypoint /pause
  server "$PROVISIONER" "$LOCAL_PATH_PROVISIONER"
  for applet in sh mkdir rm ip sleep; do options+=(--link "/bin/$applet=busybox"); done
  image helper "$HELPER" --file "$BUSYBOX=/bin/busybox" "${options[@]}" --entrypoint /bin/sh
}

# In namespaces of its own, so that nothing of containerd stays.
preload() {
  mkdir "$ROOT/images"
  mv "$WORK"/images/*.tar "$ROOT/images/"
  unshare --mount --net --pid --fork --kill-child chroot "$ROOT" bash -euc '
    mount -t proc proc /proc
    containerd >/tmp/containerd.log 2>&1 &
    for _ in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
    for file in /images/*.tar; do ctr --namespace k8s.io images import --all-platforms --no-unpack --digests "$file"; done'
  rm -rf "$ROOT/images" "$ROOT"/tmp/* "$ROOT"/run/*
}

# archive FILE: the whole root as an image of one layer.
archive() {
  local folder=$WORK/archive digest architecture=amd64
  [ "$(uname -m)" != aarch64 ] || architecture=arm64
  mkdir "$folder"
  tar --sort=name --numeric-owner -cf "$folder/layer.tar" -C "$ROOT" .
  rm -rf "$ROOT"
  digest=$(sha256sum "$folder/layer.tar" | cut -d' ' -f1)
  cat >"$folder/config.json" <<JSON
{"architecture": "$architecture", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:$digest"]},
 "config": {"Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"], "Env": ["container=docker", "$SEARCH"], "StopSignal": "SIGRTMIN+3"}}
JSON
  printf '[{"Config": "config.json", "RepoTags": ["streamhouse.local/kind-node:%s"], "Layers": ["layer.tar"]}]\n' "$KUBERNETES_VERSION" >"$folder/manifest.json"
  tar -cf "$1" -C "$folder" manifest.json config.json layer.tar
}

base
overlay
images
preload
archive "$OUT/node.tar"
