//go:build tools

// Package cloudnativepg names the programs that xtask/src/tools builds for the test of backups on kind, so that go.mod holds what they need.
package cloudnativepg

import (
	_ "github.com/cloudnative-pg/cloudnative-pg/cmd/manager"
	_ "github.com/cloudnative-pg/plugin-barman-cloud/cmd/manager"
)
