package datamigrate

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

var update = flag.Bool("update", false, "write the golden files")

func secret(name, key string) datav1alpha1.EncryptOption {
	return datav1alpha1.EncryptOption{Name: "aws.secretKey", ValueFrom: datav1alpha1.EncryptOptionSource{SecretKeyRef: datav1alpha1.SecretKeySelector{Name: name, Key: key}}}
}

func storage(uri string) datav1alpha1.DataToMigrate {
	return datav1alpha1.DataToMigrate{ExternalStorage: &datav1alpha1.ExternalStorage{URI: uri, EncryptOptions: []datav1alpha1.EncryptOption{secret("theirs", "sk")}}}
}

func ofDataset(path string) datav1alpha1.DataToMigrate {
	return datav1alpha1.DataToMigrate{DataSet: &datav1alpha1.DatasetToMigrate{Name: "training", Namespace: "ns", Path: path}}
}

func migration(from, to datav1alpha1.DataToMigrate) *datav1alpha1.DataMigrate {
	return &datav1alpha1.DataMigrate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "copy"}, Spec: datav1alpha1.DataMigrateSpec{From: from, To: to,
		Options: map[string]string{"concurrency": "4", "from.endpoint": "https://from", "to.endpoint": "https://to"}}}
}

func training() *datav1alpha1.Dataset {
	return &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "training"}, Spec: datav1alpha1.DatasetSpec{
		SharedOptions: map[string]string{"endpoint": "https://ours"},
		Mounts: []datav1alpha1.Mount{
			{MountPoint: "s3://bucket/pre", Name: "s3", EncryptOptions: []datav1alpha1.EncryptOption{secret("ours", "sk")}},
			{MountPoint: "pvc://claim/sub", Name: "nested", Path: "/s3/nested"},
			{MountPoint: "s3://bucket", Name: "locked", ReadOnly: true},
			{MountPoint: "hdfs://host/dir", Name: "hdfs"},
		},
	}}
}

func TestJobsAreAsInTheGoldenFiles(t *testing.T) {
	for name, dm := range map[string]*datav1alpha1.DataMigrate{
		"to-bucket":       migration(ofDataset("/s3/train"), storage("s3://elsewhere/pre")),
		"to-mount":        migration(storage("s3://elsewhere/pre"), ofDataset("/s3/new")),
		"to-nested-mount": migration(storage("pvc://claim/in"), ofDataset("/s3/nested/deep")),
	} {
		t.Run(name, func(t *testing.T) {
			if problem := refuse(dm); problem != nil {
				t.Fatal(problem)
			}
			p, problem := planOf(dm, training())
			if problem != nil {
				t.Fatal(problem)
			}
			p.migration.ID = "migrate-1"
			job, err := desiredJob(dm, p, "cache:dev", corev1.PullIfNotPresent)
			if err != nil {
				t.Fatal(err)
			}
			got, err := yaml.Marshal(job)
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

func TestWhatCannotBeCopiedIsRefusedWithItsRemedy(t *testing.T) {
	elsewhere := ofDataset("")
	elsewhere.DataSet.Namespace = "other"
	both := ofDataset("")
	both.ExternalStorage = storage("s3://b").ExternalStorage
	for sentence, tc := range map[string]struct {
		from, to datav1alpha1.DataToMigrate
		words    string
	}{
		"from nowhere":                 {datav1alpha1.DataToMigrate{}, ofDataset("/s3"), "spec.from names neither"},
		"to two places":                {storage("s3://b"), both, "spec.to names both"},
		"without a Dataset":            {storage("s3://a"), storage("s3://b"), "name one at one of the ends"},
		"another namespace":            {elsewhere, storage("s3://b"), "is in namespace other"},
		"a directory of a node":        {ofDataset(""), storage("local:///data"), "PersistentVolumeClaim"},
		"to a web server":              {ofDataset(""), storage("https://host/"), "nothing can be written to https://"},
		"a password in the address":    {storage("s3://me:secret@b"), ofDataset("/s3"), "into a Secret"},
		"an address without a scheme":  {storage("bucket"), ofDataset("/s3"), "no scheme"},
		"beside all mounts":            {storage("s3://b"), ofDataset("/"), "in none of its mounts"},
		"into a mount that is locked":  {storage("s3://b"), ofDataset("/locked/x"), "is readOnly"},
		"into a source that is hadoop": {storage("s3://b"), ofDataset("/hdfs"), "cannot be written to"},
	} {
		t.Run(sentence, func(t *testing.T) {
			dm := migration(tc.from, tc.to)
			problem := refuse(dm)
			if problem == nil {
				_, problem = planOf(dm, training())
			}
			if problem == nil || !strings.Contains(problem.Message, tc.words) {
				t.Errorf("%+v, want %q", problem, tc.words)
			}
			if problem != nil && strings.Contains(problem.Message, "me:secret") {
				t.Error("the password is told")
			}
		})
	}
	dm := migration(ofDataset(""), storage("s3://b"))
	dm.Spec.Options["concurrency"] = "many"
	if problem := refuse(dm); problem == nil || !strings.Contains(problem.Message, "from 1 to 64") {
		t.Errorf("concurrency: %+v", problem)
	}
	dm.Spec.Options, dm.Spec.Parallelism = map[string]string{"--delete-src": "true"}, 3
	if ignored := notServed(&dm.Spec); !strings.Contains(ignored, "spec.options.--delete-src") || !strings.Contains(ignored, "spec.parallelism") {
		t.Errorf("ignored: %q", ignored)
	}
}
