package reader_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// TestProgramsOnARealMount runs what users run, in either profile, one with a
// worker on the node and one without.
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
		"small files, no worker":     {"", fuse.ProfileSmall},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := fusetest.MountWith(t, s.mountable(tc.node, nil), fuse.Options{Profile: tc.profile})
			fusetest.TestPrograms(t, dir, s.dir)
		})
	}
}

// TestAChangeAtTheSourceIsSeenThroughAMount changes a file that a program has
// open, with a source, a master, a worker and a kernel that are all real.
func TestAChangeAtTheSourceIsSeenThroughAMount(t *testing.T) {
	for _, profile := range []fuse.Profile{fuse.ProfileLarge, fuse.ProfileSmall} {
		t.Run(string(profile), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, nil)
			const size = 3*block + 17
			s.put("d/large", content("v1", size))
			s.put("d/small", content("v1", 50_000))
			s.put("d/gone", content("v1", 50_000))
			s.worker("a", 1<<30)
			dir, _ := fusetest.MountWith(t, s.mountable("a", nil), fuse.Options{Profile: profile})
			old := map[string]*os.File{}
			for _, name := range []string{"large", "small", "gone"} {
				f, err := os.Open(filepath.Join(dir, "d", name))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := f.ReadAt(make([]byte, 4096), 0); err != nil {
					t.Fatal(err)
				}
				old[name] = f
			}
			s.put("d/large", content("v2", size)) // of the same size
			s.put("d/small", content("v2", 60_000))
			s.put("d/new", content("v2", 10))
			if err := os.Remove(filepath.Join(s.dir, "d/gone")); err != nil {
				t.Fatal(err)
			}
			s.load(&wirepb.LoadRequest{Id: "look again", LoadMetadata: true})
			for name, size := range map[string]int{"large": size, "small": 60_000, "new": 10} {
				s.until(name+" is not new", func() bool {
					got, err := os.ReadFile(filepath.Join(dir, "d", name))
					return err == nil && bytes.Equal(got, content("v2", size))
				})
			}
			s.until("what is gone is there", func() bool {
				_, err := os.Stat(filepath.Join(dir, "d/gone"))
				return errors.Is(err, syscall.ENOENT)
			})
			for name, f := range old {
				want := content("v1", map[string]int{"large": size, "small": 50_000, "gone": 50_000}[name])
				got := make([]byte, len(want))
				n, err := io.ReadFull(io.NewSectionReader(f, 0, int64(len(want))), got)
				if !bytes.Equal(got[:n], want[:n]) {
					t.Errorf("%s: the old handle reads other bytes than its own", name)
				}
				if err != nil && !errors.Is(err, syscall.ESTALE) {
					t.Errorf("%s: the old handle: %v", name, err)
				}
			}
		})
	}
}
