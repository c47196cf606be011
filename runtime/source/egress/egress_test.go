package egress_test

import (
	"context"
	"errors"
	"net"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/millrace/millrace/runtime/source/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, allow ...string) egress.Policy {
	t.Helper()
	p, err := egress.Parse(allow)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// names answers every question about a name with 127.0.0.1, as somebody's name
// server may when it is asked the second time.
func names(t *testing.T) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = server.WriteTo(out, from)
			}
		}
	}()
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		server.Close()
		<-done
	})
}

func TestTheAddressOfTheConnectionDecidesAndNotTheName(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	names(t)
	const name = "innocent.example.com"
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort(name, port)
	if c, err := (egress.Policy{}).DialContext(t.Context(), "tcp", at); !errors.Is(err, egress.ErrRefused) {
		t.Errorf("%s was connected to: %v", at, err)
		if c != nil {
			c.Close()
		}
	}
	for _, allow := range []string{"127.0.0.0/8", "*", "Innocent.Example.Com."} {
		c, err := parse(t, allow).DialContext(t.Context(), "tcp", at)
		if err != nil {
			t.Errorf("%s with %s allowed: %v", at, allow, err)
			continue
		}
		c.Close()
	}
}
