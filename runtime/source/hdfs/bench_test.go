package hdfs_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	lib "github.com/colinmarc/hdfs/v2"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/sourcetest/hadoop"
)

// BenchmarkAgainstOthers reads one file, and lists one directory, in the ways
// that there are.
func BenchmarkAgainstOthers(b *testing.B) {
	const size, entries = 256 << 20, 10000
	data := pattern(size)
	must(b, cluster.PutBlocks("/bench/file", data, 64<<20))
	must(b, cluster.As(hadoop.Superuser, func(c *lib.Client) error {
		for i := range entries {
			if err := c.MkdirAll(fmt.Sprintf("/bench/dir/%06d", i), 0o755); err != nil {
				return err
			}
		}
		return nil
	}))
	s := open(b, "hdfs://"+hadoop.Nameservice+"/bench", nil)
	o := stat(b, s, "file")
	buffer := make([]byte, 4<<20)
	for name, once := range map[string]func() error{
		"whole": func() error { return drain(b, s, o, 0, size, buffer) },
		"in ranges of 4 MiB": func() error {
			for off := int64(0); off < size; off += 4 << 20 {
				if err := drain(b, s, o, off, 4<<20, buffer); err != nil {
					return err
				}
			}
			return nil
		},
		"by the library": func() error {
			return cluster.As(hadoop.Superuser, func(c *lib.Client) error {
				f, err := c.Open("/bench/file")
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, f, buffer)
				return err
			})
		},
		"by FsShell": func() error {
			file := filepath.Join(b.TempDir(), "file")
			defer os.Remove(file)
			_, err := cluster.Run(b.Context(), "nn0", "org.apache.hadoop.fs.FsShell", "-get", "/bench/file", file)
			return err
		},
	} {
		b.Run("read "+name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				must(b, once())
			}
		})
	}
	for name, once := range map[string]func() error{
		"here": func() error { return s.List(b.Context(), "dir", func(source.Object) error { return nil }) },
		"by the library": func() error {
			return cluster.As(hadoop.Superuser, func(c *lib.Client) error {
				_, err := c.ReadDir("/bench/dir")
				return err
			})
		},
	} {
		b.Run("list "+name, func(b *testing.B) {
			for b.Loop() {
				must(b, once())
			}
			b.ReportMetric(float64(entries)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

func drain(b *testing.B, s source.Store, o source.Object, off, n int64, buffer []byte) error {
	r, err := s.Open(b.Context(), o, off, n)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buffer)
	return err
}
