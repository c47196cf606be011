package fuse_test

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

func mountSmall(t testing.TB, c fusetest.Content) *mounted {
	t.Helper()
	m := &mounted{Tree: newTree(t, c), counters: prometheus.NewPedanticRegistry()}
	m.dir, m.server = fusetest.MountWith(t, m.Tree, fuse.Options{Metrics: m.counters, Profile: fuse.ProfileSmall})
	return m
}

func TestTheSmallProfileOpensWithoutAsking(t *testing.T) {
	m := mountSmall(t, fusetest.Content{"d/one": {Data: []byte("1")}, "d/two": {Data: []byte("2")}})
	wantBytes(t, m.path("d/one"), []byte("1"))
	wantBytes(t, m.path("d/two"), []byte("2"))
	if opens, reads := m.Opens.Load(), m.Reads.Load(); opens != 2 || reads != 2 {
		t.Errorf("%d opens and %d reads, want 2 each", opens, reads)
	}
	asked := m.count(t, "millrace_fuse_request_seconds", "other")
	for range 100 {
		wantBytes(t, m.path("d/one"), []byte("1"))
	}
	// A FLUSH for each close would cost as much as the OPEN that is saved.
	if more := m.count(t, "millrace_fuse_request_seconds", "other") - asked; more > 10 {
		t.Errorf("%d requests for a warm file that was opened 100 times", more)
	}
	if opens, reads := m.Opens.Load(), m.Reads.Load(); opens != 2 || reads != 2 {
		t.Errorf("%d opens and %d reads of a warm file, want 2 each", opens, reads)
	}
	if got := m.count(t, "millrace_fuse_backing_files", ""); got != 0 {
		t.Errorf("%d files in passthrough", got)
	}
	if err := m.server.Unmount(); err != nil {
		t.Fatal(err)
	}
	if m.Opens.Load() != m.Closes.Load() {
		t.Errorf("%d files opened, %d closed", m.Opens.Load(), m.Closes.Load())
	}
}

func TestInTheSmallProfileANewVersionIsSeenByTheNextOpen(t *testing.T) {
	v1, v2, v3 := fusetest.Bytes(1, 100_000), fusetest.Bytes(2, 300_000), fusetest.Bytes(3, 300_000)
	for how, tell := range map[string]func(*mounted){
		"told of the file":      func(m *mounted) { m.InvalidateNode("d/f") },
		"told of the name":      func(m *mounted) { m.InvalidateEntry("d/f") },
		"told that all changed": func(m *mounted) { m.InvalidateAll() },
	} {
		t.Run(how, func(t *testing.T) {
			m := mountSmall(t, fusetest.Content{"d/f": {Data: v1}})
			old := open(t, m.path("d/f"))
			if _, err := old.ReadAt(make([]byte, 10), 0); err != nil {
				t.Fatal(err)
			}
			for _, next := range [][]byte{v2, v3} { // v3 has the size of v2
				if err := m.Put("d/f", fusetest.Item{Data: next}); err != nil {
					t.Fatal(err)
				}
				tell(m)
				eventually(t, "the new bytes are seen", func() bool {
					got, err := os.ReadFile(m.path("d/f"))
					return err == nil && fusetest.Sum(got) == fusetest.Sum(next)
				})
			}
			got := make([]byte, len(v1))
			n, err := old.ReadAt(got, 0)
			switch {
			case errors.Is(err, syscall.ESTALE):
			case err != nil && !errors.Is(err, io.EOF):
				t.Errorf("the old handle: %v", err)
			case fusetest.Sum(got[:n]) != fusetest.Sum(v1):
				t.Error("the old handle reads other bytes than its own")
			}
		})
	}
}

func TestInTheSmallProfileBytesOfAnUnknownChangeAreNeverMixed(t *testing.T) {
	v1, v2 := fusetest.Bytes(1, 3<<20), fusetest.Bytes(2, 3<<20)
	m := mountSmall(t, file(v1))
	f := open(t, m.path("f"))
	got := make([]byte, len(v1))
	if _, err := f.ReadAt(got[:4096], 0); err != nil {
		t.Fatal(err)
	}
	if err := m.Put("f", fusetest.Item{Data: v2}); err != nil { // nobody is told
		t.Fatal(err)
	}
	n, err := io.ReadFull(io.NewSectionReader(f, 0, int64(len(v1))), got)
	if fusetest.Sum(got[:n]) != fusetest.Sum(v1[:n]) {
		t.Errorf("of %d bytes some are of the new version", n)
	}
	if err != nil && !errors.Is(err, syscall.ESTALE) {
		t.Error(err)
	}
}
