// Package egress decides which addresses a source may connect to. A user who
// names a URL must not thereby reach what only the engine's pods can reach:
// their own loopback, the node's link-local services, the cloud's metadata.
//
// The rule is applied to the address of every connection at the moment it is
// made, so neither a name that resolves to something else the second time nor a
// redirect gets around it.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ErrRefused is in every error about an address that may not be connected to.
var ErrRefused = errors.New("address refused")

// Any allows every address.
const Any = "*"

// Policy says which of the addresses that are refused by default are allowed.
// Its zero value allows none of them.
type Policy struct {
	any   bool
	nets  []netip.Prefix
	hosts []string
}

// Unrestricted allows every address: for programs whose user is the
// administrator, and for tests.
func Unrestricted() Policy { return Policy{any: true} }

// Parse reads what an administrator allows: networks (10.0.0.0/8), addresses,
// names of hosts (whatever they resolve to), or Any.
func Parse(allow []string) (Policy, error) {
	var p Policy
	for _, word := range allow {
		if word == Any {
			p.any = true
			continue
		}
		if net, err := netip.ParsePrefix(word); err == nil {
			p.nets = append(p.nets, net.Masked())
			continue
		}
		if addr, err := netip.ParseAddr(word); err == nil {
			addr = addr.Unmap().WithZone("")
			p.nets = append(p.nets, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		if !hostName(word) {
			return Policy{}, fmt.Errorf("%q is neither a network such as 127.0.0.0/8 nor an address, a host name or %s", word, Any)
		}
		p.hosts = append(p.hosts, canonical(word))
	}
	return p, nil
}

// hostName tells whether a word can be the name of a host. What looks like a
// number or a broken network is none.
func hostName(word string) bool {
	word = strings.TrimSuffix(word, ".")
	if word == "" || len(word) > 253 {
		return false
	}
	labels := strings.Split(word, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			if c != '-' && c != '_' && (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
				return false
			}
		}
	}
	return strings.ContainsFunc(labels[len(labels)-1], func(c rune) bool { return c < '0' || c > '9' })
}

func canonical(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// Check refuses an address, unless it is allowed. Addresses of IPv4 that are
// wrapped in one of IPv6 are looked at as what they lead to.
func (p Policy) Check(addr netip.Addr) error {
	addr = addr.WithZone("")
	what := kind(addr)
	if what == "" || p.any {
		return nil
	}
	for _, candidate := range append([]netip.Addr{addr}, wrapped(addr)...) {
		if slices.ContainsFunc(p.nets, func(n netip.Prefix) bool { return n.Contains(candidate) }) {
			return nil
		}
	}
	return &refused{address: addr.String(), what: what}
}

// CheckHost refuses a literal address and names of this machine; other names
// are checked when they have been resolved.
func (p Policy) CheckHost(host string) error {
	host = canonical(strings.Trim(host, "[]"))
	if p.any || slices.Contains(p.hosts, host) {
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		return p.Check(addr)
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		for _, local := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
			if err := p.Check(local); err == nil {
				return nil
			}
		}
		return &refused{address: host, what: loopback}
	}
	return nil
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
	if !slices.Contains(p.hosts, canonical(host)) {
		d.ControlContext = p.control
	}
	return d.DialContext(ctx, network, address)
}

// control sees the address just before the system call that connects.
func (p Policy) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return &refused{address: address, what: "not of TCP"}
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", address, err)
	}
	return p.Check(at.Addr())
}

const loopback = "a loopback address"

// refused is the error of an address.
type refused struct{ address, what string }

func (r *refused) Error() string {
	return fmt.Sprintf("%s: %s is %s: the administrator may allow it in the manager's configuration, egress.allow (runtime.egress.allow of the chart)", ErrRefused, r.address, r.what)
}

func (r *refused) Unwrap() error { return ErrRefused }

// RetryableError tells the AWS SDK that trying again is of no use.
func (r *refused) RetryableError() bool { return false }

// metadata services of clouds that lie outside the link-local networks.
var metadata = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
}

// thisHost is "this host on this network" (RFC 791): Linux connects it to loopback.
var thisHost = netip.MustParsePrefix("0.0.0.0/8")

// kind names why an address is refused by default; empty for all others.
func kind(addr netip.Addr) string {
	switch {
	case addr.Is4In6():
		return kind(addr.Unmap())
	case addr.IsLoopback():
		return loopback
	case addr.IsUnspecified(), addr.Is4() && thisHost.Contains(addr):
		return "an unspecified address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr.IsMulticast():
		return "a multicast address"
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	case slices.Contains(metadata, addr):
		return "a cloud's metadata service"
	}
	for _, inner := range wrapped(addr) {
		if what := kind(inner); what != "" {
			return what
		}
	}
	return ""
}

// Prefixes of IPv6 that lead to an IPv4 address, and where in the address it is.
var wrappers = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("::/96"), 12},          // IPv4-compatible, RFC 4291
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // NAT64 of a site, RFC 8215
	{netip.MustParsePrefix("2002::/16"), 2},       // 6to4, RFC 3056
}

func wrapped(addr netip.Addr) []netip.Addr {
	if addr.Is4In6() {
		return []netip.Addr{addr.Unmap()}
	}
	for _, w := range wrappers {
		if addr.Is6() && w.prefix.Contains(addr) {
			b := addr.As16()
			return []netip.Addr{netip.AddrFrom4([4]byte(b[w.at : w.at+4]))}
		}
	}
	return nil
}
