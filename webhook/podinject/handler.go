package podinject

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/webhook/certificate"
)

// Options of the webhook.
type Options struct {
	// MountRoot is the host directory below which FUSE is mounted.
	MountRoot string
	// Namespace of the webhook's Service and Secret.
	Namespace string
	// Secret holds the certificate.
	Secret string
	// CertDir is where the manager's webhook server reads its certificate.
	CertDir string
}

// SetupWithManager serves the webhook on the manager's webhook server, with a
// certificate that is kept valid. The readyz check "webhook" passes when pods
// can be sent.
func SetupWithManager(mgr ctrl.Manager, o Options) error {
	handler := &handler{
		cached: mgr.GetClient(), live: mgr.GetAPIReader(), decoder: admission.NewDecoder(mgr.GetScheme()), mountRoot: o.MountRoot,
	}
	// Informers that start with the first request would keep it waiting.
	for _, obj := range handler.reads() {
		if _, err := mgr.GetCache().GetInformer(context.Background(), obj); err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
	}
	return certificate.Serve(mgr, certificate.Options{
		Namespace: o.Namespace, Service: contract.WebhookConfig, Secret: o.Secret, Dir: o.CertDir, Configuration: contract.WebhookConfig,
	}, contract.WebhookPath, &admission.Webhook{Handler: handler})
}

// handler turns admission requests into Mutate and back.
type handler struct {
	cached    client.Reader
	live      client.Reader
	decoder   admission.Decoder
	mountRoot string
}

// Handle answers one request. What the cache says is enough to let a pod pass;
// before it is turned away, the API server itself is asked.
func (h *handler) Handle(ctx context.Context, req admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := h.decoder.Decode(req, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, fmt.Errorf("decode pod: %w", err))
	}
	suffix := utilrand.String(12)
	var mutated *corev1.Pod
	var refused *Rejection
	for _, reader := range []client.Reader{h.cached, h.live} {
		claims, err := gather(ctx, reader, pod, req.Namespace)
		if err != nil {
			return admission.Errored(http.StatusInternalServerError, err)
		}
		mutated, err = Mutate(pod, Facts{MountRoot: h.mountRoot, Suffix: suffix, Claims: claims})
		if err == nil {
			break
		}
		if !errors.As(err, &refused) {
			return admission.Errored(http.StatusInternalServerError, err)
		}
	}
	if mutated == nil {
		return admission.Denied(refused.Error()).WithWarnings(NotServed(pod)...)
	}
	raw, err := json.Marshal(mutated)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("encode pod: %w", err))
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, raw).WithWarnings(NotServed(pod)...)
}
