package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
)

// unixPrefix begins an address that is the path of a Unix socket; others are
// host:port. Processes of one machine that speak over sockets in a directory of
// theirs need no ports, and no one else can speak to them.
const unixPrefix = "unix:"

// network splits an address into what package net wants.
func network(address string) (network, addr string) {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return "unix", path
	}
	return "tcp", address
}

// IsUnix tells whether an address is that of a Unix socket.
func IsUnix(address string) bool { return strings.HasPrefix(address, unixPrefix) }

// UnixAddress is the address of a Unix socket.
func UnixAddress(path string) string { return unixPrefix + path }

// Listen listens at host:port or unix:/path. A socket that was left behind is
// replaced: who listens in a directory owns it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	network, addr := network(address)
	if network == "unix" {
		if info, err := os.Lstat(addr); err == nil && info.Mode().Type() == fs.ModeSocket {
			if err := os.Remove(addr); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("replace a socket: %w", err)
			}
		}
	}
	return (&net.ListenConfig{}).Listen(ctx, network, addr)
}
