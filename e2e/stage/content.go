// Package stage is the scenery of the demo and of the end-to-end suite: a slow
// remote file system, seeded objects and a timed copy. Its parts run as pods.
package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Epoch is the modification time of every file that is made here, so that the
// same file made on two nodes is the same version.
var Epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Content is the sequence of size bytes that belongs to a name, the same on
// every machine and incompressible.
func Content(name string, size int64) io.Reader {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(h.Sum64() >> (8 * (i % 8)))
	}
	return io.LimitReader(rand.NewChaCha8(seed), size)
}

// Digest is the SHA-256 of Content in hex.
func Digest(name string, size int64) string {
	h := sha256.New()
	if _, err := io.Copy(h, Content(name, size)); err != nil {
		panic(err) // neither a hash nor a generator fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// WriteFile makes the file dir/name with its Content unless it is there already.
func WriteFile(dir, name string, size int64) error {
	path := filepath.Join(dir, name)
	if st, err := os.Stat(path); err == nil && st.Size() == size && st.ModTime().Equal(Epoch) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory for %s: %w", path, err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer f.Close()
	if _, err := io.CopyBuffer(f, Content(name, size), make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", path, err)
	}
	return os.Chtimes(path, Epoch, Epoch)
}
