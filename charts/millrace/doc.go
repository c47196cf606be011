// Package millrace is the Helm chart; its Go is tests of what it renders.
package millrace
