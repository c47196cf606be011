// Package standalone is tests of the cache without Kubernetes.
package standalone
