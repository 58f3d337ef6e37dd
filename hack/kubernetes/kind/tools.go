//go:build tools

// Package kind names the programs that xtask/src/tools builds for a kind cluster, so that go.mod holds what they need.
package kind

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/kind"
)
