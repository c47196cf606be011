package engine_test

import (
	"bytes"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/controllers/engine"
)

// foreign is of an engine with masters, workers and clients; cut takes away what
// a test has no use for.
func foreign(cut func(*engine.Description)) *engine.Description {
	d := description(contract.RuntimeCache)
	pod := func(name string, ports ...corev1.ContainerPort) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init", Image: "engine:1"}},
			Containers:     []corev1.Container{{Name: name, Image: "engine:1", Command: []string{"/engine", name}, Ports: ports}},
		}}
	}
	d.Foreign = &engine.Foreign{
		FileSystem: "fuse.other", Helper: "cache:dev", HelperPull: corev1.PullIfNotPresent,
		Commands: contract.EngineConfig{
			MountUFS:      &contract.EngineCommand{Command: []string{"/engine", "mount"}, TimeoutSeconds: 20},
			ReportSummary: &contract.EngineCommand{Command: []string{"/engine", "report"}},
		},
		ConfigMaps: []engine.ExtraConfigMap{{Name: "conf", Data: map[string]string{"engine.conf": "a=b"}}},
	}
	conf := []engine.ExtraMount{{ConfigMap: "conf", MountPath: "/etc/engine"}}
	d.Master = engine.Component{Replicas: 3, Image: "engine:2", Template: pod("master", corev1.ContainerPort{Name: "rpc", ContainerPort: 9000}), ExtraMounts: conf}
	d.Worker.Template, d.Worker.Image, d.Worker.ExtraMounts = pod("worker"), "engine:2", conf
	d.Client = engine.Component{
		Image: "engine:2", Template: pod("client"), NoSecrets: true, NoService: true,
		Tiers: []engine.Tier{{Medium: contract.TierMEM, Dirs: []engine.TierDir{{Memory: true, QuotaBytes: 1 << 30}}}},
	}
	cut(d)
	return d
}

func TestObjectsOfAnotherEngineAreAsRecorded(t *testing.T) {
	for name, cut := range map[string]func(*engine.Description){
		"foreign": func(*engine.Description) {},
		"foreign-client": func(d *engine.Description) {
			d.Master, d.Worker = engine.Component{Absent: true}, engine.Component{Absent: true}
			d.Client.NoSecrets, d.Foreign.Commands = false, contract.EngineConfig{}
		},
	} {
		objects, err := foreign(cut).Objects()
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
