# shellcheck shell=bash
# Clients inside a cluster, for the tests: pods of the command line's image, what they print, and a producer that goes on while a test
# does something else. Sourced after hack/lib.sh and hack/lib-install.sh; uses the kubectl in PATH and the cluster in KUBECONFIG.
#
#   client_start NAME ARGUMENT...             starts one that goes on
#   client_feed INPUT NAME ARGUMENT...        the same, with a file of this machine on its standard input, which ends with client_fed
#   client_lines NAME PATTERN                 prints the lines it has printed so far that match
#   client_exec NAME ARGUMENT...              runs the command line beside one that goes on
#   client_ended NAME                         waits for its end
#   client_stop NAME                          ends it and takes it away
#   numbers_start TOPIC RATE                  a producer of numbered records that goes on
#   numbers_go_on                             waits until a record is acknowledged that was produced from now on
#   numbers_stop FILE                         ends it
#
# A container runtime may drop what a program prints just before its end, so what counts is read while the program still runs. Standard
# output and standard error come back as one: callers pick the lines they want. VERSION is the images' tag.

CLI_IMAGE=ghcr.io/streamhouse/streamhouse-cli
TOOLBOX_IMAGE=${TOOLBOX_IMAGE:-streamhouse.local/toolbox:1}
BOOTSTRAP=http://streamhouse-agents.$SAMPLE_NAMESPACE.svc:50051
# How long a client may take.
CLIENT_LIMIT=180

in_sample() { kubectl --namespace "$SAMPLE_NAMESPACE" "$@"; }

# eventually SECONDS WHAT COMMAND...: asks again until the command succeeds.
eventually() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || fail "$what did not happen in time"
    sleep 0.3
  done
}

# Pods of the strictest security standard; what follows are their containers.
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

# container NAME IMAGE: the beginning of a container.
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

# client_phase NAME WANTED: whether it is there. No use in waiting for one that failed.
client_phase() {
  local name=$1 phase
  phase=$(in_sample get pod "$name" -o 'jsonpath={.status.phase}') || return 1
  [ "$phase" != Failed ] || { in_sample logs "$name" --all-containers --tail=20 >&2; fail "the client $name failed"; }
  [ "$phase" = "$2" ]
}

client_ended() { eventually "$CLIENT_LIMIT" "the end of the client $1" client_phase "$1" Succeeded; }

# client_feed INPUT NAME ARGUMENT...: FEED holds the input open until client_fed.
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

# client_printed COUNT PATTERN NAME...: whether these clients together have printed so many lines that match.
client_printed() {
  local count=$1 pattern=$2 name lines=0
  shift 2
  for name; do
    client_phase "$name" Running || return 1
    lines=$((lines + $(client_lines "$name" "$pattern" | wc -l)))
  done
  [ "$lines" -ge "$count" ]
}

# client_exec NAME ARGUMENT...: the command line once more, in the pod of one that runs.
client_exec() {
  local name=$1
  shift
  in_sample exec "$name" --container client -- /usr/bin/streamhouse "$@"
}

client_stop() { in_sample delete pod "$1" --wait=false >/dev/null; }

# numbers_start TOPIC RATE: record number n has the value n and one of 64 keys, so that all partitions have records all the time. The
# pod writes them itself, so that no connection from outside can end them.
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

# The last acknowledgement: its time and its place.
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

# The time as logs have it.
now() { date -u +%Y-%m-%dT%H:%M:%S.%NZ; }

# numbers_stop FILE: no more records; once each is acknowledged, ends the producer. FILE gets the acknowledgements with their times, in
# the order of the records. Sets NUMBERS, how many records there were.
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
