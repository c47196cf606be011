package dataprocess

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
	"github.com/millrace/millrace/controllers/operation"
)

var update = flag.Bool("update", false, "write the golden files")

func process(processor datav1alpha1.Processor) *datav1alpha1.DataProcess {
	return &datav1alpha1.DataProcess{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "prepare"},
		Spec: datav1alpha1.DataProcessSpec{
			Dataset: datav1alpha1.TargetDatasetWithMountPath{
				TargetDataset: datav1alpha1.TargetDataset{Name: "training"}, MountPath: "/data", SubPath: "train",
			},
			Processor: processor,
		},
	}
}

func TestJobsAreAsInTheGoldenFiles(t *testing.T) {
	for name, processor := range map[string]datav1alpha1.Processor{
		"script": {
			ServiceAccountName: "worker",
			PodMetadata:        datav1alpha1.PodMetadata{Labels: map[string]string{"team": "vision"}, Annotations: map[string]string{"a": "b"}},
			Script: &datav1alpha1.ScriptProcessor{
				VersionSpec: datav1alpha1.VersionSpec{Image: "alpine", ImageTag: "3.20", ImagePullPolicy: "IfNotPresent"},
				Command:     []string{"sh"}, Args: []string{"--fast"}, Source: "ls $1; rm -rf \"$2\"\n",
				Env:          []corev1.EnvVar{{Name: "N", Value: "1"}},
				Volumes:      []corev1.Volume{{Name: "out", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
				VolumeMounts: []corev1.VolumeMount{{Name: "out", MountPath: "/out"}},
			},
		},
		"pod": {Job: &datav1alpha1.JobProcessor{PodSpec: &corev1.PodSpec{
			RestartPolicy:  corev1.RestartPolicyOnFailure,
			InitContainers: []corev1.Container{{Name: "first", Image: "a"}},
			Containers:     []corev1.Container{{Name: "main", Image: "b", VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}}},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := yaml.Marshal(desiredJob(process(processor)))
			if err != nil {
				t.Fatal(err)
			}
			golden := "testdata/" + name + ".golden.yaml"
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
		})
	}
}

func TestWhatCanNeverRunIsRefusedWithItsRemedy(t *testing.T) {
	script := func(edit func(*datav1alpha1.ScriptProcessor)) datav1alpha1.Processor {
		s := &datav1alpha1.ScriptProcessor{VersionSpec: datav1alpha1.VersionSpec{Image: "alpine"}, Source: "true"}
		edit(s)
		return datav1alpha1.Processor{Script: s}
	}
	pod := &datav1alpha1.JobProcessor{PodSpec: &corev1.PodSpec{Containers: []corev1.Container{
		{Name: "main", VolumeMounts: []corev1.VolumeMount{{Name: "mine", MountPath: "/data/"}}},
	}}}
	for sentence, tc := range map[string]struct {
		processor     datav1alpha1.Processor
		reason, words string
	}{
		"nothing to run":         {datav1alpha1.Processor{}, contract.EventProcessorNotSpecified, "give one of them"},
		"a job of nothing":       {datav1alpha1.Processor{Job: &datav1alpha1.JobProcessor{}}, contract.EventProcessorNotSpecified, "podSpec"},
		"both":                   {datav1alpha1.Processor{Job: pod, Script: &datav1alpha1.ScriptProcessor{}}, contract.EventMultipleProcessorSpecified, "leave one"},
		"no image":               {script(func(s *datav1alpha1.ScriptProcessor) { s.Image = "" }), contract.EventDataOperationNotValid, "script.image"},
		"a long script":          {script(func(s *datav1alpha1.ScriptProcessor) { s.Source = strings.Repeat("x", maxSource+1) }), contract.EventDataOperationNotValid, "into the image"},
		"another volume's place": {datav1alpha1.Processor{Job: pod}, contract.EventConflictMountPath, "container main mounts mine at /data/"},
		"the script's place": {script(func(s *datav1alpha1.ScriptProcessor) {
			s.VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: "/fluid-scripts"}}
		}), contract.EventConflictMountPath, "/fluid-scripts"},
		"a volume of our name": {script(func(s *datav1alpha1.ScriptProcessor) { s.Volumes = []corev1.Volume{{Name: datasetVolume}} }), contract.EventConflictMountPath, "another name"},
		"all is well":          {script(func(*datav1alpha1.ScriptProcessor) {}), "", ""},
	} {
		t.Run(sentence, func(t *testing.T) {
			problem := work{}.Refuse(&operation.Round{Object: process(tc.processor)})
			if problem == nil {
				problem = &operation.Problem{}
			}
			if problem.Reason != tc.reason || !strings.Contains(problem.Message, tc.words) {
				t.Errorf("%+v, want %s with %q", problem, tc.reason, tc.words)
			}
		})
	}
}
