//go:build tools

// Package monitoring names the program and the types that xtask/src/tools uses, so that go.mod holds what they need.
package monitoring

import (
	_ "github.com/prometheus-operator/prometheus-operator/cmd/operator"
	_ "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
)
