//go:build tools

// Package compose names Docker Compose, which xtask/src/tools builds, so that go.mod holds what it needs.
package compose

import _ "github.com/docker/compose/v2/cmd"
