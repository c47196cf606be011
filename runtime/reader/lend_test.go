package reader

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

func TestARangeOfACachedFileIsMapped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	data := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, r := range []span{{0, 1}, {0, int64(len(data))}, {4096, 200_000}, {12_345, 123_456}, {int64(len(data)) - 7, 7}} {
		p, unmap := mapRange(f, r.off, r.n)
		if !bytes.Equal(p, data[r.off:r.off+r.n]) {
			t.Errorf("%v is not what is in the file", r)
		}
		if unmap != nil {
			unmap()
		}
	}
	// A disk that fails shows in the same way: the page cannot be had.
	if err := os.Truncate(file, 100_000); err != nil {
		t.Fatal(err)
	}
	if p, _ := mapRange(f, 0, 200_000); p != nil {
		t.Error("pages that cannot be had were given")
	}
}
