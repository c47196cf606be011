package suite_test

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/millrace/millrace/e2e/stage"
	"github.com/millrace/millrace/runtime/source/sourcetest/hadoop"
	"github.com/millrace/millrace/runtime/source/sourcetest/webserver"
)

// The files of both sources.
var sourceFiles = []stage.Object{{Name: "part-00000", Size: 20 << 20}, {Name: "year=2026/part-00001", Size: 3<<20 + 7}, {Name: "_SUCCESS", Size: 0}}

func (p *place) content(o stage.Object) []byte {
	p.t.Helper()
	data, err := io.ReadAll(stage.Content(o.Name, o.Size))
	p.must(err)
	return data
}

// cachedAndRead loads a Dataset and reads its files in a pod.
func (p *place) cachedAndRead(dataset string) {
	p.t.Helper()
	p.load("warmup", dataset, "/")
	if dl := p.loadEnds("warmup"); dl.Status.Phase != "Complete" {
		p.t.Fatalf("dataload ended %s: %+v", dl.Status.Phase, dl.Status.Conditions)
	}
	p.fullyCached(dataset)
	p.reader("read", dataset, "copy", "--sha256", "/data/"+sourceFiles[0].Name, "/data/"+sourceFiles[1].Name)
	p.reads("read")
}

func TestHDFSBehindANameServiceIsCached(t *testing.T) {
	feature(t, "hdfs", "an HDFS with a standby, known by its site files, is cached by an AlluxioRuntime and outlives a NameNode and a DataNode", func(p *place) {
		dir, err := os.MkdirTemp("", "e2e-hadoop")
		p.must(err)
		t.Cleanup(func() { os.RemoveAll(dir) })
		hdfs, err := hadoop.Start(t.Context(), dir, hadoop.Options{HighAvailability: true, DataNodes: 2, Host: cluster.Gateway(), Heap: 128})
		p.must(err)
		t.Cleanup(hdfs.Close)
		for _, o := range sourceFiles {
			p.must(hdfs.Put("/warehouse/"+o.Name, p.content(o)))
		}
		p.apply(`
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: warehouse}
spec:
  mounts: [{mountPoint: "hdfs://` + hadoop.Nameservice + `/warehouse", name: warehouse, path: /}]
---
apiVersion: data.fluid.io/v1alpha1
kind: AlluxioRuntime
metadata: {name: warehouse}
spec:
  replicas: 1
  hadoopConfig: hadoop-site
  tieredstore:
    levels: [{mediumtype: MEM, path: /dev/shm, quota: 256Mi, high: "0.95", low: "0.7"}]
`)
		p.says("warehouse", "Ready", metav1.ConditionFalse, "ConfigMapNotFound", "hadoop-site")
		site := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: "hadoop-site"}, Data: map[string]string{}}
		for _, name := range []string{"core-site.xml", "hdfs-site.xml"} {
			xml, err := os.ReadFile(filepath.Join(hdfs.ConfDir(), name))
			p.must(err)
			site.Data[name] = string(xml)
		}
		p.must(world.Create(p.ctx(), site))
		p.bound("warehouse")
		hdfs.KillDataNode(0)
		hdfs.KillNameNode(0)
		p.must(hdfs.Activate(p.ctx(), 1))
		p.cachedAndRead("warehouse")
	})
}

func TestAWebServersListingIsCached(t *testing.T) {
	feature(t, "web", "the pages of a web server are cached, and its own loopback is refused", func(p *place) {
		server := webserver.StartAt(t, cluster.Gateway(), webserver.NginxHTML)
		for _, o := range sourceFiles {
			server.Put(t, "mirror/"+o.Name, p.content(o))
		}
		manifest := `
apiVersion: data.fluid.io/v1alpha1
kind: Dataset
metadata: {name: mirror}
spec:
  mounts: [{mountPoint: "$URLmirror/", name: mirror, path: /}]
`
		own := strings.NewReplacer("$URL", "http://127.0.0.1:8001/", "name: mirror}", "name: own}")
		p.apply(own.Replace(manifest))
		p.runtime("own", 1, "256Mi")
		p.says("own", "Ready", metav1.ConditionFalse, "127.0.0.1", "egress.allow")
		p.apply(strings.ReplaceAll(manifest, "$URL", server.URL))
		p.runtime("mirror", 1, "256Mi")
		p.bound("mirror")
		p.cachedAndRead("mirror")
	})
}
