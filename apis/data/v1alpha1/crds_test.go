package v1alpha1_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// crd is what users see of a definition besides its schema.
type crd struct {
	Spec struct {
		Scope string
		Names struct {
			Kind       string
			ShortNames []string
			Categories []string
		}
		Versions []struct {
			Subresources struct {
				Status map[string]any
				Scale  *struct{ SpecReplicasPath, StatusReplicasPath, LabelSelectorPath string }
			}
			AdditionalPrinterColumns []struct {
				Name, JSONPath, Type string
				Priority             int
			}
		}
	}
}

func readCRD(t *testing.T, plural string) crd {
	t.Helper()
	text, err := os.ReadFile("../../../charts/millrace/crds/data.fluid.io_" + plural + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var out crd
	if err := yaml.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Scripts cut these columns out by position, so their order counts; wide ones
// come with kubectl get -o wide.
func TestColumnsAreThoseThatFluidsUsersKnow(t *testing.T) {
	const age = "Age .metadata.creationTimestamp"
	for plural, want := range map[string][]string{
		"datasets": {"Ufs Total Size .status.ufsTotal", "Cached .status.cacheStates.cached", "Cache Capacity .status.cacheStates.cacheCapacity",
			"Cached Percentage .status.cacheStates.cachedPercentage", "Phase .status.phase",
			"wide HCFS URL .status.hcfs.endpoint", "wide TOTAL FILES .status.fileNum", "wide CACHE HIT RATIO .status.cacheStates.cacheHitRatio", age},
		"cacheruntimes": {"Status .status.phase", "Master Phase .status.master.phase", "Worker Phase .status.worker.phase", "Fuse Phase .status.client.phase", age},
		"alluxioruntimes": {"wide Ready Masters .status.masterNumberReady", "wide Desired Masters .status.desiredMasterNumberScheduled", "Master Phase .status.masterPhase",
			"wide Ready Workers .status.workerNumberReady", "wide Desired Workers .status.desiredWorkerNumberScheduled", "Worker Phase .status.workerPhase",
			"wide Ready Fuses .status.fuseNumberReady", "wide Desired Fuses .status.desiredFuseNumberScheduled", "Fuse Phase .status.fusePhase",
			"wide API Gateway .status.apiGateway.endpoint", age},
		"juicefsruntimes": {"wide Ready Workers .status.workerNumberReady", "wide Desired Workers .status.desiredWorkerNumberScheduled", "Worker Phase .status.workerPhase",
			"wide Ready Fuses .status.fuseNumberReady", "wide Desired Fuses .status.desiredFuseNumberScheduled", "Fuse Phase .status.fusePhase", age},
		"datamigrates": {"Phase .status.phase", age, "Duration .status.duration"},
		"databackups": {"Dataset .spec.dataset", "Phase .status.phase", "Path .status.infos.BackupLocationPath",
			"NodeName .status.infos.BackupLocationNodeName", "Duration .status.duration", age},
		"dataprocesses": {"Dataset .spec.dataset.name", "Phase .status.phase", age, "Duration .status.duration"},
		"dataloads": {"Dataset .spec.dataset.name", "Phase .status.phase", age, "Duration .status.duration", "Progress .status.progress.percent",
			"wide Failed Files .status.progress.filesFailed"},
	} {
		t.Run(plural, func(t *testing.T) {
			var got []string
			for _, c := range readCRD(t, plural).Spec.Versions[0].AdditionalPrinterColumns {
				column := c.Name + " " + c.JSONPath
				if c.Priority > 0 {
					column = "wide " + column
				}
				got = append(got, column)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("columns (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNamesAndSubresourcesAreThoseThatFluidsUsersKnow(t *testing.T) {
	for plural, want := range map[string]string{
		"datasets":            "Dataset Namespaced [dataset] [fluid] status",
		"cacheruntimes":       "CacheRuntime Namespaced [] [fluid] status scale:.spec.worker.replicas,.status.worker.currentReplicas,.status.selector",
		"cacheruntimeclasses": "CacheRuntimeClass Cluster [] [fluid]",
		"alluxioruntimes":     "AlluxioRuntime Namespaced [alluxio] [fluid] status scale:.spec.replicas,.status.currentWorkerNumberScheduled,.status.selector",
		"dataloads":           "DataLoad Namespaced [load] [fluid] status",
		"juicefsruntimes":     "JuiceFSRuntime Namespaced [juicefs] [fluid] status scale:.spec.replicas,.status.currentWorkerNumberScheduled,.status.selector",
		"thinruntimes":        "ThinRuntime Namespaced [] [fluid] status",
		"thinruntimeprofiles": "ThinRuntimeProfile Cluster [] [fluid] status",
		"datamigrates":        "DataMigrate Namespaced [migrate] [fluid] status",
		"databackups":         "DataBackup Namespaced [backup] [fluid] status",
		"dataprocesses":       "DataProcess Namespaced [] [fluid] status",
	} {
		t.Run(plural, func(t *testing.T) {
			spec := readCRD(t, plural).Spec
			got := []string{spec.Names.Kind, spec.Scope, fmt.Sprint(spec.Names.ShortNames), fmt.Sprint(spec.Names.Categories)}
			if sub := spec.Versions[0].Subresources; sub.Status != nil {
				got = append(got, "status")
				if s := sub.Scale; s != nil {
					got = append(got, "scale:"+s.SpecReplicasPath+","+s.StatusReplicasPath+","+s.LabelSelectorPath)
				}
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s, want %s", strings.Join(got, " "), want)
			}
		})
	}
}

// kubectl apply writes the whole definition into an annotation, and all
// annotations together may have 256 KiB.
func TestDefinitionsFitIntoKubectlApply(t *testing.T) {
	const maxBytes = 256 << 10
	files, err := filepath.Glob("../../../charts/millrace/crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no definitions", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		compact, err := yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		if len(compact) >= maxBytes {
			t.Errorf("%s has %d bytes, of %d", filepath.Base(file), len(compact), maxBytes)
		}
	}
}
