package engine_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/engine"
)

var update = flag.Bool("update", false, "write the golden files")

// bucketDataset reads a bucket by two keys of one Secret, a claim and a
// directory, with shared options below.
func bucketDataset() *datav1alpha1.Dataset {
	secret := func(option, key string) datav1alpha1.EncryptOption {
		return datav1alpha1.EncryptOption{Name: option, ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: "keys", Key: key}}}
	}
	return &datav1alpha1.Dataset{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "training", UID: "11111111-2222-3333-4444-555555555555", Generation: 3},
		Spec: datav1alpha1.DatasetSpec{
			SharedOptions:        map[string]string{"region": "eu", "aws.secretKey": "plain"},
			SharedEncryptOptions: []datav1alpha1.EncryptOption{secret("aws.accessKeyId", "access"), secret("token", "token")},
			Mounts: []datav1alpha1.Mount{
				{MountPoint: "s3://bucket/prefix", Name: "bucket", Path: "/", Options: map[string]string{"region": "us", "token": "said in the clear"},
					EncryptOptions: []datav1alpha1.EncryptOption{secret("aws.secretKey", "secret")}},
				{MountPoint: "pvc://claim/sub", Name: "claim", ReadOnly: true},
				{MountPoint: "local:///srv/data", Name: "local"},
				{MountPoint: "hdfs://nameservice/warehouse", Name: "warehouse", Options: map[string]string{contract.OptionHadoopConfig: "hadoop-site"}},
			},
		},
	}
}

func description(t contract.RuntimeType) *engine.Description {
	ds := bucketDataset()
	return &engine.Description{
		Type: t, Namespace: ds.Namespace, Name: ds.Name, APIVersion: "data.fluid.io/v1alpha1", Kind: "CacheRuntime",
		UID: "99999999-0000-0000-0000-000000000000", DatasetUID: ds.UID, DatasetGeneration: ds.Generation, MountRoot: "/runtime-mnt", Egress: []string{"127.0.0.0/8"},
		Sources: engine.SourcesOf(ds), Exclusive: true,
		WorkerNodes: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: "disk", Operator: corev1.NodeSelectorOpIn, Values: []string{"fast"}}}}}},
		WorkerTolerations: []corev1.Toleration{{Key: "cache", Operator: corev1.TolerationOpExists}},
		Volumes:           []corev1.Volume{{Name: "extra", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}, {Name: "unused"}},
		Master:            engine.Component{Replicas: 1, Image: "cache:dev", PullPolicy: corev1.PullIfNotPresent},
		Worker: engine.Component{
			Replicas: 2, Image: "cache:dev", PullPolicy: corev1.PullIfNotPresent,
			Options:      map[string]string{contract.OptionReplicas: "2"},
			Env:          []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: contract.EnvDatasetName, Value: "not ours"}, {Name: "A", Value: "2"}},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}},
			VolumeMounts: []corev1.VolumeMount{{Name: "extra", MountPath: "/extra"}},
			Tiers: []engine.Tier{
				{Medium: contract.TierMEM, High: "0.95", Low: "0.7", Dirs: []engine.TierDir{{ProcessMemory: true, QuotaBytes: 2 << 30}}},
				{Medium: contract.TierHDD, Dirs: []engine.TierDir{{HostPath: "/mnt/a", QuotaBytes: 4 << 30}, {HostPath: "/mnt/b/", QuotaBytes: 8 << 30}}},
				{Medium: contract.TierSSD, Dirs: []engine.TierDir{{QuotaBytes: 1 << 30}}},
			},
		},
		Client: engine.Component{
			Image: "cache:dev", NodeSelector: map[string]string{"fuse": "yes"}, Args: []string{"--verbose"},
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "client", Image: "of-the-class"}}}},
		},
	}
}

func TestObjectsOfARuntimeAreAsRecorded(t *testing.T) {
	for name, runtimeType := range map[string]contract.RuntimeType{"cache": contract.RuntimeCache, "alluxio": contract.RuntimeAlluxio} {
		d := description(runtimeType)
		objects, err := d.Objects()
		if err != nil {
			t.Fatal(err)
		}
		var all bytes.Buffer
		for _, obj := range objects {
			text, err := yaml.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString("---\n")
			all.Write(text)
		}
		golden(t, filepath.Join("testdata", name+".yaml"), all.Bytes())
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read golden file, go test -update writes it: %v", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

func TestScalingRestartsNoPod(t *testing.T) {
	template := func(replicas int32) string {
		d := description(contract.RuntimeCache)
		d.Worker.Replicas = replicas
		objects, err := d.Objects()
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		for _, obj := range objects {
			for _, part := range []any{obj.GetAnnotations(), templateOf(obj)} {
				text, err := yaml.Marshal(part)
				if err != nil {
					t.Fatal(err)
				}
				out.Write(text)
			}
		}
		return out.String()
	}
	if diff := cmp.Diff(template(2), template(5)); diff != "" {
		t.Errorf("scaling changed the pods (-2 +5):\n%s", diff)
	}
}

func TestSharedDatasetsStayOffExclusiveNodesOnly(t *testing.T) {
	d := description(contract.RuntimeCache)
	d.Exclusive = false
	objects, err := d.Objects()
	if err != nil {
		t.Fatal(err)
	}
	pod := templateOf(objects[5])
	terms := pod.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	want := []metav1.LabelSelectorRequirement{{Key: "fluid.io/dataset-placement", Operator: metav1.LabelSelectorOpIn, Values: []string{"Exclusive"}}}
	if diff := cmp.Diff(want, terms[1].LabelSelector.MatchExpressions); diff != "" {
		t.Error(diff)
	}
	if pod.Labels["fluid.io/dataset-placement"] != "Shared" {
		t.Errorf("placement label %q", pod.Labels["fluid.io/dataset-placement"])
	}
}

// Pain 10: an upgrade kills running mounts. A FUSE pod of another make waits
// until the one that pods read through is gone by itself.
func TestPain10AnUpgradeEndsNoMount(t *testing.T) {
	for _, d := range []*engine.Description{description(contract.RuntimeCache), description(contract.RuntimeAlluxio)} {
		objects, err := d.Objects()
		if err != nil {
			t.Fatal(err)
		}
		seen := false
		for _, obj := range objects {
			if set, ok := obj.(*appsv1.DaemonSet); ok {
				seen = true
				if set.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType {
					t.Errorf("FUSE pods of a %s runtime are updated by %q", d.Type, set.Spec.UpdateStrategy.Type)
				}
			}
		}
		if !seen {
			t.Errorf("a %s runtime has no FUSE pods", d.Type)
		}
	}
}

// Pain 12: host-network port conflicts. The pods of two runtimes that are sent
// to one node want no port of it, unless somebody asks for its network.
func TestPain12NoPodTakesAPortOfItsNode(t *testing.T) {
	for _, d := range []*engine.Description{description(contract.RuntimeCache), description(contract.RuntimeAlluxio)} {
		objects, err := d.Objects()
		if err != nil {
			t.Fatal(err)
		}
		templates := 0
		for _, obj := range objects {
			var spec corev1.PodSpec
			switch set := obj.(type) {
			case *appsv1.StatefulSet:
				spec = set.Spec.Template.Spec
			case *appsv1.DaemonSet:
				spec = set.Spec.Template.Spec
			default:
				continue
			}
			templates++
			if spec.HostNetwork {
				t.Errorf("%s uses the network of its node", obj.GetName())
			}
			for _, c := range append(spec.InitContainers, spec.Containers...) {
				for _, port := range c.Ports {
					if port.HostPort != 0 {
						t.Errorf("%s takes port %d of its node", obj.GetName(), port.HostPort)
					}
				}
			}
		}
		if templates != 3 {
			t.Errorf("%d kinds of pods", templates)
		}
	}
}
