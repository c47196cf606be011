package reader_test

import (
	"testing"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// TestProgramsOnARealMount runs what users run, in either profile, with a worker
// on the node and without one.
func TestProgramsOnARealMount(t *testing.T) {
	s := newScene(t, nil)
	if err := fusetest.ProgramFiles(s.dir); err != nil {
		t.Fatal(err)
	}
	s.workerProcess("a", 1<<30) // it has descriptors of its own, for ten thousand files
	for name, tc := range map[string]struct {
		node    string
		profile fuse.Profile
	}{
		"large files, a worker here": {"a", fuse.ProfileLarge},
		"small files, a worker here": {"a", fuse.ProfileSmall},
		"large files, no worker":     {"", fuse.ProfileLarge},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := fusetest.MountWith(t, s.reader(tc.node, nil), fuse.Options{Profile: tc.profile})
			fusetest.TestPrograms(t, dir, s.dir)
		})
	}
}
