package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/millrace/millrace/runtime/store"
)

// faults is a disk that fails as a test says: a directory seen through FUSE.
type faults struct {
	write, read, create atomic.Int32 // the errno, 0 for none
	every               atomic.Int32 // one of so many writes and reads fails; 0 and 1 for all
	short, flip         atomic.Bool  // writes are cut; reads flip a bit
	calls               atomic.Int32
}

func (f *faults) errno(of *atomic.Int32) syscall.Errno {
	if e := of.Load(); e != 0 && (f.every.Load() < 2 || f.calls.Add(1)%f.every.Load() == 0) {
		return syscall.Errno(e)
	}
	return 0
}

func (f *faults) heal() {
	for _, e := range []*atomic.Int32{&f.write, &f.read, &f.create, &f.every} {
		e.Store(0)
	}
	f.short.Store(false)
	f.flip.Store(false)
}

type faultNode struct {
	fs.LoopbackNode
	f *faults
}

// WrapChild implements fs.NodeWrapChilder.
func (n *faultNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &faultNode{fs.LoopbackNode{RootData: ops.(*fs.LoopbackNode).RootData}, n.f}
}

func (n *faultNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.f.errno(&n.f.create); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, fh, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return inode, fh, 0, errno
	}
	return inode, &faultFile{fh.(*fs.LoopbackFile), n.f}, fuse.FOPEN_DIRECT_IO, 0
}

func (n *faultNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, _, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return fh, 0, errno
	}
	return &faultFile{fh.(*fs.LoopbackFile), n.f}, fuse.FOPEN_DIRECT_IO, 0
}

type faultFile struct {
	*fs.LoopbackFile
	f *faults
}

// PassthroughFd keeps the kernel from going around the faults.
func (*faultFile) PassthroughFd() (int, bool) { return 0, false }

func (h *faultFile) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if errno := h.f.errno(&h.f.write); errno != 0 {
		return 0, errno
	}
	if h.f.short.Load() && len(p) > 1 {
		p = p[:len(p)/2]
	}
	return h.LoopbackFile.Write(ctx, p, off)
}

func (h *faultFile) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if errno := h.f.errno(&h.f.read); errno != 0 {
		return nil, errno
	}
	r, errno := h.LoopbackFile.Read(ctx, buf, off)
	if errno != 0 || !h.f.flip.Load() {
		return r, errno
	}
	p, _ := r.Bytes(buf)
	if len(p) > 0 {
		p[len(p)/2] ^= 1
	}
	return fuse.ReadResultData(p), 0
}

// failing mounts a directory through FUSE; real is what is below it.
func failing(t *testing.T) (dir, real string, f *faults) {
	t.Helper()
	dir, real, f = t.TempDir(), t.TempDir(), &faults{}
	root := &fs.LoopbackRoot{Path: real}
	root.RootNode = &faultNode{fs.LoopbackNode{RootData: root}, f}
	server, err := fs.Mount(dir, root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faults"}})
	if err != nil {
		t.Fatalf("mount a disk that fails (root and /dev/fuse are needed): %v", err)
	}
	t.Cleanup(func() {
		f.heal()
		if err := server.Unmount(); err != nil {
			t.Error(err)
			_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		}
		server.Wait()
	})
	return dir, real, f
}

// noWrongByte reads all that the store says it has.
func noWrongByte(t *testing.T, s *store.Store) {
	t.Helper()
	s.Each(func(c store.Change) {
		f, ok := s.Lookup(c.Key)
		if !ok {
			return
		}
		defer f.Close()
		want := content(c.Key, c.Size)
		for b := range f.Blocks() {
			got := make([]byte, min(block, c.Size-int64(b)*block))
			if !f.Has(b) {
				continue
			}
			if _, err := f.ReadAt(got, int64(b)*block); (err == nil || errors.Is(err, io.EOF)) && !bytes.Equal(got, want[b*block:b*block+len(got)]) {
				t.Errorf("%s block %d has wrong bytes", c.Key, b)
			}
		}
	})
}

func TestNoFaultOfADiskGivesAWrongByte(t *testing.T) {
	for what, fault := range map[string]func(f *faults){
		"no space":              func(f *faults) { f.write.Store(int32(syscall.ENOSPC)) },
		"no space now and then": func(f *faults) { f.write.Store(int32(syscall.ENOSPC)); f.every.Store(7) },
		"writes fail":           func(f *faults) { f.write.Store(int32(syscall.EIO)) },
		"some writes fail":      func(f *faults) { f.write.Store(int32(syscall.EIO)); f.every.Store(5) },
		"read-only":             func(f *faults) { f.write.Store(int32(syscall.EROFS)); f.create.Store(int32(syscall.EROFS)) },
		"reads fail":            func(f *faults) { f.read.Store(int32(syscall.EIO)) },
		"writes are short":      func(f *faults) { f.short.Store(true) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			dir, real, f := failing(t)
			o := store.Options{Tiers: one(dir, 200*block)}
			s := openWith(t, o)
			for i := range 4 {
				if err := fill(s, key(i), 2*block+5, i%2 == 0); err != nil {
					t.Fatal(err)
				}
			}
			fault(f)
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() {
					for i := range 6 {
						_ = fill(s, key(10+w*10+i), 2*block+5, i%2 == 0)
						if used, quota := s.Usage(); used > quota {
							t.Errorf("used %d of %d", used, quota)
						}
					}
				})
			}
			wg.Wait()
			s.Close()
			f.heal()
			s = openWith(t, o)
			noWrongByte(t, s)
			for i := range 8 {
				if err := fill(s, key(i), 2*block+5, false); err != nil {
					t.Errorf("when the disk works again: %v", err)
				}
				check(t, s, key(i), 2*block+5)
			}
			if used, _ := s.Usage(); used != onDisk(t, real) {
				t.Errorf("used %d, on disk %d", used, onDisk(t, real))
			}
			for _, tier := range s.Tiers() {
				if tier.PromisedBytes != 0 {
					t.Errorf("%d bytes are promised to nobody", tier.PromisedBytes)
				}
			}
		})
	}
}

func TestBitsThatFlipOnTheDiskAreMisses(t *testing.T) {
	dir, _, f := failing(t)
	s := openWith(t, store.Options{Tiers: one(dir, 200*block)})
	for i := range 4 {
		if err := fill(s, key(i), 2*block, false); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = openWith(t, store.Options{Tiers: one(dir, 200*block)})
	f.flip.Store(true)
	for i := range 4 {
		got, ok := s.Lookup(key(i))
		if !ok {
			t.Fatal("the file is gone")
		}
		if fmt.Sprint(got.Missing(0, 2*block)) != "[0 1]" {
			t.Errorf("file %d misses %v", i, got.Missing(0, 2*block))
		}
		got.Close()
	}
	f.heal()
	if n := s.Stats().BadBlocks; n != 8 {
		t.Errorf("%d bad blocks", n)
	}
}

func TestADiskThatFailsIsLeftOutUntilItWorksAgain(t *testing.T) {
	bad, _, f := failing(t)
	good := t.TempDir()
	s := openWith(t, store.Options{Tiers: []store.Tier{{Medium: "SSD", Dirs: []store.Dir{{Path: bad, QuotaBytes: 200 * block}, {Path: good, QuotaBytes: 100 * block}}}}})
	if err := fill(s, key(1), block, false); err != nil {
		t.Fatal(err)
	}
	f.create.Store(int32(syscall.EROFS))
	f.write.Store(int32(syscall.EROFS))
	for i := 2; i < 6; i++ {
		if err := fill(s, key(i), block, false); err != nil {
			t.Errorf("with one of two disks: %v", err)
		}
	}
	if !strings.Contains(s.Message(), bad) || !s.Tiers()[0].Failed || s.Tiers()[1].UsedBytes != 4*block {
		t.Errorf("message %q, tiers %+v", s.Message(), s.Tiers())
	}
	check(t, s, key(1), block)
	f.heal()
	eventually(t, "the disk is used again", func() bool { return s.Message() == "" })
	if err := fill(s, key(7), block, false); err != nil || s.Tiers()[0].UsedBytes != 2*block {
		t.Errorf("%v, tiers %+v", err, s.Tiers())
	}
}
