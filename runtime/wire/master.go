package wire

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// DialMaster connects, lazily and for ever, to the master at host:port or
// unix:/path. A master that has gone without a word is noticed by TCP within
// half a minute.
func DialMaster(address string) (*grpc.ClientConn, error) { return DialMasterTLS(address, nil) }

// DialMasterTLS is DialMaster over TLS, if t is not nil and the master is not at
// a Unix socket.
func DialMasterTLS(address string, t *TLS) (*grpc.ClientConn, error) {
	secrecy := insecure.NewCredentials()
	if t != nil && !IsUnix(address) {
		secrecy = t.Credentials()
	}
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3},
		Control: func(network, _ string, c syscall.RawConn) error {
			if network == "unix" {
				return nil
			}
			var err error
			if errControl := c.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 15_000)
			}); errControl != nil {
				return errControl
			}
			return err
		},
	}
	// passthrough: each dial asks the name service anew, for a master that moves
	// has another address.
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secrecy),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			network, addr := network(address)
			return dialer.DialContext(ctx, network, addr)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to the master at %s: %w", address, err)
	}
	return conn, nil
}
