package index

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
)

// retryAfter is how soon a list that failed is tried again. The scheduler may
// well run before Millrace is installed; then the kind does not exist yet.
const retryAfter = 2 * time.Second

// Reflect keeps the index equal to the API server's LocalitySlices until ctx
// ends. It starts at once and does not wait: until the first list has come, no
// Dataset has a Locality.
func (x *Index) Reflect(ctx context.Context, cfg *rest.Config) error {
	client, err := restClient(cfg)
	if err != nil {
		return fmt.Errorf("make client for LocalitySlices: %w", err)
	}
	lw := cache.NewListWatchFromClient(client, "localityslices", metav1.NamespaceAll, fields.Everything())
	reflector := cache.NewReflectorWithOptions(lw, &cachev1alpha1.LocalitySlice{}, x, cache.ReflectorOptions{Name: "localityslices"})
	go wait.JitterUntilWithContext(ctx, func(ctx context.Context) {
		if err := reflector.ListAndWatchWithContext(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).V(2).Info("Waiting for LocalitySlices", "err", err)
		}
	}, retryAfter, 0.2, true)
	return nil
}

func restClient(cfg *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := cachev1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	cfg = rest.CopyConfig(cfg)
	cfg.GroupVersion = &cachev1alpha1.GroupVersion
	cfg.APIPath = "/apis"
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(cfg)
}
