package dataset

import (
	"bytes"
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
)

var update = flag.Bool("update", false, "write the golden file")

func TestVolumesAreAsRecorded(t *testing.T) {
	plain := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "hbase", UID: "11111111-2222-3333-4444-555555555555"}}
	long := plain.DeepCopy()
	long.Name = strings.Repeat("long", 13)
	long.Annotations = map[string]string{contract.AnnotationStorageRequest: "5Ti"}
	long.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	var got bytes.Buffer
	for _, ds := range []*datav1alpha1.Dataset{plain, long} {
		name := contract.PVName(ds.Namespace, ds.Name)
		for _, obj := range []any{desiredPV(ds, name, "/runtime-mnt", contract.RuntimeAlluxio, contract.FuseMountType), desiredPVC(ds, name)} {
			text, err := yaml.Marshal(obj)
			if err != nil {
				t.Fatal(err)
			}
			got.WriteString("---\n")
			got.Write(text)
		}
	}
	view := &datav1alpha1.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "view", UID: "66666666"}}
	origin := desiredPV(plain, "default-hbase", "/runtime-mnt", contract.RuntimeAlluxio, contract.FuseMountType)
	text, err := yaml.Marshal(referencePV(view, "team-view", contract.Reference{Namespace: "default", Name: "hbase", Sub: "a/b"}, origin))
	if err != nil {
		t.Fatal(err)
	}
	got.WriteString("---\n")
	got.Write(text)
	const file = "testdata/volumes.yaml"
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("read golden file, go test -update writes it: %v", err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
