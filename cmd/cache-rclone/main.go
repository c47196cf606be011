// Command cache-rclone is the cache engine with more kinds of source: those of
// rclone's backends. It is a module of its own, so that the engine of everybody
// else carries neither them nor what they depend on.
package main

import (
	"context"

	"github.com/millrace/millrace/cmd/cache-rclone/rclone"
	"github.com/millrace/millrace/cmd/cache/command"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/kinds"
)

// version is set by the build.
var version = "dev"

func main() { command.Main(version, open) }

func open(ctx context.Context, c source.Config) (source.Store, error) {
	if rclone.Knows(c.MountPoint) {
		return rclone.Open(ctx, c)
	}
	return kinds.Open(ctx, c)
}
