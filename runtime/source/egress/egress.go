// Package egress connects sources to the addresses that the administrator
// allows; contract.EgressPolicy says which are refused.
//
// The policy is applied to the address of every connection at the moment it is
// made, so neither a name that resolves to something else the second time nor a
// redirect gets around it.
package egress

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/millrace/millrace/apis/contract"
)

// ErrRefused is in every error about an address that may not be connected to.
var ErrRefused = contract.ErrEgress

// Policy connects. Its zero value refuses every address that is refused by default.
type Policy struct{ contract.EgressPolicy }

// Unrestricted allows every address: for programs whose user is the
// administrator, and for tests.
func Unrestricted() Policy {
	p, _ := contract.ParseEgress([]string{contract.EgressAny}) // the word is known
	return Policy{p}
}

// Parse reads what an administrator allows, as contract.ParseEgress does.
func Parse(allow []string) (Policy, error) {
	p, err := contract.ParseEgress(allow)
	return Policy{p}, err
}

// dialTimeout bounds a connection to a host that does not answer.
const dialTimeout = 10 * time.Second

// DialContext connects as net.Dialer does, to allowed addresses only.
func (p Policy) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	if err := p.CheckHost(host); err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	if !p.AllowsHost(host) {
		d.ControlContext = p.Control
	}
	return d.DialContext(ctx, network, address)
}

// Control is for a net.Dialer of others: it sees the address just before the
// system call that connects, and knows no names.
func (p Policy) Control(_ context.Context, network, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return fmt.Errorf("%w: %s of %s is none of TCP", ErrRefused, address, network)
	}
	return p.Check(at.Addr())
}
