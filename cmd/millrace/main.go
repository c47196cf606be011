// Command millrace is the cache without Kubernetes.
package main

import (
	"github.com/millrace/millrace/cmd/millrace/command"
	"github.com/millrace/millrace/runtime/source/kinds"
)

// version is set by the build.
var version = "dev"

func main() { command.Main(version, kinds.Open) }
