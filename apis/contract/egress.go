package contract

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ErrEgress is in every error about an address that may not be connected to.
var ErrEgress = errors.New("address refused")

// EgressAny allows every address.
const EgressAny = "*"

// EgressPolicy says which of the addresses that are refused by default the
// administrator allows. Its zero value allows none of them.
//
// A user who names a source must not thereby reach what only the pods of the
// engine can reach: their own loopback, the link-local services of their node,
// the metadata of their cloud.
type EgressPolicy struct {
	any   bool
	nets  []netip.Prefix
	hosts []string
}

// ParseEgress reads what an administrator allows: networks (10.0.0.0/8),
// addresses, names of hosts (whatever they resolve to), or EgressAny.
func ParseEgress(allow []string) (EgressPolicy, error) {
	var p EgressPolicy
	for _, word := range allow {
		if word == EgressAny {
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
			return EgressPolicy{}, fmt.Errorf("%q is neither a network such as 127.0.0.0/8 nor an address, a host name or %s", word, EgressAny)
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
func (p EgressPolicy) Check(addr netip.Addr) error {
	addr = addr.WithZone("")
	what := egressKind(addr)
	if what == "" || p.any {
		return nil
	}
	for _, candidate := range append([]netip.Addr{addr}, embedded(addr)...) {
		if slices.ContainsFunc(p.nets, func(n netip.Prefix) bool { return n.Contains(candidate) }) {
			return nil
		}
	}
	return &egressError{address: addr.String(), what: what}
}

// AllowsHost tells whether the administrator allows a host by its name.
func (p EgressPolicy) AllowsHost(host string) bool {
	return p.any || slices.Contains(p.hosts, canonical(host))
}

// CheckHost refuses a literal address and names of this machine; other names
// are checked when they have been resolved.
func (p EgressPolicy) CheckHost(host string) error {
	host = canonical(strings.Trim(host, "[]"))
	if p.AllowsHost(host) {
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
		return &egressError{address: host, what: egressLoopback}
	}
	return nil
}

const egressLoopback = "a loopback address"

// egressError is the error of an address.
type egressError struct{ address, what string }

func (r *egressError) Error() string {
	return fmt.Sprintf("%s: %s is %s: the administrator may allow it in the manager's configuration, egress.allow (runtime.egress.allow of the chart)", ErrEgress, r.address, r.what)
}

func (r *egressError) Unwrap() error { return ErrEgress }

// RetryableError tells the AWS SDK that trying again is of no use.
func (r *egressError) RetryableError() bool { return false }

// metadataServices of clouds that lie outside the link-local networks.
var metadataServices = []netip.Addr{
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google Cloud
}

// thisHost is "this host on this network" (RFC 791): Linux connects it to loopback.
var thisHost = netip.MustParsePrefix("0.0.0.0/8")

// egressKind names why an address is refused by default; empty for all others.
func egressKind(addr netip.Addr) string {
	switch {
	case addr.Is4In6():
		return egressKind(addr.Unmap())
	case addr.IsLoopback():
		return egressLoopback
	case addr.IsUnspecified(), addr.Is4() && thisHost.Contains(addr):
		return "an unspecified address"
	case addr.IsLinkLocalUnicast():
		return "a link-local address"
	case addr.IsMulticast():
		return "a multicast address"
	case addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "the broadcast address"
	case slices.Contains(metadataServices, addr):
		return "a cloud's metadata service"
	}
	for _, inner := range embedded(addr) {
		if what := egressKind(inner); what != "" {
			return what
		}
	}
	return ""
}

// Prefixes of IPv6 that lead to an IPv4 address, and where in the address it is.
var embeddings = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("::/96"), 12},          // IPv4-compatible, RFC 4291
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // NAT64 of a site, RFC 8215
	{netip.MustParsePrefix("2002::/16"), 2},       // 6to4, RFC 3056
}

func embedded(addr netip.Addr) []netip.Addr {
	if addr.Is4In6() {
		return []netip.Addr{addr.Unmap()}
	}
	for _, w := range embeddings {
		if addr.Is6() && w.prefix.Contains(addr) {
			b := addr.As16()
			return []netip.Addr{netip.AddrFrom4([4]byte(b[w.at : w.at+4]))}
		}
	}
	return nil
}
