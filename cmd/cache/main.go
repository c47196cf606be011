// Command cache is Millrace's own cache engine.
package main

import (
	"github.com/millrace/millrace/cmd/cache/command"
	"github.com/millrace/millrace/runtime/source/kinds"
)

// version is set by the build.
var version = "dev"

func main() { command.Main(version, kinds.Open) }
