package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/millrace/millrace/runtime/source"
)

// Options under which users of Fluid, Alluxio, Hadoop and the SDKs write the
// same thing; the first that is set wins.
var (
	optEndpoint = []string{"endpoint", "alluxio.underfs.s3.endpoint", "s3.endpoint", "fs.s3a.endpoint", "fs.oss.endpoint", "fs.obs.endpoint",
		"fs.tos.endpoint", "fs.cosn.bucket.endpoint", "fs.cos.endpoint", "fs.gcs.endpoint", "minio.endpoint", "url"}
	optRegion = []string{"region", "alluxio.underfs.s3.region", "s3.region", "alluxio.underfs.s3.endpoint.region", "fs.s3a.endpoint.region", "fs.cosn.bucket.region",
		"fs.cos.region", "fs.oss.region", "fs.tos.region"}
	optPathStyle = []string{"path-style", "alluxio.underfs.s3.disable.dns.buckets", "fs.s3a.path.style.access"}
	optAccessKey = []string{"aws.accessKeyId", "access-key", "fs.s3a.access.key", "s3a.accessKeyId", "fs.oss.accessKeyId", "fs.obs.access.key", "fs.obs.accessKey",
		"fs.tos.access-key-id", "fs.tos.accessKeyId", "fs.cosn.userinfo.secretId", "fs.cos.access.key", "fs.gcs.accessKeyId", "accessKeyId", "AWS_ACCESS_KEY_ID"}
	optSecretKey = []string{"aws.secretKey", "secret-key", "fs.s3a.secret.key", "s3a.accessKeySecret", "s3a.secretKey", "fs.oss.accessKeySecret", "fs.obs.secret.key", "fs.obs.secretKey",
		"fs.tos.secret-access-key", "fs.tos.secretAccessKey", "fs.cosn.userinfo.secretKey", "fs.cos.secret.key", "fs.gcs.secretAccessKey", "secretKey", "aws.secretAccessKey", "AWS_SECRET_ACCESS_KEY"}
	optToken     = []string{"aws.sessionToken", "session-token", "fs.s3a.session.token", "fs.oss.securityToken", "fs.tos.session-token", "AWS_SESSION_TOKEN"}
	optTimeout   = []string{"socket-timeout", "alluxio.underfs.s3.socket.timeout"}
	optSecure    = []string{"secure", "alluxio.underfs.s3.secure.http.enabled", "fs.s3a.connection.ssl.enabled"}
	optProxy     = []string{"proxy"}
	optProxyHost = []string{"alluxio.underfs.s3.proxy.host", "fs.s3a.proxy.host"}
	optProxyPort = []string{"alluxio.underfs.s3.proxy.port", "fs.s3a.proxy.port"}
	optCA        = []string{"ca"}
	optAnonymous = []string{"anonymous"}
	optRequester = []string{"requester-pays", "fs.s3a.requester.pays.enabled"}
	optRole      = []string{"role-arn", "fs.s3a.assumed.role.arn"}
	optSession   = []string{"role-session-name", "fs.s3a.assumed.role.session.name"}
	optExternal  = []string{"external-id"}
	optSTS       = []string{"sts-endpoint", "fs.s3a.assumed.role.sts.endpoint"}
)

// optHeader begins the name of an option that is a header of every request.
const optHeader = "header."

const (
	// defaultTimeout is how long a server may be silent.
	defaultTimeout = 30 * time.Second
	// attempts of a request, within the budget of the SDK's retry tokens.
	attempts = 4
	// maxBackoff between them.
	maxBackoff = 2 * time.Second
	// connections that are kept while nobody uses them: as many as read at once.
	idleConnections = 128
	// socketBytes is read from a connection at once.
	socketBytes = 64 << 10
)

// amazon's schemes have an endpoint of their own, and so have these stores.
var (
	amazon    = []string{"s3", "s3a", "s3n"}
	endpoints = map[string]func(region string) string{
		"gs":   func(string) string { return "https://storage.googleapis.com" },
		"cos":  tencent,
		"cosn": tencent,
	}
)

func tencent(region string) string {
	if region == "" {
		return ""
	}
	return "https://cos." + region + ".myqcloud.com"
}

// options reads the options of one mount.
type options struct {
	source.Config
	err error
}

// get gives the first option of a list that is set.
func (o *options) get(names []string) string {
	_, v := o.find(names)
	return v
}

func (o *options) find(names []string) (name, value string) {
	for _, name := range names {
		// Values that come from files often end in a line feed.
		if v := strings.TrimSpace(o.EncryptOptions[name]); v != "" {
			return name, v
		}
		if v := strings.TrimSpace(o.Options[name]); v != "" {
			return name, v
		}
	}
	return "", ""
}

// refuse remembers the first option that makes no sense.
func (o *options) refuse(option, why string) {
	if o.err == nil {
		o.err = fmt.Errorf("open source %s: option %s %s: %w", o.MountPoint, option, why, source.ErrInvalid)
	}
}

func (o *options) yes(names []string, otherwise bool) bool {
	name, v := o.find(names)
	if v == "" {
		return otherwise
	}
	out, err := strconv.ParseBool(v)
	if err != nil {
		o.refuse(name, "is neither true nor false")
	}
	return out
}

func (o *options) timeout() time.Duration {
	name, v := o.find(optTimeout)
	if v == "" {
		return defaultTimeout
	}
	d, err := parseTimeout(v)
	if err != nil {
		o.refuse(name, "is no duration such as 30s")
	}
	return d
}

// parseTimeout reads 30s, Alluxio's 30sec, 5min, 500ms, and Hadoop's milliseconds.
func parseTimeout(v string) (time.Duration, error) {
	v = strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(v, " ", ""), "sec", "s"), "min", "m")
	d, err := time.ParseDuration(v)
	if ms, errNumber := strconv.ParseInt(v, 10, 32); errNumber == nil {
		d, err = time.Duration(ms)*time.Millisecond, nil
	}
	if err == nil && d <= 0 {
		err = errors.New("not positive")
	}
	return d, err
}

// endpoint is where the store is; empty for Amazon's own.
func (o *options) endpoint(scheme string) *url.URL {
	name, v := o.find(optEndpoint)
	if v == "" && endpoints[scheme] != nil {
		v = endpoints[scheme](o.get(optRegion))
	}
	if v == "" {
		if !slices.Contains(amazon, scheme) {
			o.refuse("endpoint", "is missing: set it to the address of the store")
		}
		return nil
	}
	if !strings.Contains(v, "://") {
		if o.yes(optSecure, true) {
			v = "https://" + v
		} else {
			v = "http://" + v
		}
	}
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		o.refuse(name, "is no URL such as https://host:port")
		return nil
	}
	if u.User != nil {
		o.refuse(name, "has a user: give access-key and secret-key as encryptOptions")
		return nil
	}
	if err := o.Egress.CheckHost(u.Hostname()); err != nil && o.err == nil {
		o.err = fmt.Errorf("open source %s: option endpoint: %w: %w", o.MountPoint, source.ErrDenied, err)
	}
	return u
}

// pathStyle tells whether the bucket goes into the path. Addresses have no
// names below them, and servers of one's own seldom have a wildcard in DNS.
func (o *options) pathStyle(scheme string, endpoint *url.URL) bool {
	otherwise := scheme == "minio"
	if endpoint != nil {
		_, err := netip.ParseAddr(endpoint.Hostname())
		otherwise = otherwise || err == nil || endpoint.Hostname() == "localhost"
	}
	return o.yes(optPathStyle, otherwise)
}

// proxy is none unless one is asked for: what the environment says is meant for
// others.
func (o *options) proxy() func(*http.Request) (*url.URL, error) {
	name, v := o.find(optProxy)
	if v == "" {
		var host string
		if name, host = o.find(optProxyHost); host == "" {
			return nil
		}
		port := o.get(optProxyPort)
		if port == "" {
			port = "80"
		}
		v = "http://" + net.JoinHostPort(host, port)
	}
	u, err := url.Parse(v)
	if err != nil || u.Host == "" {
		o.refuse(name, "is no URL such as http://host:port")
		return nil
	}
	return http.ProxyURL(u)
}

// authorities are the system's and those of the option ca: PEM, or a file of it.
func (o *options) authorities() *x509.CertPool {
	v := o.get(optCA)
	if v == "" {
		return nil
	}
	pem := []byte(v)
	if !strings.HasPrefix(v, "-----BEGIN") {
		var err error
		if pem, err = os.ReadFile(v); err != nil {
			o.refuse("ca", "is neither a certificate in PEM nor a file that can be read")
			return nil
		}
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		o.refuse("ca", "has no certificate in PEM")
	}
	return pool
}

// headers are sent, and signed, with every request.
func (o *options) headers() http.Header {
	h := http.Header{}
	for _, all := range []map[string]string{o.Options, o.EncryptOptions} {
		for name, v := range all {
			if header, ok := strings.CutPrefix(name, optHeader); ok {
				if header == "" || strings.ContainsAny(header, " :\r\n") || strings.ContainsAny(v, "\r\n") {
					o.refuse(name, "is no header")
					continue
				}
				h.Set(header, v)
			}
		}
	}
	return h
}

// transport has a pool for many reads at once. HTTP/1.1: one connection a read
// is faster than many reads in one connection.
func (o *options) transport(timeout time.Duration) *http.Transport {
	dial := o.Egress.DialContext
	return &http.Transport{
		DialContext:           dial,
		Proxy:                 o.proxy(),
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.authorities()},
		TLSHandshakeTimeout:   min(10*time.Second, timeout),
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		ResponseHeaderTimeout: timeout,
		ExpectContinueTimeout: time.Second,
		MaxIdleConns:          idleConnections,
		MaxIdleConnsPerHost:   idleConnections,
		IdleConnTimeout:       90 * time.Second,
		ReadBufferSize:        socketBytes,
		DisableCompression:    true,
	}
}

// retryer slows down when the server says so (SlowDown), and tries again a
// request that failed, as long as its tokens last: not every one, where all fail.
func retryer() aws.Retryer {
	return retry.NewAdaptiveMode(func(o *retry.AdaptiveModeOptions) {
		o.StandardOptions = append(o.StandardOptions, func(o *retry.StandardOptions) {
			o.MaxAttempts, o.MaxBackoff = attempts, maxBackoff
		})
	})
}

// config is the SDK's, with the credentials of the options or else those of the
// process: environment, web identity, shared files, agents.
func (o *options) config(ctx context.Context, transport *http.Transport) (aws.Config, error) {
	// The services that give credentials (STS, the metadata of the machine, the
	// agent of the container) are held to the same rule.
	agent := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.ControlContext = o.Egress.Control }).
		WithTransportOptions(func(t *http.Transport) {
			t.Proxy, t.TLSClientConfig.RootCAs = transport.Proxy, transport.TLSClientConfig.RootCAs
			t.DisableKeepAlives = true // a question an hour
		})
	region := o.get(optRegion)
	if region == "" && os.Getenv("AWS_REGION") == "" && os.Getenv("AWS_DEFAULT_REGION") == "" {
		region = "us-east-1"
	}
	load := []func(*config.LoadOptions) error{
		config.WithRetryer(retryer),
		config.WithHTTPClient(agent),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = agent }),
	}
	if region != "" {
		load = append(load, config.WithRegion(region))
	}
	id, secret := o.get(optAccessKey), o.get(optSecretKey)
	switch {
	case o.yes(optAnonymous, false):
		if id != "" || secret != "" {
			o.refuse("anonymous", "is set together with keys: leave out one of them")
		}
		load = append(load, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	case id != "" && secret != "":
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(id, secret, o.get(optToken))))
	case id != "" || secret != "":
		o.refuse("access-key", "and secret-key belong together, and one of them is missing")
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return cfg, fmt.Errorf("open source %s: %w: %w", o.MountPoint, source.ErrInvalid, err)
	}
	if role := o.get(optRole); role != "" {
		client := sts.NewFromConfig(cfg, func(so *sts.Options) {
			if v := o.get(optSTS); v != "" {
				so.BaseEndpoint = &v
			}
		})
		cfg.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(client, role, func(ro *stscreds.AssumeRoleOptions) {
			ro.RoleSessionName = "millrace"
			if v := o.get(optSession); v != "" {
				ro.RoleSessionName = v
			}
			if v := o.get(optExternal); v != "" {
				ro.ExternalID = &v
			}
		}))
	}
	return cfg, nil
}

// withHeaders adds headers before a request is signed.
func withHeaders(h http.Header) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Build.Add(middleware.BuildMiddlewareFunc("millrace headers", func(ctx context.Context, in middleware.BuildInput, next middleware.BuildHandler) (middleware.BuildOutput, middleware.Metadata, error) {
			if r, ok := in.Request.(*smithyhttp.Request); ok {
				for name, values := range h {
					r.Header[name] = values
				}
			}
			return next.HandleBuild(ctx, in)
		}), middleware.After)
	}
}

// Open makes a client; it does not speak to the server yet.
func Open(ctx context.Context, c source.Config) (*Store, error) {
	// Not a URL: a prefix may have any character, also % and ?.
	scheme, rest, _ := strings.Cut(c.MountPoint, "://")
	bucket, prefix, _ := strings.Cut(rest, "/")
	if bucket == "" {
		return nil, fmt.Errorf("open source %s: write it as %s://bucket/prefix: %w", c.MountPoint, scheme, source.ErrInvalid)
	}
	o := &options{Config: c}
	timeout := o.timeout()
	endpoint := o.endpoint(scheme)
	pathStyle := o.pathStyle(scheme, endpoint)
	headers := o.headers()
	requesterPays := o.yes(optRequester, false)
	transport := o.transport(timeout)
	if o.err != nil {
		return nil, o.err
	}
	cfg, err := o.config(ctx, transport)
	if err = errors.Join(err, o.err); err != nil {
		return nil, err
	}
	client := s3.NewFromConfig(cfg, func(so *s3.Options) {
		so.HTTPClient = &http.Client{Transport: transport}
		if endpoint != nil {
			so.BaseEndpoint = aws.String(endpoint.String())
		}
		so.UsePathStyle = pathStyle
		// Ranges cannot be checked against whole-object checksums; servers of
		// others do not all know the header.
		so.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		so.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		so.DisableLogOutputChecksumValidationSkipped = true
		if len(headers) > 0 {
			so.APIOptions = append(so.APIOptions, withHeaders(headers))
		}
	})
	if prefix = strings.Trim(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	s := &Store{client: client, transport: transport, timeout: timeout, bucket: bucket, prefix: prefix, name: strings.TrimRight(c.MountPoint, "/")}
	if requesterPays {
		s.payer = "requester"
	}
	return s, nil
}
