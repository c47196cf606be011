package hdfs_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/millrace/millrace/runtime/source/sourcetest/hadoop"
)

// readWith reads with buffers of one size.
func readWith(r io.Reader, size int) ([]byte, error) {
	var out bytes.Buffer
	_, err := io.CopyBuffer(struct{ io.Writer }{&out}, struct{ io.Reader }{r}, make([]byte, size))
	return out.Bytes(), err
}

// The next range begins a little after the last one ended. The read that crosses
// the end of the block has room for less than a chunk.
func TestAGapBetweenRangesShiftsNoBytes(t *testing.T) {
	data := pattern(3<<20 + 123)
	must(t, cluster.PutBlocks("/gaps/file", data, 1<<20))
	s := open(t, "hdfs://"+hadoop.Nameservice+"/gaps", nil)
	o := stat(t, s, "file")
	for _, gap := range []int64{1, 511, 28_712, 65_536} {
		for _, size := range []int{100, 511, 1000, 4096, 99_000, 1 << 20} {
			for _, end := range []int64{900_000, 1<<20 - 70_000} {
				if got, err := read(t.Context(), s, o, 0, end); err != nil || !bytes.Equal(got, data[:end]) {
					t.Fatalf("the range before: %d bytes, %v", len(got), err)
				}
				r, err := s.Open(t.Context(), o, end+gap, o.Size)
				must(t, err)
				head := make([]byte, 1<<20-end-gap)
				_, err = io.ReadFull(r, head)
				must(t, err)
				got, err := readWith(r, size)
				r.Close()
				if err != nil || !bytes.Equal(append(head, got...), data[end+gap:]) {
					t.Errorf("%d bytes after %d, in buffers of %d: %d bytes, %v", gap, end, size, len(got), err)
				}
			}
		}
	}
}

func TestAReplicaThatRottedGivesNoBytes(t *testing.T) {
	for i, at := range []int64{0, 300_000, 1<<20 - 1, 1<<20 - 512} {
		for _, size := range []int{1, 1000, 4096, 1 << 20, 4 << 20} {
			if size == 1 && i > 0 {
				continue // a million reads
			}
			t.Run(fmt.Sprintf("at %d in buffers of %d", at, size), func(t *testing.T) {
				data := pattern(2<<20 + 77)
				copy(data, t.Name()) // no other file has this block
				dir := fmt.Sprintf("/rot/%d-%d", at, size)
				must(t, cluster.Put(dir+"/file", data))
				s := open(t, "hdfs://"+hadoop.Nameservice+dir, map[string]string{"retry-timeout": "100ms"})
				o := stat(t, s, "file")
				rotten := 0
				for node := range 3 {
					held, err := cluster.Rot(node, data[:1<<20], at)
					must(t, err)
					if !held {
						continue
					}
					rotten++
					r, err := s.Open(t.Context(), o, 0, o.Size)
					must(t, err)
					got, err := readWith(r, size)
					r.Close()
					if !bytes.HasPrefix(data, got) || (err == nil) != (rotten == 1) || err == nil && len(got) != len(data) {
						t.Errorf("with %d of 2 replicas rotten: %d bytes, %v", rotten, len(got), err)
					}
				}
				if rotten != 2 {
					t.Fatalf("%d replicas rotted", rotten)
				}
			})
		}
	}
}
