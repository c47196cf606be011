package dataload

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/operation"
)

var update = flag.Bool("update", false, "write the golden files")

func TestJobIsAsInTheGoldenFile(t *testing.T) {
	dl := &datav1alpha1.DataLoad{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "warm", UID: "1234"},
		Spec: datav1alpha1.DataLoadSpec{
			Dataset: datav1alpha1.TargetDataset{Name: "training"}, LoadMetadata: true,
			Target:        []datav1alpha1.TargetPath{{Path: "/a b", Replicas: 2}, {Path: "c/../d"}},
			PodMetadata:   datav1alpha1.PodMetadata{Labels: map[string]string{"team": "vision"}, Annotations: map[string]string{"a": "b"}},
			NodeSelector:  map[string]string{"disk": "ssd"},
			Tolerations:   []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists}},
			SchedulerName: "millrace-scheduler",
			Options:       map[string]string{"priority": "5", "bandwidth": "100Mi"},
			Resources:     corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}},
		},
	}
	got, err := yaml.Marshal(desiredJob(dl, "1234", engineImage{
		Image: "docker.io/local/cache:dev", PullPolicy: corev1.PullIfNotPresent, PullSecrets: []corev1.LocalObjectReference{{Name: "registry"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/job.golden.yaml"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("run go test -update if this is meant: (-want +got)\n%s", diff)
	}
}

func TestPain7ProgressSaysHowLongItWillTake(t *testing.T) {
	for name, tc := range map[string]struct {
		load contract.LoadSummary
		want datav1alpha1.OperationProgress
	}{
		"half of it at 100 bytes a second": {
			contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 20000, BytesDone: 10000, FilesTotal: 4, FilesDone: 1, BytesPerSecond: 100},
			datav1alpha1.OperationProgress{Percent: "50.0%", BytesTotal: 20000, BytesDone: 10000, FilesTotal: 4, FilesDone: 1, BytesPerSecond: 100, ETA: "1m40s"},
		},
		"nothing is said of the time when nothing moves": {
			contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 10, BytesDone: 5},
			datav1alpha1.OperationProgress{Percent: "50.0%", BytesTotal: 10, BytesDone: 5},
		},
		"all bytes but not the end is not yet all": {
			contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 10, BytesDone: 10, BytesPerSecond: 1},
			datav1alpha1.OperationProgress{Percent: "99.9%", BytesTotal: 10, BytesDone: 10, BytesPerSecond: 1},
		},
		"files that failed are counted and named": {
			contract.LoadSummary{Phase: contract.LoadRunning, BytesTotal: 10, BytesDone: 5, FilesTotal: 30, FilesFailed: 12,
				Failures: []contract.LoadFailure{{Path: "/a", Error: "denied"}}},
			datav1alpha1.OperationProgress{Percent: "50.0%", BytesTotal: 10, BytesDone: 5, FilesTotal: 30, FilesFailed: 12,
				Failures: []datav1alpha1.FileFailure{{Path: "/a", Error: "denied"}}},
		},
		"the end": {
			contract.LoadSummary{Phase: contract.LoadComplete, BytesTotal: 10, BytesDone: 10, BytesPerSecond: 5},
			datav1alpha1.OperationProgress{Percent: "100.0%", BytesTotal: 10, BytesDone: 10, BytesPerSecond: 5},
		},
		"an empty directory is whole": {
			contract.LoadSummary{Phase: contract.LoadComplete},
			datav1alpha1.OperationProgress{Percent: "100.0%"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(&tc.want, operation.ProgressOf(tc.load)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
