package rclone

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/millrace/millrace/runtime/source/egress"
)

// gate is a proxy on loopback through which the backends connect, because they
// take no dialer: it holds every connection to the rules for addresses. It serves
// only who knows its password.
type gate struct {
	policy   egress.Policy
	listener net.Listener
	server   *http.Server
	next     *http.Transport
	password string
	done     sync.WaitGroup
	ctx      context.Context
	cancel   context.CancelFunc
}

func newGate(policy egress.Policy) (*gate, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the backend: %w", err)
	}
	g := &gate{policy: policy, listener: l, password: rand.Text()}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.next = &http.Transport{DialContext: policy.DialContext, DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute}
	g.server = &http.Server{Handler: g, ReadHeaderTimeout: time.Minute}
	g.done.Go(func() { _ = g.server.Serve(l) }) // it ends with Close
	return g, nil
}

// url by which the backends find it.
func (g *gate) url() string {
	u := url.URL{Scheme: "http", User: url.UserPassword("millrace", g.password), Host: g.listener.Addr().String()}
	return u.String()
}

// Close ends every connection.
func (g *gate) Close() {
	g.cancel()
	_ = g.server.Close()
	g.next.CloseIdleConnections()
	g.done.Wait()
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("millrace:"+g.password))
	if subtle.ConstantTimeCompare([]byte(r.Header.Get("Proxy-Authorization")), []byte(want)) != 1 {
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	}
	if r.Method == http.MethodConnect {
		g.tunnel(w, r)
		return
	}
	if !r.URL.IsAbs() {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.Header.Del("Proxy-Authorization")
	r.RequestURI = ""
	out, err := g.next.RoundTrip(r)
	if err != nil {
		say(w, err)
		return
	}
	defer out.Body.Close()
	for name, values := range out.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(out.StatusCode)
	_, err = io.Copy(w, out.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client must not take it for the end
	}
}

// say answers what is wrong with the way on.
func say(w http.ResponseWriter, err error) {
	status := http.StatusBadGateway
	if errors.Is(err, egress.ErrRefused) {
		status = http.StatusForbidden
	}
	http.Error(w, strings.ReplaceAll(err.Error(), "\n", " "), status)
}

// tunnel joins two connections.
func (g *gate) tunnel(w http.ResponseWriter, r *http.Request) {
	there, err := g.policy.DialContext(r.Context(), "tcp", r.Host)
	if err != nil {
		// Clients show the status line, and nothing of the body.
		here, _, e := http.NewResponseController(w).Hijack()
		if e == nil {
			_, _ = fmt.Fprintf(here, "HTTP/1.1 403 %s\r\nContent-Length: 0\r\n\r\n", strings.ReplaceAll(err.Error(), "\n", " "))
			here.Close()
		}
		return
	}
	defer there.Close()
	here, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	stop := context.AfterFunc(g.ctx, func() { here.Close(); there.Close() })
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(here, there)
		here.Close()
	})
	_, _ = io.Copy(there, buffered)
	there.Close()
	back.Wait()
}
