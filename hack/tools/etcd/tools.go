//go:build tools

// Package tools pins the etcd of local clusters.
package tools

import _ "go.etcd.io/etcd/server/v3"
