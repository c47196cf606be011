package controllers_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/apis/contract"
	datav1alpha1 "github.com/millrace/millrace/apis/data/v1alpha1"
)

// source waits for what a Dataset says of its sources.
func (p *place) source(name string, ok func(*datav1alpha1.SourceState) bool) *datav1alpha1.SourceState {
	p.Helper()
	var said *datav1alpha1.SourceState
	eventually(p.T, func() error {
		if said = p.get(name).Status.Source; said == nil || !ok(said) {
			return fmt.Errorf("dataset %s says of its sources: %+v", name, said)
		}
		return nil
	})
	return said
}

func (p *place) annotate(name, value string) {
	p.Helper()
	eventually(p.T, func() error {
		ds := p.get(name)
		ds.Annotations = map[string]string{contract.AnnotationRefresh: value}
		return world.Update(p.Context(), ds)
	})
}

func (p *place) looks(name string) int {
	masters.mu.Lock()
	defer masters.mu.Unlock()
	return masters.looks[p.key(name)]
}

// Pain 6: changed source data is not noticed.
func TestPain6ChangedSourceDataIsNoticed(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	first := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	state := func(complete bool, snapshot string, at time.Time) {
		masters.change(p.key("data"), func(s *contract.Summary) { s.MetadataComplete, s.Snapshot, s.LookedAt = complete, snapshot, at })
	}
	state(false, "half", time.Time{})
	state(true, "one", first)
	said := p.source("data", func(s *datav1alpha1.SourceState) bool { return s.Snapshot == "one" })
	if said.SnapshotTime == nil || said.LookedTime == nil || !said.LookedTime.Time.Equal(first) {
		t.Errorf("the sources: %+v", said)
	}
	// A look that finds nothing new is not written: TestAnIdleDatasetWritesNothing
	// for what the master repeats, and here for the time.
	before := p.get("data").ResourceVersion
	state(true, "one", first.Add(time.Minute))
	state(true, "two", first.Add(2*time.Minute))
	said = p.source("data", func(s *datav1alpha1.SourceState) bool { return s.Snapshot == "two" })
	if !said.LookedTime.Time.Equal(first.Add(2 * time.Minute)) {
		t.Errorf("looked at %s", said.LookedTime)
	}
	if before == p.get("data").ResourceVersion {
		t.Error("the change was not written")
	}

	// On demand, once for each value.
	p.annotate("data", "monday")
	said = p.source("data", func(s *datav1alpha1.SourceState) bool { return s.Refresh != nil && s.Refresh.Token == "monday" })
	if !said.Refresh.Succeeded || said.Refresh.Message != "the sources are at snapshot two" || said.Refresh.Time.IsZero() {
		t.Errorf("answer %+v", said.Refresh)
	}
	state(true, "three", first.Add(3*time.Minute)) // another round
	p.source("data", func(s *datav1alpha1.SourceState) bool { return s.Snapshot == "three" })
	if n := p.looks("data"); n != 1 {
		t.Errorf("looked %d times for one value", n)
	}
	masters.mu.Lock()
	masters.blind[p.key("data")] = "s3://bucket: the key is refused"
	masters.mu.Unlock()
	p.annotate("data", "tuesday")
	said = p.source("data", func(s *datav1alpha1.SourceState) bool { return s.Refresh.Token == "tuesday" })
	if said.Refresh.Succeeded || said.Refresh.Message != "s3://bucket: the key is refused; correct it, and give the annotation another value" {
		t.Errorf("answer %+v", said.Refresh)
	}
}

func TestALookThatFindsNothingNewWritesNothing(t *testing.T) {
	p := newPlace(t)
	p.bind("data", p.cacheRuntime("data"))
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	masters.change(p.key("data"), func(s *contract.Summary) { s.MetadataComplete, s.Snapshot, s.LookedAt = true, "one", at })
	p.source("data", func(s *datav1alpha1.SourceState) bool { return s.Snapshot == "one" })
	before := p.get("data").ResourceVersion
	for i := range 10 {
		masters.change(p.key("data"), func(s *contract.Summary) { s.LookedAt = at.Add(time.Duration(i) * time.Minute) })
	}
	// Another round of the Dataset, which sees the later looks: it finds no
	// reason to write either.
	pod := &corev1.Pod{ObjectMeta: p.meta("reader"), Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}},
	}}
	p.create(pod)
	p.becomes("data", datav1alpha1.BoundDatasetPhase)
	if now := p.get("data").ResourceVersion; now != before {
		t.Errorf("version %s became %s", before, now)
	}
}

func TestTheDatasetSaysHowOftenItsSourcesAreLookedAt(t *testing.T) {
	no := false
	for sentence, tc := range map[string]struct {
		policy *datav1alpha1.DatasetSyncPolicy
		want   string
	}{
		"nothing":             {nil, ""},
		"an interval":         {&datav1alpha1.DatasetSyncPolicy{Interval: "10m"}, "10m"},
		"only when asked for": {&datav1alpha1.DatasetSyncPolicy{AutoSync: &no, Interval: "10m"}, "87600h0m0s"},
	} {
		t.Run(sentence, func(t *testing.T) {
			p := newPlace(t)
			p.create(&datav1alpha1.Dataset{ObjectMeta: p.meta("data"), Spec: datav1alpha1.DatasetSpec{
				Mounts: []datav1alpha1.Mount{{MountPoint: "s3://bucket", Path: "/"}}, MetadataSyncPolicy: tc.policy,
			}})
			p.create(p.cacheRuntime("data"))
			eventually(t, func() error {
				config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{}}
				if err := world.Get(p.Context(), p.key(contract.ConfigMapName("data")), config); err != nil {
					return err
				}
				decoded, err := contract.DecodeRuntimeConfig([]byte(config.Data[contract.RuntimeConfigKey]))
				if err != nil || decoded.Worker.Options[contract.OptionMetadataTTL] != tc.want {
					return fmt.Errorf("options %v: %v", decoded, err)
				}
				return nil
			})
		})
	}
}
