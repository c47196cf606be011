package http

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/net/http/httpguts"
	"golang.org/x/time/rate"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
)

const (
	// attempts of a request.
	attempts = 4
	// retriesPerSecond and retriesAtOnce are the budget of a whole store: a server
	// that is in trouble is not asked many times as much as one that is well.
	retriesPerSecond, retriesAtOnce = 5, 50
	maxRedirects                    = 8
	maxResponseHeader               = 256 << 10
)

// newTransport makes connections to allowed addresses only.
func newTransport(c source.Config, roots *x509.CertPool, timeout time.Duration, connections int) *http.Transport {
	return &http.Transport{
		DialContext: c.Egress.DialContext,
		Proxy: func(r *http.Request) (*url.URL, error) {
			// A proxy resolves names where no rule is applied: what can be seen is refused here.
			if err := c.Egress.CheckHost(r.URL.Hostname()); err != nil {
				return nil, err
			}
			return http.ProxyFromEnvironment(r)
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   connections,
		MaxConnsPerHost:       connections,
		// Bytes are cached as they are: never an encoding of them.
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxResponseHeader,
		// One connection for each range: HTTP/2 would put all onto one.
		Protocols: protocols(),
	}
}

func protocols() *http.Protocols {
	p := &http.Protocols{}
	p.SetHTTP1(true)
	return p
}

// credentials adds what the user was given for one server to requests for that
// server, and not to those that a redirect sends elsewhere.
type credentials struct {
	next   http.RoundTripper
	origin *url.URL
	header http.Header
}

func (c *credentials) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(c.header) > 0 && r.URL.Scheme == c.origin.Scheme && strings.EqualFold(r.URL.Host, c.origin.Host) {
		r = r.Clone(r.Context())
		for name, values := range c.header {
			r.Header[name] = values
		}
	}
	return c.next.RoundTrip(r)
}

// Options.
const (
	optUser        = "user"
	optPassword    = "password"
	optToken       = "token"
	optHeader      = "header."
	optCA          = "ca"
	optTimeout     = "timeout"
	optConnections = "connections"
)

// headers of a request that the store sets itself.
var ownHeaders = []string{"Accept", "Accept-Encoding", "Connection", "Content-Length", "Host", "If-Match", "If-None-Match", "If-Modified-Since", "If-Range", "If-Unmodified-Since", "Range", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// identity reads user and password, a bearer token and headers out of the options.
func identity(c source.Config, get func(string) string) (http.Header, error) {
	out := http.Header{}
	for _, options := range []map[string]string{c.Options, c.EncryptOptions} {
		for option, value := range options {
			name, ok := strings.CutPrefix(option, optHeader)
			if !ok {
				continue
			}
			value = strings.TrimSpace(value)
			name = http.CanonicalHeaderKey(name)
			for _, own := range ownHeaders {
				if name == own {
					return nil, fmt.Errorf("option %s: this header is the cache's own", option)
				}
			}
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("option %s: its name or its value cannot be a header", option)
			}
			out.Set(name, value)
		}
	}
	user, password, token := get(optUser), get(optPassword), get(optToken)
	switch {
	case token != "" && (user != "" || password != ""):
		return nil, fmt.Errorf("options %s and %s are both set: give one", optUser, optToken)
	case password != "" && user == "":
		return nil, fmt.Errorf("option %s is set without %s", optPassword, optUser)
	case token != "":
		if !httpguts.ValidHeaderFieldValue(token) {
			return nil, fmt.Errorf("option %s: its value cannot be a header", optToken)
		}
		out.Set("Authorization", "Bearer "+token)
	case user != "":
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth(user, password)
		out.Set("Authorization", r.Header.Get("Authorization"))
	}
	return out, nil
}

var (
	errSilent    = errors.New("the server does not answer in time")
	errSlow      = errors.New("the server sends too slowly")
	errDowngrade = errors.New("a redirect from https to http is not followed")
	errScheme    = errors.New("a redirect that leaves HTTP is not followed")
	errRedirects = fmt.Errorf("more than %d redirects", maxRedirects)
)

// redirect follows to allowed places. One that only adds a slash is an answer:
// what was asked for is a directory.
func redirect(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	switch {
	case len(via) > maxRedirects:
		return errRedirects
	case !strings.HasSuffix(first.Path, "/") && r.URL.Path == via[len(via)-1].URL.Path+"/":
		return http.ErrUseLastResponse
	case r.URL.Scheme != "http" && r.URL.Scheme != "https":
		return fmt.Errorf("%w: to scheme %q", errScheme, r.URL.Scheme)
	case via[len(via)-1].URL.Scheme == "https" && r.URL.Scheme != "https":
		return errDowngrade
	}
	r.Header.Del("Referer")
	return nil
}

// statusError is an answer that is neither what was asked for nor a redirect.
type statusError int

func (s statusError) Error() string {
	return strings.TrimSpace("the server answers " + strconv.Itoa(int(s)) + " " + http.StatusText(int(s)))
}

// do sends a request, again where that may help. The caller closes the body and
// then ends ctx.
func (s *Store) do(ctx context.Context, method string, u *url.URL, header http.Header) (*http.Response, error) {
	pause := &pause{ExponentialBackOff: backoff.NewExponentialBackOff()}
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	return backoff.Retry(ctx, func() (*http.Response, error) {
		out, wait, err := s.once(ctx, method, u, header)
		if err == nil {
			return out, nil
		}
		if wait < 0 || wait > s.timeout || !s.retries.Allow() {
			return nil, backoff.Permanent(err)
		}
		pause.atLeast = wait
		return nil, err
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(attempts), backoff.WithMaxElapsedTime(0))
}

// pause waits as long as the server asked for, if that is longer.
type pause struct {
	*backoff.ExponentialBackOff
	atLeast time.Duration
}

func (p *pause) NextBackOff() time.Duration {
	return max(p.ExponentialBackOff.NextBackOff(), p.atLeast)
}

// hopeless is the wait after which a request is not sent again.
const hopeless = -1

// once sends a request; after an error, wait is for how long to wait before
// another attempt.
func (s *Store) once(ctx context.Context, method string, u *url.URL, header http.Header) (_ *http.Response, wait time.Duration, _ error) {
	r, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, hopeless, withoutURL(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Accept-Encoding", "identity")
	r.Header.Set("User-Agent", "millrace")
	out, err := s.client.Do(r)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, hopeless, cause
		}
		if final(err) {
			wait = hopeless
		}
		return nil, wait, withoutURL(err)
	}
	if out.StatusCode < 400 {
		return out, 0, nil
	}
	// A short rest is read, so that the connection may be used again.
	_, _ = io.CopyN(io.Discard, out.Body, 16<<10)
	out.Body.Close()
	switch out.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return nil, retryAfter(out.Header), statusError(out.StatusCode)
	}
	return nil, hopeless, statusError(out.StatusCode)
}

// final errors are the same the next time.
func final(err error) bool {
	return errors.Is(err, egress.ErrRefused) || errors.Is(err, errDowngrade) || errors.Is(err, errScheme) || errors.Is(err, errRedirects) || untrusted(err)
}

// untrusted tells whether the server's certificate is the trouble.
func untrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate)
}

// withoutURL takes away the URL of the request, which a redirect may have given
// a signature.
func withoutURL(err error) error {
	var in *url.Error
	if errors.As(err, &in) {
		return in.Err
	}
	return err
}

// retryAfter reads how long the server asks to wait, in seconds or as a date.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

func newRetries() *rate.Limiter { return rate.NewLimiter(retriesPerSecond, retriesAtOnce) }
