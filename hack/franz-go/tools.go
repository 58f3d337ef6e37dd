//go:build tools

// Package tools names what is built here: the tests of the Kafka client franz-go, which run against a cluster.
package tools

import _ "github.com/twmb/franz-go/pkg/kgo"
