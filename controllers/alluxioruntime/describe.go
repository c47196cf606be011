package alluxioruntime

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

// describe turns a runtime into the engine's words.
func describe(rt *datav1alpha1.AlluxioRuntime, o Options) (*engine.Description, error) {
	spec := &rt.Spec
	levels, problem := tiers(spec.TieredStore.Levels)
	if problem != nil {
		return nil, problem
	}
	d := &engine.Description{
		Volumes: spec.Volumes, HadoopConfig: spec.HadoopConfig,
		ImagePullSecrets: slices.Concat(spec.ImagePullSecrets, spec.Master.ImagePullSecrets,
			spec.Worker.ImagePullSecrets, spec.Fuse.ImagePullSecrets),
		Master: component(spec, &spec.Master, o),
		Worker: component(spec, &spec.Worker, o),
		Client: component(spec, &datav1alpha1.AlluxioCompTemplateSpec{
			Resources: spec.Fuse.Resources, Env: spec.Fuse.Env, NodeSelector: spec.Fuse.NodeSelector,
			VolumeMounts: spec.Fuse.VolumeMounts, PodMetadata: spec.Fuse.PodMetadata,
		}, o),
	}
	d.CleanPolicy = spec.Fuse.CleanPolicy
	d.Master.Replicas = 1
	d.Worker.Replicas = spec.Replicas
	d.Worker.Tiers = levels
	options, sources, _ := translate(spec.Properties)
	if spec.Data.Replicas > 0 {
		options[contract.OptionReplicas] = strconv.Itoa(int(spec.Data.Replicas))
	}
	d.Master.Options, d.Worker.Options, d.Client.Options = options, options, options
	d.SourceOptions = sources
	return d, nil
}

func component(spec *datav1alpha1.AlluxioRuntimeSpec, c *datav1alpha1.AlluxioCompTemplateSpec, options Options) engine.Component {
	out := engine.Component{
		Image: options.NativeImage, PullPolicy: options.PullPolicy,
		Labels:      over(spec.PodMetadata.Labels, c.PodMetadata.Labels),
		Annotations: over(spec.PodMetadata.Annotations, c.PodMetadata.Annotations),
		Resources:   c.Resources, VolumeMounts: c.VolumeMounts, NodeSelector: c.NodeSelector, Tolerations: c.Tolerations,
	}
	for _, name := range slices.Sorted(maps.Keys(c.Env)) {
		out.Env = append(out.Env, corev1.EnvVar{Name: name, Value: c.Env[name]})
	}
	return out
}

// defaultMarks are where eviction starts and stops when nothing is said.
const defaultHigh, defaultLow = "0.95", "0.7"

func tiers(levels []datav1alpha1.Level) ([]engine.Tier, *engine.Problem) {
	var out []engine.Tier
	for i, level := range levels {
		paths := split(level.Path)
		if len(paths) == 0 {
			paths = []string{""}
		}
		quotas, problem := quotasOf(i, level, len(paths))
		if problem != nil {
			return nil, problem
		}
		tier := engine.Tier{Medium: string(level.MediumType), High: level.High, Low: level.Low}
		if tier.High == "" && tier.Low == "" {
			tier.High, tier.Low = defaultHigh, defaultLow
		}
		for j, p := range paths {
			tier.Dirs = append(tier.Dirs, tierDir(level, p, quotas[j]))
		}
		if tier.Dirs[0].HostPath == "" {
			tier.Dirs = []engine.TierDir{together(tier.Dirs)}
		}
		out = append(out, tier)
	}
	return out, nil
}

// tierDir: /dev/shm is memory of the worker itself, so that it is counted
// against the pod and goes with it; other paths are the node's.
func tierDir(level datav1alpha1.Level, dir string, quota int64) engine.TierDir {
	memory := level.MediumType == datav1alpha1.Memory
	switch {
	case memory && (dir == "" || path.Clean(dir) == contract.ProcessMemoryDir):
		return engine.TierDir{ProcessMemory: true, QuotaBytes: quota}
	case level.VolumeType == datav1alpha1.VolumeTypeEmptyDir || dir == "":
		return engine.TierDir{Memory: memory, QuotaBytes: quota}
	default:
		return engine.TierDir{HostPath: path.Clean(dir), QuotaBytes: quota}
	}
}

// together makes one emptyDir of several: they would lie on one disk anyway.
func together(dirs []engine.TierDir) engine.TierDir {
	one := dirs[0]
	for _, dir := range dirs[1:] {
		one.QuotaBytes += dir.QuotaBytes
	}
	return one
}

// quotasOf divides quota evenly over the paths, or takes one of quotaList each.
func quotasOf(i int, level datav1alpha1.Level, paths int) ([]int64, *engine.Problem) {
	if level.QuotaList != "" {
		texts := split(level.QuotaList)
		if len(texts) != paths {
			return nil, invalid("tieredstore level %d has %d paths and %d entries of quotaList: give one for each path", i, paths, len(texts))
		}
		var out []int64
		for _, text := range texts {
			q, err := resource.ParseQuantity(text)
			if err != nil {
				return nil, invalid("tieredstore level %d: quotaList entry %q is not a quantity: write it like 2Gi", i, text)
			}
			out = append(out, q.Value())
		}
		return out, nil
	}
	if level.Quota == nil {
		return nil, invalid("tieredstore level %d has no quota: give it a quantity such as 2Gi", i)
	}
	return slices.Repeat([]int64{level.Quota.Value() / int64(paths)}, paths), nil
}

func invalid(format string, args ...any) *engine.Problem {
	return &engine.Problem{Reason: engine.ReasonInvalid, Message: fmt.Sprintf(format, args...)}
}

func split(list string) []string {
	var out []string
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func over(layers ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, layer := range layers {
		maps.Copy(out, layer)
	}
	return out
}
