// Package suite is tests on a local cluster.
package suite
