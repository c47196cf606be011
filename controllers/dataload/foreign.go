package dataload

import (
	"cmp"
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
	"github.com/millrace/millrace/controllers/internal/bytesize"
	"github.com/millrace/millrace/controllers/operation"
)

// foreign is what the class of an engine that is not ours says; nil of ours.
func (w *work) foreign(ctx context.Context, s *operation.Round) (*contract.EngineConfig, error) {
	config := &corev1.ConfigMap{}
	key := types.NamespacedName{Namespace: s.Dataset.Namespace, Name: contract.ConfigMapName(s.Dataset.Name)}
	if err := w.Get(ctx, key, config); err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	if config.Annotations[contract.AnnotationFileSystem] == "" {
		return nil, nil
	}
	return contract.DecodeEngineConfig([]byte(config.Data[contract.EngineConfigKey]))
}

// foreignJob runs the class's command with what Fluid gives to it.
func (w *work) foreignJob(ctx context.Context, s *operation.Round, config *contract.EngineConfig) (*batchv1.Job, error) {
	if config.DataLoad == nil {
		return nil, &operation.Problem{Reason: contract.EventDataOperationNotSupport, Hopeless: true, Message: fmt.Sprintf(
			"the engine of Dataset %s loads nothing: its CacheRuntimeClass has no DataLoad among its dataOperationSpecs", s.Dataset.Name)}
	}
	image, err := w.foreignImage(ctx, s)
	if err != nil {
		return nil, err
	}
	image.Image = cmp.Or(config.DataLoad.Image, image.Image)
	if image.Image == "" {
		return nil, &operation.Problem{Reason: contract.EventDataOperationWaiting, Message: fmt.Sprintf(
			"the pods of Dataset %s, whose image loads it, are not made yet", s.Dataset.Name)}
	}
	return foreignJob(loadOf(s), s.Token(), image, config.DataLoad, engine.SourcesOf(s.Dataset).Secrets), nil
}

// foreignImage is the one that the masters run or, without any, the clients.
func (w *work) foreignImage(ctx context.Context, s *operation.Round) (engineImage, error) {
	image, err := w.image(ctx, s)
	if err != nil || image.Image != w.options.NativeImage {
		return image, err
	}
	list := &appsv1.DaemonSetList{}
	if err := w.List(ctx, list, client.InNamespace(s.Dataset.Namespace), client.MatchingLabels{contract.LabelCacheRuntime: s.Dataset.Name}); err != nil {
		return engineImage{}, fmt.Errorf("list clients of dataset %s: %w", s.Dataset.Name, err)
	}
	for i := range list.Items {
		pod := list.Items[i].Spec.Template.Spec
		return engineImage{Image: pod.Containers[0].Image, PullPolicy: pod.Containers[0].ImagePullPolicy, PullSecrets: pod.ImagePullSecrets}, nil
	}
	return engineImage{}, nil
}

// foreignJob is the native one with the class's command, the sources' secrets,
// and nothing that an image of others may not be ready for.
func foreignJob(dl *datav1alpha1.DataLoad, loadID string, image engineImage, spec *contract.EngineOperation, secrets map[string][]string) *batchv1.Job {
	job := desiredJob(dl, loadID, image)
	// What its exit codes mean is not known.
	job.Spec.PodFailurePolicy.Rules = job.Spec.PodFailurePolicy.Rules[:1]
	pod := &job.Spec.Template.Spec
	pod.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: pod.SecurityContext.SeccompProfile}
	main := &pod.Containers[0]
	main.Command, main.Args = spec.Command, spec.Args
	main.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr.To(false)}
	sources := engine.Sources{Secrets: secrets}
	for i, name := range sources.SecretNames() {
		volume := fmt.Sprintf("secret-%d", i)
		source := &corev1.SecretVolumeSource{SecretName: name, DefaultMode: ptr.To[int32](0o444)}
		for _, key := range secrets[name] {
			source.Items = append(source.Items, corev1.KeyToPath{Key: key, Path: key})
		}
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Secret: source}})
		main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: contract.SecretPath(name, ""), ReadOnly: true})
	}
	return job
}

// foreignProgress is how much of the Dataset the engine says is cached: it does
// not tell of one load. Of a load of a part the whole is not known.
func foreignProgress(dl *datav1alpha1.DataLoad, summary *contract.Summary) *datav1alpha1.OperationProgress {
	said := summary.Engine
	if !said.Reported {
		return nil
	}
	p := &datav1alpha1.OperationProgress{BytesDone: summary.CachedBytes}
	if paths, _ := targets(dl); len(paths) != 1 || paths[0] != "/" {
		return p
	}
	p.Percent = said.CachedPercentage
	if !said.NoTotal {
		p.BytesTotal = summary.UFSTotalBytes
		p.Percent = cmp.Or(p.Percent, bytesize.Percent(summary.CachedBytes, summary.UFSTotalBytes, engine.Complete(summary)))
	}
	return p
}

// foreignDone says what is known when the engine's command has ended well.
func foreignDone(p *datav1alpha1.OperationProgress, took time.Duration) string {
	message := fmt.Sprintf("the engine's command ended well in %s", took)
	if p != nil {
		message += fmt.Sprintf("; the engine last told of %s in its cache", bytesize.Format(p.BytesDone))
	}
	return message
}
