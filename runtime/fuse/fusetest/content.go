// Package fusetest has the suite that every fuse.FileSystem must pass on a real
// mount, and a FileSystem whose every turn a test can decide.
package fusetest

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// Content is a tree by path, without leading slash; parents need not be named.
type Content map[string]Item

// Item is a file, or a symbolic link if Link is set, or a directory if Dir is.
type Item struct {
	Data []byte
	Link string
	Dir  bool
}

// ModTime is the modification time of every item of a Content.
var ModTime = time.Date(2024, 2, 29, 12, 30, 15, 500, time.UTC)

// Names of what Standard holds.
const (
	LargeFile  = "large.bin"
	ManyDir    = "many"
	SmallDir   = "small"
	DeepFile   = "a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/deep.txt"
	EmptyFile  = "empty"
	SpacedFile = "names/with  two spaces.txt"
	UniFile    = "names/ünïcødé 数据 🌊.txt"
	LinkName   = "link"
	EmptyDir   = "empty-dir"

	ManyEntries = 10_000
	SmallFiles  = 5_000
	largeBytes  = 24<<20 + 4321 // not a multiple of anything
)

// Standard is the tree of the suite.
func Standard() Content {
	c := Content{
		LargeFile:  {Data: Bytes(1, largeBytes)},
		DeepFile:   {Data: []byte("deep\n")},
		EmptyFile:  {Data: []byte{}},
		SpacedFile: {Data: []byte("spaces\n")},
		UniFile:    {Data: []byte("unicode\n")},
		LinkName:   {Link: SpacedFile},
		EmptyDir:   {Dir: true},
	}
	for i := range ManyEntries {
		c[fmt.Sprintf("%s/entry-%05d", ManyDir, i)] = Item{Data: []byte{byte(i)}}
	}
	for i := range SmallFiles {
		c[SmallFile(i)] = Item{Data: Bytes(uint64(i), 1+i%4096)}
	}
	return c
}

// SmallFile is the path of small file number i.
func SmallFile(i int) string { return fmt.Sprintf("%s/%02d/f%04d", SmallDir, i%100, i) }

// Bytes are n bytes that depend on seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

// Sum is the digest by which the suite compares.
func Sum(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }

// WriteTo lays the tree out below dir, for sources that serve a directory.
func (c Content) WriteTo(dir string) error {
	for p, item := range c {
		full := filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		switch {
		case item.Dir:
			if err := os.MkdirAll(full, 0o755); err != nil {
				return err
			}
		case item.Link != "":
			if err := os.Symlink(item.Link, full); err != nil {
				return err
			}
		default:
			if err := os.WriteFile(full, item.Data, 0o644); err != nil {
				return err
			}
			if err := os.Chtimes(full, ModTime, ModTime); err != nil {
				return err
			}
		}
	}
	return nil
}
