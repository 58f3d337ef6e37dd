# shellcheck shell=bash
# The parts of hack/kind-up.sh: the tools' versions, the cluster's configuration, images and ports. Sourced after hack/lib-install.sh;
# reads the variables that kind-up.sh sets.
#
#   require_tools           ends the script if a program is missing or too old
#   require_free_ports      ends the script if a port of localhost is taken
#   kind_config             prints the configuration of a new cluster
#   build_with_docker       builds the three images with docker/Dockerfile
#   build_locally           makes them of this machine's programs, and those of PostgreSQL and MinIO
#   tag_and_load            gives each image its tag and loads it into the nodes; sets TAGS
#   publish_ports           makes the agents reachable from outside of the cluster: for clients, and the console

IMAGES=(agent operator cli)
IMAGE_PREFIX=ghcr.io/streamhouse/streamhouse
# The tag of images that were built last, in Docker. The cluster gets tags that change with the content.
BUILT=kind-up
CLIENT_NODE_PORT=30052
CONSOLE_NODE_PORT=30080
PROMETHEUS_NODE_PORT=30090
GRAFANA_NODE_PORT=30030

# require_version PROGRAM HAVE WANT
require_version() { version_at_least "${2#v}" "$3" || fail "$1 $3 or later is needed, and this is ${2:-of an unknown version}: update it"; }

# Before anything that takes long.
require_tools() {
  local program
  for program in docker kind kubectl helm; do
    have "$program" || fail "$program is missing: install it. https://kind.sigs.k8s.io/docs/user/quick-start says how for docker, kind and kubectl, https://helm.sh/docs/intro/install for helm"
  done
  docker info >/dev/null 2>&1 || fail "Docker does not answer: start it, and see that 'docker info' works for this user"
  require_version docker "$(docker version --format '{{.Server.Version}}')" 20.10
  require_version kind "$(kind version | sed -nE 's/^kind v?([0-9.]+).*/\1/p')" 0.29
  require_version kubectl "$(kubectl version --client --output json | sed -nE 's/.*"gitVersion": *"v?([0-9.]+).*/\1/p')" 1.31
  require_version helm "$(helm version --template '{{.Version}}' | sed -E 's/^v?([0-9.]+).*/\1/')" 3.12
  local need=3 bytes
  if $MONITORING; then need=6; fi
  bytes=$(docker info --format '{{.MemTotal}}' 2>/dev/null || echo 0)
  [ "$bytes" = 0 ] || [ $((bytes >> 20)) -ge $((need * 1000)) ] ||
    note "Docker has $((bytes >> 20)) MiB of memory, and this needs about $need GiB: it may be slow, or pods may be killed"
}

# Docker would say so only once it starts the node.
require_free_ports() {
  local name port
  for name in CLIENT CONSOLE PROMETHEUS GRAFANA; do
    port=${name}_PORT
    port=${!port}
    if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then fail "the port $port of localhost is taken: choose another with KIND_${name}_PORT"; fi
  done
}

# A node that runs the control plane takes no other pods, unless it is the only one or is told to.
kind_config() {
  local worker
  cat <<YAML
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
kubeadmConfigPatches:
- |
  kind: InitConfiguration
  nodeRegistration: {taints: []}
nodes:
- role: control-plane
  extraPortMappings:
  - {listenAddress: 127.0.0.1, hostPort: $CLIENT_PORT, containerPort: $CLIENT_NODE_PORT}
  - {listenAddress: 127.0.0.1, hostPort: $CONSOLE_PORT, containerPort: $CONSOLE_NODE_PORT}
  - {listenAddress: 127.0.0.1, hostPort: $PROMETHEUS_PORT, containerPort: $PROMETHEUS_NODE_PORT}
  - {listenAddress: 127.0.0.1, hostPort: $GRAFANA_PORT, containerPort: $GRAFANA_NODE_PORT}
YAML
  for ((worker = 1; worker < NODES; worker++)); do echo "- role: worker"; done
}

build_with_docker() {
  local target
  # An attestation would make an index of an image, which the nodes' containerd does not import.
  export BUILDX_NO_DEFAULT_ATTESTATIONS=1
  for target in "${IMAGES[@]}"; do
    run docker build --file docker/Dockerfile --target "$target" --build-arg "VERSION=$VERSION" --tag "$IMAGE_PREFIX-$target:$BUILT" .
  done
}

build_locally() {
  local folder file options=()
  folder=$(mktemp -d)
  $BUILD || options=(--no-build)
  run hack/build-images.sh --tag "$BUILT" --out "$folder" "${options[@]}"
  run hack/build-images.sh --dev-servers --tag "$BUILT" --out "$folder"
  for file in "${IMAGES[@]}"; do run docker load --quiet --input "$folder/streamhouse-$file.tar"; done
  for file in postgresql minio; do run kind load image-archive --name "$NAME" "$folder/$file.tar"; done
  rm -rf "$folder"
  export POSTGRESQL_IMAGE=localhost/streamhouse-dev/postgresql:$BUILT MINIO_IMAGE=localhost/streamhouse-dev/minio:$BUILT
}

# By an archive, because `kind load docker-image` cannot read every image of a Docker that keeps images in containerd.
tag_and_load() {
  local name id tag archive
  archive=$(mktemp -d)
  for name in "${IMAGES[@]}"; do
    if $DRY_RUN; then
      id=ID
    else
      id=$(docker image inspect --format '{{.Id}}' "$IMAGE_PREFIX-$name:$BUILT" 2>/dev/null) || fail "there is no image of $name yet: leave out --no-build"
      id=${id#sha256:}
    fi
    TAGS[$name]=${TAG:-$VERSION-${id:0:12}}
    # By the version alone too, as documents and the chart name it.
    for tag in "${TAGS[$name]}" "$VERSION"; do run docker tag "$IMAGE_PREFIX-$name:$BUILT" "$IMAGE_PREFIX-$name:$tag"; done
    run docker save --output "$archive/$name.tar" "$IMAGE_PREFIX-$name:${TAGS[$name]}" "$IMAGE_PREFIX-$name:$VERSION"
    run kind load image-archive --name "$NAME" "$archive/$name.tar"
  done
  rm -rf "$archive"
}

# The operator's own Service is for clients inside of the cluster. On port 50052 any agent serves any client, by the address that the client
# used.
publish_ports() {
  apply_text "Services for clients and for the console" <<YAML
apiVersion: v1
kind: Service
metadata: {name: kind-clients, namespace: $SAMPLE_NAMESPACE}
spec:
  type: NodePort
  selector: {app.kubernetes.io/instance: streamhouse, app.kubernetes.io/component: agent}
  ports: [{name: grpc, port: 50052, targetPort: 50052, nodePort: $CLIENT_NODE_PORT}]
---
apiVersion: v1
kind: Service
metadata: {name: kind-console, namespace: $SAMPLE_NAMESPACE}
spec:
  type: NodePort
  # A page asks for its data from the agent that served it.
  sessionAffinity: ClientIP
  selector: {app.kubernetes.io/instance: streamhouse, app.kubernetes.io/component: agent}
  ports: [{name: http, port: 8080, targetPort: 8080, nodePort: $CONSOLE_NODE_PORT}]
YAML
}
