package alluxioruntime

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/cacheruntime"
	"github.com/millrace/millrace/controllers/engine"
)

// Options of the class's components that fields of an AlluxioRuntime become;
// cmd/alluxio reads them.
const (
	optionJava        = "java.options"
	optionJobJava     = "job.java.options"
	propertyMount     = "alluxio.fuse.mount.options"
	argumentMount     = "--fuse-opts="
	mountOptions      = "ro,allow_other"
	hintCredentials   = " (give credentials as encryptOptions of the Dataset's mounts)"
	hintLoadsReplicas = " (name replicas in the target of a DataLoad)"
	hintImage         = " (the image is that of CacheRuntimeClass " + contract.EngineAlluxio + ")"
)

// wantsReal tells whether a runtime is to be a real Alluxio.
func wantsReal(rt *datav1alpha1.AlluxioRuntime) bool {
	return rt.Annotations[contract.AnnotationEngine] == contract.EngineAlluxio
}

// describeReal turns a runtime into the words of the class of a real Alluxio.
func (k *kind) describeReal(ctx context.Context, rt *datav1alpha1.AlluxioRuntime) (*engine.Description, error) {
	class := &datav1alpha1.CacheRuntimeClass{}
	err := k.classes.Get(ctx, types.NamespacedName{Name: contract.EngineAlluxio}, class)
	if apierrors.IsNotFound(err) {
		return nil, &engine.Problem{Reason: engine.ReasonClassNotFound, Message: fmt.Sprintf(
			"annotation %s asks for a real Alluxio, and there is no CacheRuntimeClass %s: install it with the chart's value classes.alluxio.enabled=true, or leave the annotation out",
			contract.AnnotationEngine, contract.EngineAlluxio)}
	} else if err != nil {
		return nil, fmt.Errorf("read class %s: %w", contract.EngineAlluxio, err)
	}
	levels, problem := tiers(rt.Spec.TieredStore.Levels)
	if problem != nil {
		return nil, problem
	}
	d := cacheruntime.Describe(asCacheRuntime(rt), class, cacheruntime.Options{
		Options: k.options.Options, NativeImage: k.options.NativeImage, PullPolicy: k.options.PullPolicy,
	})
	d.Worker.Tiers = levels
	spec := &rt.Spec
	for _, more := range []struct {
		component *engine.Component
		option    string
		words     []string
	}{
		{&d.Master, optionJava, slices.Concat(spec.JvmOptions, spec.Master.JvmOptions)},
		{&d.Worker, optionJava, slices.Concat(spec.JvmOptions, spec.Worker.JvmOptions)},
		{&d.Client, optionJava, slices.Concat(spec.JvmOptions, spec.Fuse.JvmOptions)},
		{&d.Master, optionJobJava, spec.JobMaster.JvmOptions},
		{&d.Worker, optionJobJava, spec.JobWorker.JvmOptions},
	} {
		if len(more.words) > 0 { // of two that say the same, Java takes the last
			words := append(strings.Fields(more.component.Options[more.option]), more.words...)
			more.component.Options = over(more.component.Options, map[string]string{more.option: strings.Join(words, " ")})
		}
	}
	return d, nil
}

// asCacheRuntime is the CacheRuntime that says the same, but for the tiers.
func asCacheRuntime(rt *datav1alpha1.AlluxioRuntime) *datav1alpha1.CacheRuntime {
	spec := &rt.Spec
	out := &datav1alpha1.CacheRuntime{ObjectMeta: metav1.ObjectMeta{Namespace: rt.Namespace, Name: rt.Name}}
	out.Spec = datav1alpha1.CacheRuntimeSpec{
		RuntimeClassName: contract.EngineAlluxio, Options: withoutCredentials(spec.Properties), PodMetadata: spec.PodMetadata, Volumes: spec.Volumes,
		ImagePullSecrets: slices.Concat(spec.ImagePullSecrets, spec.Master.ImagePullSecrets, spec.Worker.ImagePullSecrets, spec.Fuse.ImagePullSecrets),
	}
	out.Spec.Master.RuntimeComponentSpec, out.Spec.Master.Replicas = asComponent(&spec.Master), 1
	out.Spec.Worker.RuntimeComponentSpec, out.Spec.Worker.Replicas = asComponent(&spec.Worker), spec.Replicas
	fuse := spec.Fuse
	out.Spec.Client.RuntimeComponentSpec = asComponent(&datav1alpha1.AlluxioCompTemplateSpec{
		Properties: fuse.Properties, Resources: fuse.Resources, Env: fuse.Env, NodeSelector: fuse.NodeSelector,
		VolumeMounts: fuse.VolumeMounts, PodMetadata: fuse.PodMetadata,
	})
	out.Spec.Client.CleanPolicy = fuse.CleanPolicy
	if options := mountArguments(fuse.Args); options != "" {
		out.Spec.Client.Options = over(map[string]string{propertyMount: options}, out.Spec.Client.Options)
	}
	return out
}

func asComponent(c *datav1alpha1.AlluxioCompTemplateSpec) datav1alpha1.RuntimeComponentSpec {
	out := datav1alpha1.RuntimeComponentSpec{
		Options: withoutCredentials(c.Properties), PodMetadata: c.PodMetadata, Resources: c.Resources, VolumeMounts: c.VolumeMounts,
		NodeSelector: c.NodeSelector, Tolerations: c.Tolerations,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		out.Env = append(out.Env, corev1.EnvVar{Name: name, Value: c.Env[name]})
	}
	return out
}

// mountArguments takes the options of the mount out of Fluid's arguments, such
// as fuse --fuse-opts=kernel_cache,ro. Pods of all users read, and none writes.
func mountArguments(args []string) string {
	for _, arg := range args {
		options, ok := strings.CutPrefix(arg, argumentMount)
		if !ok {
			continue
		}
		out := mountOptions
		for option := range strings.SplitSeq(options, ",") {
			if option = strings.TrimSpace(option); option != "" && !slices.Contains([]string{"rw", "ro", "allow_other"}, option) {
				out += "," + option
			}
		}
		return out
	}
	return ""
}

// credentialWords are what the names of properties have that hold credentials.
var credentialWords = []string{"secret", "accesskey", "access.key", "account.key", "password", "token", "credential"}

func holdsCredential(property string) bool {
	property = strings.ToLower(property)
	return slices.ContainsFunc(credentialWords, func(word string) bool { return strings.Contains(property, word) })
}

// withoutCredentials leaves out what would come to lie in a ConfigMap.
func withoutCredentials(properties map[string]string) map[string]string {
	out := maps.Clone(properties)
	maps.DeleteFunc(out, func(name, _ string) bool { return holdsCredential(name) })
	return out
}

// servedByReal are the fields that do something in a real Alluxio.
var servedByReal = func() map[string]bool {
	out := maps.Clone(served)
	for _, field := range []string{"hadoopConfig", "data.replicas"} {
		delete(out, field)
	}
	for _, field := range []string{
		"jvmOptions", "master.jvmOptions", "worker.jvmOptions", "fuse.jvmOptions", "jobMaster.jvmOptions", "jobWorker.jvmOptions",
		"master.properties", "worker.properties", "fuse.properties", "fuse.args",
		"jobMaster.enabled", "jobWorker.enabled",
	} {
		out[field] = true
	}
	return out
}()

// notServedByReal names the fields that are set and that a real Alluxio is run without.
func notServedByReal(spec *datav1alpha1.AlluxioRuntimeSpec) []string {
	parts := maps.Clone(whole)
	delete(parts, "jobMaster")
	delete(parts, "jobWorker")
	out := unservedFields(spec, servedByReal, parts)
	for i, field := range out {
		switch field {
		case "spec.data.replicas":
			out[i] += hintLoadsReplicas
		case "spec.alluxioVersion", "spec.fuse.image", "spec.fuse.imageTag":
			out[i] += hintImage
		}
	}
	for _, arg := range spec.Fuse.Args {
		if arg != "fuse" && !strings.HasPrefix(arg, argumentMount) {
			out = append(out, "spec.fuse.args "+arg)
		}
	}
	for field, properties := range map[string]map[string]string{
		"spec.properties": spec.Properties, "spec.master.properties": spec.Master.Properties,
		"spec.worker.properties": spec.Worker.Properties, "spec.fuse.properties": spec.Fuse.Properties,
	} {
		for name := range properties {
			if holdsCredential(name) {
				out = append(out, field+"["+name+"]"+hintCredentials)
			}
		}
	}
	return append(out, limits(spec)...)
}

// notAnEngine refuses a name of the annotation that nobody knows.
func notAnEngine(rt *datav1alpha1.AlluxioRuntime) *engine.Problem {
	switch rt.Annotations[contract.AnnotationEngine] {
	case "", contract.NativeClass, contract.EngineAlluxio:
		return nil
	default:
		return &engine.Problem{Reason: engine.ReasonInvalid, Message: fmt.Sprintf(
			"annotation %s names no engine: leave it out for Millrace's own, or write %s for a real Alluxio", contract.AnnotationEngine, contract.EngineAlluxio)}
	}
}

// runtimesOfClass are those that a real Alluxio serves.
func (k *kind) runtimesOfClass(ctx context.Context, class client.Object) []reconcile.Request {
	if class.GetName() != contract.EngineAlluxio {
		return nil
	}
	list := &datav1alpha1.AlluxioRuntimeList{}
	if err := k.classes.List(ctx, list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list runtimes of class", "class", class.GetName())
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if wantsReal(&list.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}
