package fuse_test

import (
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// BenchmarkAgainstThePlainFile reads one file as it lies on the local file
// system, by passthrough, and through the server, and reports each way's rate
// as a fraction of the plain file's in the same run.
func BenchmarkAgainstThePlainFile(b *testing.B) {
	const size = 256 << 20
	data := fusetest.Bytes(1, size)
	plain := filepath.Join(b.TempDir(), "f")
	if err := os.WriteFile(plain, data, 0o600); err != nil {
		b.Fatal(err)
	}
	complete := mount(b, file(data))
	partial := mount(b, file(data))
	partial.SetComplete(false)
	ways := map[string]string{"passthrough": complete.path("f"), "server_warm": partial.path("f")}

	for what, read := range map[string]func(b *testing.B, name string){"seq1M": readAll, "rand4K": readRandom} {
		read(b, plain) // warm
		for _, way := range ways {
			read(b, way)
		}
		b.Run(what, func(b *testing.B) {
			best := map[string]time.Duration{}
			for b.Loop() {
				for range 5 {
					for way, name := range map[string]string{"plain": plain, "passthrough": ways["passthrough"], "server_warm": ways["server_warm"]} {
						start := time.Now()
						read(b, name)
						if d := time.Since(start); best[way] == 0 || d < best[way] {
							best[way] = d
						}
					}
				}
			}
			for way := range ways {
				b.ReportMetric(best["plain"].Seconds()/best[way].Seconds(), way+"/plain")
			}
		})
	}
	b.Run("open_read_close_64K", func(b *testing.B) {
		small := fusetest.Bytes(2, 64<<10)
		plain := filepath.Join(b.TempDir(), "s")
		if err := os.WriteFile(plain, small, 0o600); err != nil {
			b.Fatal(err)
		}
		m := mount(b, file(small))
		rate := func(name string) float64 {
			const n = 3000
			start := time.Now()
			for range n {
				readAll(b, name)
			}
			return n / time.Since(start).Seconds()
		}
		for b.Loop() {
			b.ReportMetric(rate(plain), "plain_files/s")
			b.ReportMetric(rate(m.path("f")), "passthrough_files/s")
		}
	})
}

var sink = make([]byte, 1<<20)

func readAll(b *testing.B, name string) {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for {
		switch _, err := f.Read(sink); err {
		case nil:
		case io.EOF:
			return
		default:
			b.Fatal(err)
		}
	}
}

func readRandom(b *testing.B, name string) {
	f, err := os.Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 50_000 {
		if _, err := f.ReadAt(sink[:4096], rnd.Int64N(st.Size()-4096)&^4095); err != nil {
			b.Fatal(err)
		}
	}
}
