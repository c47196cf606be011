package contract_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/millrace/millrace/apis/contract"
)

func allowing(t *testing.T, allow ...string) contract.EgressPolicy {
	t.Helper()
	p, err := contract.ParseEgress(allow)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestAddressesOfTheMachineAndItsLinkAreRefused(t *testing.T) {
	for addr, refused := range map[string]bool{
		"127.0.0.1":              true,
		"127.255.3.4":            true,
		"::1":                    true,
		"0.0.0.0":                true,
		"0.1.2.3":                true,
		"::":                     true,
		"169.254.169.254":        true,
		"169.254.170.2":          true,
		"fe80::1":                true,
		"fe80::1%eth0":           true,
		"224.0.0.1":              true,
		"ff02::1":                true,
		"255.255.255.255":        true,
		"100.100.100.200":        true,
		"168.63.129.16":          true,
		"fd00:ec2::254":          true,
		"::ffff:127.0.0.1":       true,
		"::ffff:169.254.169.254": true,
		"::127.0.0.1":            true,
		"64:ff9b::7f00:1":        true,
		"64:ff9b::a9fe:a9fe":     true,
		"2002:7f00:1::":          true,
		"2002:a9fe:a9fe::1":      true,
		"10.244.1.7":             false,
		"172.30.0.1":             false,
		"192.168.1.1":            false,
		"100.64.0.1":             false,
		"93.184.216.34":          false,
		"2606:2800:220:1::1":     false,
		"fd00::1":                false,
		"::ffff:10.0.0.1":        false,
		"64:ff9b::a00:1":         false,
	} {
		err := contract.EgressPolicy{}.Check(netip.MustParseAddr(addr))
		if refused != (err != nil) || err != nil && !errors.Is(err, contract.ErrEgress) {
			t.Errorf("%s: %v, want refused %v", addr, err, refused)
		}
		if err != nil && !strings.Contains(err.Error(), "runtime.egress.allow") {
			t.Errorf("the error names no remedy: %v", err)
		}
		if err := allowing(t, "*").Check(netip.MustParseAddr(addr)); err != nil {
			t.Errorf("%s without restriction: %v", addr, err)
		}
	}
}

func TestWhatTheAdministratorAllowsIsAllowed(t *testing.T) {
	for name, tc := range map[string]struct {
		allow []string
		addr  string
		ok    bool
	}{
		"a network":                          {[]string{"127.0.0.0/8"}, "127.3.4.5", true},
		"a network of another":               {[]string{"127.0.0.0/24"}, "127.3.4.5", false},
		"a network with bits of a host":      {[]string{"169.254.170.23/24"}, "169.254.170.2", true},
		"an address":                         {[]string{"169.254.170.23"}, "169.254.170.23", true},
		"an address beside":                  {[]string{"169.254.170.23"}, "169.254.169.254", false},
		"an address that is wrapped":         {[]string{"127.0.0.1"}, "::ffff:127.0.0.1", true},
		"an address that is wrapped twofold": {[]string{"127.0.0.1"}, "64:ff9b::7f00:1", true},
		"all":                                {[]string{"*"}, "127.0.0.1", true},
		"IPv6":                               {[]string{"fe80::/10"}, "fe80::1%eth0", true},
		"a host is no address":               {[]string{"localhost"}, "127.0.0.1", false},
	} {
		if err := allowing(t, tc.allow...).Check(netip.MustParseAddr(tc.addr)); tc.ok != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, word := range []string{"", "127.0.0.0/33", "300.1.2.3", "10.0.0.0/8,127.0.0.1", "a b", "http://host", "host:80", "-x", "::1/129", "*.local"} {
		if _, err := contract.ParseEgress([]string{word}); err == nil {
			t.Errorf("%q is taken", word)
		}
	}
}

func TestHostsThatAreThisMachineAreRefusedByName(t *testing.T) {
	for host, refused := range map[string]bool{
		"localhost": true, "LocalHost.": true, "a.localhost": true, "127.0.0.1": true, "[::1]": true,
		"example.com": false, "minio.data.svc": false, "localhost.example.com": false, "10.0.0.1": false,
	} {
		if err := (contract.EgressPolicy{}).CheckHost(host); refused != (err != nil) {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := allowing(t, "localhost").CheckHost("localhost"); err != nil {
		t.Error(err)
	}
	if err := allowing(t, "127.0.0.1").CheckHost("localhost"); err != nil {
		t.Error(err)
	}
}
