// Rclone-client is the entrypoint of the FUSE pods of class rclone: it tells
// rclone what runtime.json says, and becomes rclone.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/cmd/rclone-client/plan"
	"github.com/millrace/millrace/runtime/bridge"
)

// rclone's place in the image.
const rclone = "/bin/rclone"

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	file, mountPath := os.Getenv(contract.EnvRuntimeConfig), os.Getenv(contract.EnvRuntimeMountPath)
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the configuration, $%s: %w", contract.EnvRuntimeConfig, err)
	}
	config, err := contract.DecodeRuntimeConfig(text)
	if err != nil {
		return err
	}
	p, err := plan.Of(config, mountPath, os.ReadFile)
	if err != nil {
		return err
	}
	// A restarted container finds the dead mount of the one before.
	if err := bridge.ClearMountPoint(mountPath); err != nil {
		return err
	}
	return unix.Exec(rclone, append([]string{rclone}, p.Args...), append(os.Environ(), p.Env...))
}
