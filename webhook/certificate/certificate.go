// Package certificate serves a webhook with a certificate that is made, kept in
// a Secret and rotated by cert-controller. The Secret's content goes to the
// server's directory as soon as it is written: a Secret that is mounted as a
// volume would follow up to a minute later.
package certificate

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
)

// Options of a webhook's certificate.
type Options struct {
	// Namespace of Service and Secret.
	Namespace, Service, Secret string
	// Dir is where the webhook server reads tls.crt and tls.key.
	Dir string
	// Configuration is the MutatingWebhookConfiguration that is told the authority.
	Configuration string
}

const (
	certName = "tls.crt"
	keyName  = "tls.key"
	yearlong = 365 * 24 * time.Hour
)

// Serve registers a webhook on the manager's server once the certificate is
// there, and a readyz check that passes when it is served.
func Serve(mgr ctrl.Manager, o Options, path string, hook http.Handler) error {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make certificate directory: %w", err)
	}
	copier, err := newCopier(mgr, o)
	if err != nil {
		return err
	}
	ready := make(chan struct{})
	host := o.Service + "." + o.Namespace + ".svc"
	if err := rotator.AddRotator(mgr, &rotator.CertRotator{
		SecretKey: types.NamespacedName{Namespace: o.Namespace, Name: o.Secret},
		CertDir:   o.Dir, CertName: certName, KeyName: keyName,
		CAName: "millrace-webhook", CAOrganization: "millrace",
		DNSName: host, ExtraDNSNames: []string{host + ".cluster.local"},
		IsReady:        ready,
		CaCertDuration: 10 * yearlong, ServerCertDuration: yearlong, LookaheadInterval: yearlong / 4,
		Webhooks:   []rotator.WebhookInfo{{Name: o.Configuration, Type: rotator.Mutating}},
		FieldOwner: "webhook-certificate",
	}); err != nil {
		return fmt.Errorf("set up certificate rotation: %w", err)
	}
	s := &server{mgr: mgr, ready: ready, path: path, hook: hook, serving: make(chan webhook.Server, 1)}
	if err := mgr.AddReadyzCheck("webhook", s.check); err != nil {
		return err
	}
	return errors.Join(mgr.Add(copier), mgr.Add(s))
}

// server starts the manager's webhook server when the certificate is ready.
type server struct {
	mgr     ctrl.Manager
	ready   <-chan struct{}
	path    string
	hook    http.Handler
	serving chan webhook.Server // holds the server once it is registered
}

// NeedLeaderElection is false: every replica serves.
func (s *server) NeedLeaderElection() bool { return false }

func (s *server) Start(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.ready:
	}
	// The manager starts its server when it is first asked for it.
	srv := s.mgr.GetWebhookServer()
	srv.Register(s.path, s.hook)
	s.serving <- srv
	<-ctx.Done()
	return nil
}

func (s *server) check(req *http.Request) error {
	select {
	case srv := <-s.serving:
		s.serving <- srv
		return srv.StartedChecker()(req)
	default:
		return errors.New("the webhook waits for its certificate")
	}
}

// copier writes the Secret's certificate into the server's directory whenever
// it changes.
type copier struct {
	cache cache.Cache
	dir   string
	log   logr.Logger
}

func newCopier(mgr ctrl.Manager, o Options) (*copier, error) {
	c, err := cache.New(mgr.GetConfig(), cache.Options{
		Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(),
		ByObject: map[client.Object]cache.ByObject{&corev1.Secret{}: {
			Namespaces: map[string]cache.Config{o.Namespace: {}},
			Field:      fields.OneTermEqualSelector("metadata.name", o.Secret),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("watch Secret %s: %w", o.Secret, err)
	}
	return &copier{cache: c, dir: o.Dir, log: mgr.GetLogger().WithName("certificate")}, nil
}

// NeedLeaderElection is false: every replica has its own directory.
func (c *copier) NeedLeaderElection() bool { return false }

func (c *copier) Start(ctx context.Context) error {
	informer, err := c.cache.GetInformer(ctx, &corev1.Secret{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch the webhook's Secret: %w", err)
	}
	if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    c.copy,
		UpdateFunc: func(_, obj any) { c.copy(obj) },
	}); err != nil {
		return fmt.Errorf("watch the webhook's Secret: %w", err)
	}
	return c.cache.Start(ctx)
}

func (c *copier) copy(obj any) {
	secret, ok := obj.(*corev1.Secret)
	if !ok || len(secret.Data[certName]) == 0 || len(secret.Data[keyName]) == 0 {
		return
	}
	// The server takes a pair that matches; between the two it keeps the old one.
	if err := errors.Join(c.write(keyName, secret.Data[keyName]), c.write(certName, secret.Data[certName])); err != nil {
		c.log.Error(err, "write the webhook's certificate")
	}
}

func (c *copier) write(name string, data []byte) error {
	tmp := filepath.Join(c.dir, "."+name)
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(c.dir, name))
}
