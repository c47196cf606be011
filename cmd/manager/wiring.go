package main

import (
	"context"
	"fmt"
	"net/http"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	cachev1alpha1 "github.com/millrace/millrace/apis/cache/v1alpha1"
	configv1alpha1 "github.com/millrace/millrace/apis/config/v1alpha1"
	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/alluxioruntime"
	"github.com/millrace/millrace/controllers/cacheruntime"
	"github.com/millrace/millrace/controllers/dataload"
	"github.com/millrace/millrace/controllers/datamigrate"
	"github.com/millrace/millrace/controllers/dataprocess"
	"github.com/millrace/millrace/controllers/dataset"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/locality"
	"github.com/millrace/millrace/controllers/nodelabel"
	"github.com/millrace/millrace/controllers/notsupported"
	"github.com/millrace/millrace/controllers/operation"
	"github.com/millrace/millrace/webhook/podinject"
)

func newManager(config *rest.Config, f *flags) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, datav1alpha1.AddToScheme, cachev1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	cached, err := cacheOptions()
	if err != nil {
		return nil, err
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         cached,
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Metrics:                       metricsserver.Options{BindAddress: f.metricsAddress},
		HealthProbeBindAddress:        f.healthAddress,
		PprofBindAddress:              f.pprof,
		LeaderElection:                f.leaderElect,
		LeaderElectionID:              "millrace-manager",
		LeaderElectionNamespace:       f.namespace,
		LeaderElectionReleaseOnCancel: true,
		WebhookServer:                 webhook.NewServer(webhook.Options{Port: contract.WebhookPort, CertDir: f.certificateDir}),
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("add health check: %w", err)
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("add readiness check: %w", err)
	}
	return mgr, nil
}

// cacheOptions keep only what belongs to Millrace of the kinds that everybody
// has many of, and leave out what nobody reads.
func cacheOptions() (cache.Options, error) {
	ours, err := labels.NewRequirement(contract.LabelCacheRuntime, selection.Exists, nil)
	if err != nil {
		return cache.Options{}, fmt.Errorf("build selector: %w", err)
	}
	selector := labels.NewSelector().Add(*ours)
	return cache.Options{DefaultTransform: forgetFields, ByObject: map[client.Object]cache.ByObject{
		// Which labels of a node are ours is told by who manages which fields.
		&corev1.Node{}:        {Transform: func(obj any) (any, error) { return obj, nil }},
		&corev1.ConfigMap{}:   {Label: selector},
		&corev1.Service{}:     {Label: selector},
		&appsv1.StatefulSet{}: {Label: selector},
		&appsv1.DaemonSet{}:   {Label: selector},
		&corev1.Pod{}:         {Transform: slimPod},
	}}, nil
}

// forgetFields keeps who manages an object, and forgets which fields: they are
// a fifth of what an object takes.
func forgetFields(obj any) (any, error) {
	if object, ok := obj.(client.Object); ok {
		entries := object.GetManagedFields()
		for i := range entries {
			entries[i].FieldsV1 = nil
		}
	}
	return obj, nil
}

// slimPod keeps of a pod what somebody here reads: there are as many as the
// cluster has. Pods are written by patches of metadata alone.
func slimPod(obj any) (any, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return obj, nil
	}
	pod.ManagedFields = nil
	pod.Spec.Affinity, pod.Spec.Tolerations, pod.Spec.TopologySpreadConstraints = nil, nil, nil
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			containers[i] = corev1.Container{Name: containers[i].Name}
		}
	}
	return pod, nil
}

func addControllers(ctx context.Context, mgr ctrl.Manager, f *flags, decided *configv1alpha1.ManagerConfiguration, streams *http.Client) error {
	observer := engine.NewObserver(streams, mgr.GetLogger().WithName("observer"))
	metrics, err := engine.NewMetrics(ctrlmetrics.Registry)
	if err != nil {
		return err
	}
	if err := mgr.Add(observer); err != nil {
		return fmt.Errorf("add observer: %w", err)
	}
	if err := engine.AddIndexes(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	shared := engine.Options{MountRoot: f.mountRoot, MasterAddress: engine.MasterAddress, Egress: decided.Egress.Allow}
	pull := corev1.PullPolicy(f.pullPolicy)
	operations := operation.Options{Turns: operation.NewTurns()}
	for _, setup := range []func() error{
		func() error { return dataset.SetupWithManager(mgr, observer, f.mountRoot) },
		func() error { return nodelabel.SetupWithManager(ctx, mgr) },
		func() error {
			return cacheruntime.SetupWithManager(mgr, observer, metrics, cacheruntime.Options{Options: shared, NativeImage: f.nativeImage, PullPolicy: pull})
		},
		func() error {
			return alluxioruntime.SetupWithManager(mgr, observer, metrics, alluxioruntime.Options{Options: shared, NativeImage: f.nativeImage, PullPolicy: pull})
		},
		func() error {
			return dataload.SetupWithManager(mgr, observer, dataload.Options{Options: operations, NativeImage: f.nativeImage, PullPolicy: pull})
		},
		func() error { return dataload.SetupCanceller(mgr, observer) },
		func() error {
			return datamigrate.SetupWithManager(mgr, observer, datamigrate.Options{
				Options: operations, NativeImage: f.nativeImage, PullPolicy: pull, Egress: decided.Egress.Allow,
			})
		},
		func() error { return dataprocess.SetupWithManager(mgr, observer, operations) },
		func() error { return locality.SetupWithManager(mgr, observer) },
		func() error { return notsupported.SetupWithManager(mgr) },
	} {
		if err := setup(); err != nil {
			return err
		}
	}
	if !f.webhook {
		return nil
	}
	return podinject.SetupWithManager(mgr, podinject.Options{
		MountRoot: f.mountRoot, Namespace: f.namespace, Secret: f.webhookSecret, CertDir: f.certificateDir,
	})
}
