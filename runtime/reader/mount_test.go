package reader_test

import (
	"testing"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// TestOnARealMount is the suite of every fuse.FileSystem.
func TestOnARealMount(t *testing.T) {
	fusetest.TestFileSystem(t, func(t *testing.T, c fusetest.Content) fuse.FileSystem {
		s := newScene(t, nil)
		if err := c.WriteTo(s.dir); err != nil {
			t.Fatal(err)
		}
		s.worker("a", 1<<30)
		return s.mountable("a", nil)
	})
}
