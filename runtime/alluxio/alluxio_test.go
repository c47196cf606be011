package alluxio

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/apis/contract"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = `pass"word\1`

func site(t *testing.T, c contract.ComponentType) *Site {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return &Site{
		Component: c, Namespace: "ns", Host: "10.0.0.1", Node: "n1", Home: "/opt/alluxio", State: t.TempDir(),
		Config: &contract.RuntimeConfig{
			Mounts: []contract.MountConfig{
				{MountPoint: "s3://bucket/part", Name: "s3", Options: map[string]string{"endpoint": "http://s3:9000"}, EncryptOptions: map[string]string{"aws.secretKey": file}},
				{MountPoint: "pvc://claim/sub", Path: "/deep/pvc"},
			},
			Master: contract.ComponentConfig{
				Service: contract.ServiceConfig{Name: "svc-x-master"},
				Options: map[string]string{"alluxio.user.block.size.bytes.default": "16MB", "java.options": "-Xmx1g -Xss1m", "alluxio.underfs.s3.default.mode": "0700"},
			},
			Worker: contract.ComponentConfig{TieredStoreLevels: []contract.TierConfig{
				{MountPaths: []string{"/dev/shm"}, MediumType: "MEM", Quotas: []string{"1Gi"}, High: "0.9", Low: "0.7"},
				{MountPaths: []string{"/a", "/b"}, MediumType: "MEM", Quotas: []string{"1Ki", "2Ki"}},
			}},
		},
	}
}

func TestRuntimeJSONBecomesAlluxiosProperties(t *testing.T) {
	for sentence, tc := range map[string]struct {
		component contract.ComponentType
		want      map[string]string
	}{
		"all know the master and the node, and options lie over defaults": {contract.ComponentClient, map[string]string{
			"alluxio.master.hostname": "svc-x-master.ns", "alluxio.locality.node": "n1", "alluxio.user.hostname": "10.0.0.1",
			"alluxio.user.block.size.bytes.default": "16MB", "alluxio.underfs.s3.default.mode": "0700", "java.options": "",
		}},
		"levels of a worker have names and quotas of their own": {contract.ComponentWorker, map[string]string{
			"alluxio.worker.hostname": "10.0.0.1", "alluxio.worker.tieredstore.levels": "2",
			"alluxio.worker.tieredstore.level0.alias": "MEM", "alluxio.worker.tieredstore.level0.dirs.path": "/dev/shm",
			"alluxio.worker.tieredstore.level0.dirs.quota": "1073741824", "alluxio.worker.tieredstore.level0.watermark.high.ratio": "0.9",
			"alluxio.worker.tieredstore.level1.alias": "SSD", "alluxio.worker.tieredstore.level1.dirs.path": "/a,/b",
			"alluxio.worker.tieredstore.level1.dirs.quota": "1024,2048", "alluxio.worker.tieredstore.level1.watermark.high.ratio": "",
		}},
	} {
		t.Run(sentence, func(t *testing.T) {
			got, err := site(t, tc.component).Properties()
			if err != nil {
				t.Fatal(err)
			}
			for name, want := range tc.want {
				if got[name] != want {
					t.Errorf("%s is %q, want %q", name, got[name], want)
				}
			}
		})
	}
}

func TestAMountAtTheRootIsThatOfAlluxio(t *testing.T) {
	s := site(t, contract.ComponentMaster)
	s.Config.Mounts[0].Path = "/"
	got, err := s.Properties()
	if err != nil {
		t.Fatal(err)
	}
	const root = "alluxio.master.mount.table.root."
	if got[root+"ufs"] != "s3://bucket/part/" || got[root+"readonly"] != "false" || got[root+"option.s3a.secretKey"] != secret {
		t.Errorf("the root is %s of %v", got[root+"ufs"], got)
	}
}

func TestAServerOfS3HasARegion(t *testing.T) {
	for sentence, tc := range map[string]struct {
		options        map[string]string
		server, bucket string
	}{
		"without one it is the default": {map[string]string{}, "us-east-1", "us-east-1"},
		"one stands for both":           {map[string]string{"region": "eu"}, "eu", "eu"},
		"each may have its own":         {map[string]string{regionOfS3: "eu", endpointRegionOfS3: "us"}, "us", "eu"},
	} {
		t.Run(sentence, func(t *testing.T) {
			tc.options["endpoint"] = "http://s3.storage.svc:9000"
			m, err := mountOf(&contract.MountConfig{MountPoint: "s3://b", Name: "b", Options: tc.options})
			if err != nil {
				t.Fatal(err)
			}
			if m.Options[endpointRegionOfS3] != tc.server || m.Options[regionOfS3] != tc.bucket || m.Options[endpointOfS3] == "" {
				t.Errorf("options %v", m.Options)
			}
		})
	}
}

func TestWhatAlluxioCannotDoIsRefused(t *testing.T) {
	for sentence, tc := range map[string]struct {
		spoil func(*Site)
		words string
	}{
		"a source without an under-store": {func(s *Site) { s.Config.Mounts[0].MountPoint = "hdfs://u:p@nn/x" }, "hdfs://nn/x"},
		"a secret that is not there":      {func(s *Site) { s.Config.Mounts[0].EncryptOptions["k"] = "/nonexistent" }, "read option k"},
		"two disks of the slowest kind": {func(s *Site) {
			s.Config.Worker.TieredStoreLevels[0].MediumType, s.Config.Worker.TieredStoreLevels[1].MediumType = "HDD", "HDD"
		}, "level 1"},
		"no level": {func(s *Site) { s.Config.Worker.TieredStoreLevels = nil }, "tieredStore"},
	} {
		t.Run(sentence, func(t *testing.T) {
			s := site(t, contract.ComponentMaster)
			tc.spoil(s)
			_, err := s.Properties()
			if s.Component = contract.ComponentWorker; err == nil {
				_, err = s.Properties()
			}
			if err == nil || !strings.Contains(err.Error(), tc.words) || strings.Contains(err.Error(), "u:p") {
				t.Errorf("got %v, want an error with %q", err, tc.words)
			}
		})
	}
}

func TestMountTablesAreCompared(t *testing.T) {
	a := &Mount{Path: "/a", Source: "s3://a/", ReadOnly: true, Options: map[string]string{"k": "v"}}
	inner := &Mount{Path: "/a/b", Source: "/data", ReadOnly: true}
	is := func(m *Mount) mountPoint { return mountPoint{Source: m.Source, ReadOnly: true} }
	root := mountPoint{Source: "/var/lib/alluxio/root"}
	for sentence, tc := range map[string]struct {
		wanted  []*Mount
		have    map[string]mountPoint
		done    map[string]string
		unmount []string
		mount   []*Mount
	}{
		"nothing is there":   {[]*Mount{inner, a}, map[string]mountPoint{"/": root}, nil, nil, []*Mount{a, inner}},
		"all is there":       {[]*Mount{a}, map[string]mountPoint{"/": root, "/a": is(a)}, map[string]string{"/a": a.digest()}, nil, nil},
		"one is not wanted":  {nil, map[string]mountPoint{"/": root, "/a": is(a), "/a/b": is(inner)}, nil, []string{"/a/b", "/a"}, nil},
		"options changed":    {[]*Mount{a}, map[string]mountPoint{"/": root, "/a": is(a)}, map[string]string{"/a": "other"}, []string{"/a"}, []*Mount{a}},
		"the source changed": {[]*Mount{a}, map[string]mountPoint{"/": root, "/a": is(inner)}, map[string]string{"/a": a.digest()}, []string{"/a"}, []*Mount{a}},
	} {
		t.Run(sentence, func(t *testing.T) {
			wanted := map[string]*Mount{}
			for _, m := range tc.wanted {
				wanted[m.Path] = m
			}
			got, err := compare(wanted, tc.have, tc.done)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(&plan{tc.unmount, tc.mount}, got, cmp.AllowUnexported(plan{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if _, err := compare(map[string]*Mount{"/": a}, map[string]mountPoint{"/": root}, nil); err == nil {
		t.Error("another root is taken while Alluxio runs")
	}
}

// A stand-in for Java shows what a process is told and by which way.
func TestNoCredentialIsOnACommandLine(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	bin := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" >>" + seen + ".argv\nfor a in \"$@\"; do cat \"${a#@}\"; done >>" + seen + ".file\nls -l \"${1#@}\" >>" + seen + ".mode\n"
	if err := os.WriteFile(filepath.Join(bin, "java"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s := site(t, contract.ComponentMaster)
	wanted, err := s.mounts()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := compare(wanted, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.carryOut(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(seen + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if strings.Contains(read(".argv"), "pass") {
		t.Errorf("the command line is %s", read(".argv"))
	}
	if !strings.Contains(read(".file"), `"s3a.secretKey=pass\"word\\1"`) || !strings.Contains(read(".file"), "\"mkdir\"\n\"/deep\"\n") {
		t.Errorf("Java was told %s", read(".file"))
	}
	for line := range strings.Lines(read(".mode")) {
		if !strings.HasPrefix(line, "-rw-------") {
			t.Errorf("others may read the arguments: %s", line)
		}
	}
}

// When one process of a pod dies, the pod's others must not go on without it.
func TestOneProcessThatEndsEndsAll(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\ncase $(cat \"${1#@}\") in *dies*) exit 3;; esac\nexec sleep 1000\n"
	if err := os.WriteFile(filepath.Join(bin, "java"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	s := site(t, contract.ComponentMaster)
	conf, err := s.ready()
	if err != nil {
		t.Fatal(err)
	}
	err = s.run(t.Context(), conf, []process{{nil, "lives", nil}, {nil, "dies", nil}})
	if err == nil || !strings.Contains(err.Error(), "dies") {
		t.Errorf("got %v, want the process that died named", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.run(ctx, conf, []process{{nil, "lives", nil}}); err != nil {
		t.Errorf("processes that were asked to end: %v", err)
	}
}

func TestWhatAlluxioPrintsIsRead(t *testing.T) {
	tree, err := parseCount("File Count               Folder Count             Folder Size    \n22                       3                        86000006       \n")
	if err != nil || tree.Files != 22 || tree.Bytes != 86000006 {
		t.Errorf("count: %+v, %v", tree, err)
	}
	size, cached, err := parseUse("File Size     In Alluxio       Path           \n6000000       3000000 (50%)    /s3/train\n")
	if err != nil || size != 6000000 || cached != 3000000 {
		t.Errorf("use: %d of %d, %v", cached, size, err)
	}
	p, err := parseProgress("Progress for loading path '/x':\n{\"mJobState\":\"FAILED\",\"mLoadedByteCount\":0,\"mFailureReason\":{\"cause\":{},\"message\":\"Path \\\"/x\\\" does not exist.\"}}\n")
	if err != nil || p.State != "FAILED" || p.Failure.Message != `Path "/x" does not exist.` {
		t.Errorf("progress: %+v, %v", p, err)
	}
	for _, parse := range []func(string) error{
		func(s string) error { _, err := parseCount(s); return err },
		func(s string) error { _, _, err := parseUse(s); return err },
		func(s string) error { _, err := parseProgress(s); return err },
	} {
		if err := parse("something else"); err == nil {
			t.Error("something else is read")
		}
	}
}

func TestNumbersOfTheCacheAreSummedUp(t *testing.T) {
	for sentence, tc := range map[string]struct {
		used, bytes int64
		ratio       float64
		want        Summary
	}{
		"all but a byte is not all": {999999, 1000000, 0.5, Summary{"999999", "99.9%", "2000000", "50.0%", "3", "1000000"}},
		"copies count once":         {1500000, 1000000, 1, Summary{"1000000", "100.0%", "2000000", "100.0%", "3", "1000000"}},
		"a ratio below nothing":     {0, 1000000, -0.27, Summary{"0", "0.0%", "2000000", "0.0%", "3", "1000000"}},
		"nothing is all of nothing": {0, 0, 0, Summary{"0", "100.0%", "2000000", "0.0%", "3", "0"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			info, metrics := &masterInfo{}, &masterMetrics{}
			info.Capacity.Used, info.Capacity.Total, metrics.Gauges.HitRatio.Value = tc.used, 2000000, tc.ratio
			if diff := cmp.Diff(&tc.want, summarise(info, metrics, &tree{Files: 3, Bytes: tc.bytes})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTargetsOfALoadAreRead(t *testing.T) {
	for sentence, tc := range map[string]struct {
		paths, replicas string
		want            []target
	}{
		"nothing is everything":    {"", "", []target{{"/", 1}}},
		"each with its own copies": {"/a:b/", "2:x", []target{{"/a", 2}, {"/b", 1}}},
	} {
		t.Run(sentence, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, targets(tc.paths, tc.replicas), cmp.AllowUnexported(target{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestPropertiesAreWrittenAsJavaReadsThem(t *testing.T) {
	if got, want := escapeProperty(" a=b:c\\d#!é😀\n"), `\ a\=b\:c\\d\#\!\u00e9\ud83d\ude00\n`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
