// Package millrace is a dataset cache for Kubernetes. Its rooms are described in
// docs/architecture.md; here are only tests of the walls between them.
package millrace
