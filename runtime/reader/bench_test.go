package reader_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/reader"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// The ways of 256 MiB in reads of 1 MiB. Compare within one run: a miss with a
// copy of the same file, a remote hit with wire's BenchmarkRawSendfile.
const benchBytes = 256 * mib

func benchScene(b *testing.B) *scene {
	s := newScene(b, nil)
	s.put("f", content("f", benchBytes))
	return s
}

func drain(b *testing.B, f fuse.File) {
	b.Helper()
	p := make([]byte, mib)
	for off := int64(0); off < benchBytes; off += mib {
		if _, err := f.ReadAt(b.Context(), p, off); err != nil {
			b.Fatal(err)
		}
	}
}

func benchRead(b *testing.B, s *scene, r *reader.Reader) {
	b.SetBytes(benchBytes)
	for b.Loop() {
		f := s.open(r, "f")
		drain(b, f)
		f.Close()
	}
}

func BenchmarkCopy(b *testing.B) {
	s := benchScene(b)
	b.SetBytes(benchBytes)
	for b.Loop() {
		from, err := os.Open(filepath.Join(s.dir, "f"))
		if err != nil {
			b.Fatal(err)
		}
		to, err := os.Create(filepath.Join(b.TempDir(), "f"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, mib)); err != nil {
			b.Fatal(err)
		}
		from.Close()
		to.Close()
		os.Remove(to.Name())
	}
}

// benchMiss reads a file that no cache has, by a reader on a node.
func benchMiss(b *testing.B, node string) {
	b.SetBytes(benchBytes)
	for b.Loop() {
		b.StopTimer()
		s := benchScene(b)
		stop := s.worker("a", 1<<30)
		r := s.reader(node, nil)
		b.StartTimer()
		f := s.open(r, "f")
		drain(b, f)
		f.Close()
		b.StopTimer()
		r.Close()
		stop()
		os.RemoveAll(s.dir)
		b.StartTimer()
	}
}

func BenchmarkMissByTheLocalWorker(b *testing.B) { benchMiss(b, "a") }

func BenchmarkMissByARemoteOwner(b *testing.B) { benchMiss(b, "") }

func BenchmarkLocalHit(b *testing.B) {
	s := benchScene(b)
	s.worker("a", 1<<30)
	r := s.reader("a", nil)
	f := s.open(r, "f")
	drain(b, f)
	f.Close()
	benchRead(b, s, r)
}

func BenchmarkRemoteHit(b *testing.B) {
	s := benchScene(b)
	s.worker("a", 1<<30)
	r := s.reader("", func(c *reader.Config) { c.MemoryBytes = 16 * block })
	f := s.open(r, "f")
	drain(b, f)
	f.Close()
	benchRead(b, s, r)
}

// BenchmarkLoadOfSmallFiles brings 4,000 files of 64 KiB into two workers.
func BenchmarkLoadOfSmallFiles(b *testing.B) {
	const files, size = 4000, 64 << 10
	b.SetBytes(files * size)
	for b.Loop() {
		b.StopTimer()
		s := newScene(b, nil)
		for i := range files {
			name := fmt.Sprintf("d%02d/%04d", i%40, i)
			s.put(name, content(name, size))
		}
		stops := []func(){s.worker("a", 1<<30), s.worker("b", 1<<30)}
		s.until("no metadata", func() bool { return s.master.Summary().FileNum == files })
		b.StartTimer()
		p := s.load(&wirepb.LoadRequest{Id: "x"})
		b.StopTimer()
		if p.GetPhase() != contract.LoadComplete || p.GetFilesDone() != files {
			b.Fatalf("%+v", p)
		}
		for _, stop := range stops {
			stop()
		}
		os.RemoveAll(s.dir)
		b.StartTimer()
	}
	b.ReportMetric(files*float64(b.N)/b.Elapsed().Seconds(), "files/s")
}
