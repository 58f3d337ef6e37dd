# shellcheck shell=bash
# Clients inside a cluster, for the tests: pods with the command line's image, their output, and a producer that runs during a test.
# Sourced after hack/lib.sh and hack/lib-install.sh; uses the kubectl in PATH and the cluster in KUBECONFIG.
#
#   client_start NAME ARGUMENT...             starts a client in the background
#   client_feed INPUT NAME ARGUMENT...        the same, with a local file as standard input, which client_fed closes
#   client_lines NAME PATTERN                 prints the lines of its output so far that match
#   client_exec NAME ARGUMENT...              runs the command line in the pod of a running client
#   client_ended NAME                         waits for its end
#   client_stop NAME                          deletes its pod
#   numbers_start TOPIC RATE                  starts a producer of numbered records in the background
#   numbers_go_on                             waits until a record is acknowledged after this call
#   numbers_stop FILE                         stops the producer
#
# A container runtime may drop the output that a program writes just before it exits, so tests read output while the program runs.
# Standard output and standard error are merged: callers select the lines that they need. VERSION is the images' tag.

CLI_IMAGE=ghcr.io/streamhouse/streamhouse-cli
TOOLBOX_IMAGE=${TOOLBOX_IMAGE:-streamhouse.local/toolbox:1}
BOOTSTRAP=http://streamhouse-agents.$SAMPLE_NAMESPACE.svc:50051
# Time limit of a client, in seconds.
CLIENT_LIMIT=180

in_sample() { kubectl --namespace "$SAMPLE_NAMESPACE" "$@"; }

# The head of a pod that meets the restricted Pod Security Standard; its containers follow.
pod_head() {
  cat <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $1, labels: {app: client}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, runAsGroup: 65532, fsGroup: 65532, seccompProfile: {type: RuntimeDefault}}
YAML
}

# container NAME IMAGE: prints the beginning of a container.
container() {
  cat <<YAML
  - name: $1
    image: $2
    securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
    resources: {requests: {cpu: 10m, memory: 16Mi}}
YAML
}

# cli_container ARGUMENT...
cli_container() {
  container client "$CLI_IMAGE:$VERSION"
  echo "    env: [{name: STREAMHOUSE_BOOTSTRAP, value: \"$BOOTSTRAP\"}]"
  echo "    args:"
  printf "    - '%s'\n" "$@"
}

# client_start NAME ARGUMENT...
client_start() {
  local name=$1
  shift
  {
    pod_head "$name"
    echo "  containers:"
    cli_container "$@"
    echo "    stdin: ${CLIENT_STDIN:-false}"
    echo "    stdinOnce: ${CLIENT_STDIN:-false}"
  } | in_sample create -f - >/dev/null
}

# client_phase NAME WANTED: whether the pod is in this phase. A failed client fails the test at once.
client_phase() {
  local name=$1 phase
  phase=$(in_sample get pod "$name" -o 'jsonpath={.status.phase}') || return 1
  [ "$phase" != Failed ] || { in_sample logs "$name" --all-containers --tail=20 >&2; fail "the client $name failed"; }
  [ "$phase" = "$2" ]
}

client_ended() { eventually "$CLIENT_LIMIT" "the end of the client $1" client_phase "$1" Succeeded; }

# client_feed INPUT NAME ARGUMENT...: the descriptor FEED keeps the input open until client_fed.
client_feed() {
  local input=$1 name=$2
  shift
  CLIENT_STDIN=true client_start "$@"
  eventually "$CLIENT_LIMIT" "the start of the client $name" client_phase "$name" Running
  exec {FEED}> >(in_sample attach "$name" --stdin --quiet >/dev/null 2>&1)
  cat "$input" >&"$FEED"
}

client_fed() { exec {FEED}>&-; }

client_lines() { in_sample logs "$1" --container client | { grep -E "$2" || true; }; }

# client_printed COUNT PATTERN NAME...: whether these clients together have printed at least this number of matching lines.
client_printed() {
  local count=$1 pattern=$2 name lines=0
  shift 2
  for name; do
    client_phase "$name" Running || return 1
    lines=$((lines + $(client_lines "$name" "$pattern" | wc -l)))
  done
  [ "$lines" -ge "$count" ]
}

# client_exec NAME ARGUMENT...: runs the command line in the pod of a running client.
client_exec() {
  local name=$1
  shift
  in_sample exec "$name" --container client -- /usr/bin/streamhouse "$@"
}

client_stop() { in_sample delete pod "$1" --wait=false >/dev/null; }

# numbers_start TOPIC RATE: record number n has the value n and one of 64 keys, so that every partition receives records all the time. A
# container of the pod generates the records, so that the load does not depend on a connection from outside.
numbers_start() {
  local topic=$1 rate=$2
  {
    pod_head numbers
    echo "  volumes: [{name: pipe, emptyDir: {}}]"
    echo "  initContainers:"
    container pipe "$TOOLBOX_IMAGE"
    cat <<'YAML'
    args: [-c, mkfifo /pipe/lines]
    volumeMounts: [{name: pipe, mountPath: /pipe}]
  containers:
YAML
    container numbers "$TOOLBOX_IMAGE"
    cat <<YAML
    args:
    - -c
    - |
      n=0
      {
        while [ ! -e /pipe/stop ]; do
          end=\$((n + $rate / 10))
          while [ \$n -lt \$end ]; do echo "\$((n % 64)):\$n"; n=\$((n + 1)); done
          sleep 0.1
        done
        echo "\$n" >&3
        while [ ! -e /pipe/end ]; do sleep 0.1; done
      } 3>&1 >/pipe/lines
    volumeMounts: [{name: pipe, mountPath: /pipe}]
YAML
    cli_container produce "$topic" --file /pipe/lines --key-separator : --print-offsets
    echo "    volumeMounts: [{name: pipe, mountPath: /pipe}]"
  } | in_sample create -f - >/dev/null
  eventually 60 "the producer's first acknowledgement" numbers_acked_since ""
}

# Prints the last acknowledgement: its time, partition and offset.
numbers_last() { in_sample logs numbers --container client --timestamps --tail=1 2>/dev/null | grep '@[0-9]*$'; }

# numbers_acked_since TIME: whether a record was acknowledged after that time.
numbers_acked_since() {
  local last
  last=$(numbers_last) && [[ ${last%% *} > $1 ]]
}

numbers_go_on() {
  client_phase numbers Running || fail "the producer does not run"
  eventually 60 "an acknowledgement" numbers_acked_since "$(now)"
}

# Prints the time in the format of the logs.
now() { date -u +%Y-%m-%dT%H:%M:%S.%NZ; }

# numbers_stop FILE: stops the generator and, once every record is acknowledged, the producer. Writes the acknowledgements with their times
# to FILE, in the order of the records. Sets NUMBERS to the number of records.
numbers_stop() {
  local file=$1
  in_sample exec numbers --container numbers -- touch /pipe/stop
  eventually 30 "the last number" numbers_counted
  eventually "$CLIENT_LIMIT" "the acknowledgement of all $NUMBERS records" client_printed "$NUMBERS" '@[0-9]+$' numbers
  in_sample logs numbers --container client --timestamps | grep -E '@[0-9]+$' >"$file"
  in_sample exec numbers --container numbers -- touch /pipe/end
  client_ended numbers
  client_stop numbers
}

numbers_counted() { NUMBERS=$(in_sample logs numbers --container numbers) && [ -n "$NUMBERS" ]; }
