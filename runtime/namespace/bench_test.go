package namespace

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/source"
)

// million is a source of n objects in directories of a thousand, as training
// data has them, that costs no memory.
type million struct {
	*memStore
	n, perDir int
}

func (s million) Walk(_ context.Context, _ string, each func(source.Object) error) error {
	for i := range s.n {
		o := source.Object{
			Path: fmt.Sprintf("train/shard-%05d/ILSVRC2012_%08d.JPEG", i/s.perDir, i), Size: 100_000 + int64(i),
			ModTime: time.Unix(1_700_000_000+int64(i), 0), ETag: fmt.Sprintf("\"%032x\"", i),
		}
		if err := each(o); err != nil {
			return err
		}
	}
	return nil
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestAMillionEntriesTakeLittleMemory holds the namespace to 150 bytes an entry,
// names of 23 bytes, tags and times included.
func TestAMillionEntriesTakeLittleMemory(t *testing.T) {
	const n = 1_000_000
	before := heap()
	tree, err := New([]Mount{mountOf("/", million{newMem(), n, 1000})}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.WaitKnown(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	each := float64(heap()-before) / n
	t.Logf("%.1f bytes an entry", each)
	if each > 150 {
		t.Errorf("%.1f bytes an entry, want at most 150", each)
	}
	if sum := tree.Totals(); sum.Files != n {
		t.Errorf("%d files", sum.Files)
	}
}

// BenchmarkGrowth says what trees of 10³ to 10⁶ entries cost: to walk a source
// that answers at once, in memory, to look names up, to list, to save and to
// restore.
func BenchmarkGrowth(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				grow(b, n, 1000)
			}
		})
	}
	b.Run("1000000-in-one-directory", func(b *testing.B) {
		for b.Loop() {
			grow(b, 1_000_000, 1_000_000)
		}
	})
}

func grow(b *testing.B, n, perDir int) {
	file := filepath.Join(b.TempDir(), "tree")
	mounts := []Mount{mountOf("/", million{newMem(), n, perDir})}
	opts := Options{Save: file, TTL: time.Hour}
	before, began := heap(), time.Now()
	tree, err := New(mounts, opts)
	if err != nil {
		b.Fatal(err)
	}
	if err := tree.WaitKnown(b.Context(), "/"); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(n)/time.Since(began).Seconds(), "walked/s")
	b.ReportMetric(float64(heap()-before)/float64(n), "B/entry")

	var inos []uint64
	tree.Files(RootIno, func(e Entry) bool {
		if len(inos) < 100_000 {
			inos = append(inos, e.Ino)
		}
		return true
	})
	began = time.Now()
	for _, ino := range inos {
		if _, err := tree.Lookup(b.Context(), ino, ""); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(inos))/time.Since(began).Seconds(), "lookups/s")
	began = time.Now()
	listed := 0
	tree.Files(RootIno, func(Entry) bool { listed++; return true })
	b.ReportMetric(float64(listed)/time.Since(began).Seconds(), "listed/s")

	began = time.Now()
	tree.Close()
	b.ReportMetric(time.Since(began).Seconds()*1000, "ms-to-save")
	if info, err := os.Stat(file); err == nil {
		b.ReportMetric(float64(info.Size())/float64(n), "saved-B/entry")
	}
	began = time.Now()
	again, err := New(mounts, opts)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(began).Seconds()*1000, "ms-to-restore")
	again.Close()
}

// BenchmarkWalk walks 100,000 files of a real directory.
func BenchmarkWalk(b *testing.B) {
	const dirs, perDir = 1000, 100
	dir := b.TempDir()
	for d := range dirs {
		for f := range perDir {
			write(b, filepath.Join(dir, fmt.Sprintf("train/shard-%04d/image-%06d.jpg", d, f)), 1)
		}
	}
	for b.Loop() {
		before, began := heap(), time.Now()
		tree, err := New([]Mount{posixMount("/", dir)}, Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := tree.WaitKnown(b.Context(), "/"); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(dirs*perDir/time.Since(began).Seconds(), "entries/s")
		b.ReportMetric(float64(heap()-before)/(dirs*perDir), "B/entry")
		tree.Close()
	}
}

// BenchmarkRestore starts a tree of a million entries from its file.
func BenchmarkRestore(b *testing.B) {
	mounts := []Mount{mountOf("/", million{newMem(), 1_000_000, 1000})}
	opts := Options{Save: filepath.Join(b.TempDir(), "tree"), TTL: time.Hour}
	tree, err := New(mounts, opts)
	if err != nil {
		b.Fatal(err)
	}
	if err := tree.WaitKnown(b.Context(), "/"); err != nil {
		b.Fatal(err)
	}
	tree.Close()
	for b.Loop() {
		again, err := blank(mounts, opts)
		if err != nil {
			b.Fatal(err)
		}
		again.restore()
		if again.restored.Entries < 1_000_000 {
			b.Fatalf("restored %+v", again.restored)
		}
	}
}
