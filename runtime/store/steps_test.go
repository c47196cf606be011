package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/store"
)

// guillotine is a disk that kills its user before the change that it is told to,
// and from then on changes nothing any more.
type guillotine struct {
	mu      sync.Mutex
	changes int // since it was set up
	at      int
	pid     int
	most    int64 // bytes that the disk held at most
	disk    string
	path    []string // of each change
}

// change is asked before each change of the disk.
func (g *guillotine) change(what, name string) syscall.Errno {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.changes++
	g.path = append(g.path, what+" "+name)
	var st unix.Statfs_t
	if unix.Statfs(g.disk, &st) == nil {
		g.most = max(g.most, int64(st.Blocks-st.Bfree)*st.Bsize)
	}
	if g.changes < g.at || g.at == 0 {
		return 0
	}
	if g.changes == g.at {
		_ = syscall.Kill(g.pid, syscall.SIGKILL)
	}
	return syscall.EIO
}

type guillotineNode struct {
	fs.LoopbackNode
	g *guillotine
}

func (n *guillotineNode) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &guillotineNode{fs.LoopbackNode{RootData: ops.(*fs.LoopbackNode).RootData}, n.g}
}

func (n *guillotineNode) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if errno := n.g.change("create", name); errno != 0 {
		return nil, nil, 0, errno
	}
	inode, fh, _, errno := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	if errno != 0 {
		return inode, fh, 0, errno
	}
	return inode, &guillotineFile{fh.(*fs.LoopbackFile), n.g}, fuse.FOPEN_DIRECT_IO, 0
}

func (n *guillotineNode) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	fh, _, errno := n.LoopbackNode.Open(ctx, flags)
	if errno != 0 {
		return fh, 0, errno
	}
	return &guillotineFile{fh.(*fs.LoopbackFile), n.g}, fuse.FOPEN_DIRECT_IO, 0
}

func (n *guillotineNode) Unlink(ctx context.Context, name string) syscall.Errno {
	if errno := n.g.change("unlink", name); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Unlink(ctx, name)
}

func (n *guillotineNode) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if errno := n.g.change("mkdir", name); errno != 0 {
		return nil, errno
	}
	return n.LoopbackNode.Mkdir(ctx, name, mode, out)
}

func (n *guillotineNode) Rename(ctx context.Context, name string, to fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	if errno := n.g.change("rename", name); errno != 0 {
		return errno
	}
	return n.LoopbackNode.Rename(ctx, name, to, newName, flags)
}

func (n *guillotineNode) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if errno := n.g.change("truncate", n.Path(nil)); errno != 0 {
		return errno
	}
	if file, ok := f.(*guillotineFile); ok {
		f = file.LoopbackFile
	}
	return n.LoopbackNode.Setattr(ctx, f, in, out)
}

type guillotineFile struct {
	*fs.LoopbackFile
	g *guillotine
}

// PassthroughFd keeps the kernel from going around the guillotine.
func (*guillotineFile) PassthroughFd() (int, bool) { return 0, false }

func (h *guillotineFile) Write(ctx context.Context, p []byte, off int64) (uint32, syscall.Errno) {
	if errno := h.g.change("write", fmt.Sprintf("%d bytes at %d", len(p), off)); errno != 0 {
		// A process may die in the middle of what it writes.
		if len(p) > 1 {
			h.g.mu.Lock()
			if h.g.changes == h.g.at {
				_, _ = h.LoopbackFile.Write(ctx, p[:len(p)/2], off)
			}
			h.g.mu.Unlock()
		}
		return 0, errno
	}
	return h.LoopbackFile.Write(ctx, p, off)
}

const (
	fastQuota = 12 * block
	slowQuota = 40 * block
)

func stepOptions(dir string) store.Options {
	return store.Options{BlockBytes: block, UpkeepEvery: time.Hour, MoveBytes: 1 << 40, TTL: time.Hour, LockWait: time.Minute,
		Tiers: []store.Tier{
			{Medium: "MEM", Dirs: []store.Dir{{Path: filepath.Join(dir, "fast"), QuotaBytes: fastQuota}}, High: 0.8, Low: 0.5},
			{Medium: "SSD", Dirs: []store.Dir{{Path: filepath.Join(dir, "slow"), QuotaBytes: slowQuota}}, High: 0.95, Low: 0.7},
		}}
}

// takeSteps does once all that a store does to a disk. The first error that is
// not for want of room ends it.
func takeSteps(dir string) error {
	s, err := store.Open(context.Background(), stepOptions(dir))
	if err != nil {
		return err
	}
	defer s.Close()
	errs := []error{
		fill(s, key(1), 2*block+7, false),
		fill(s, key(2), 100, false),
		fill(s, key(3), 0, false),
		fill(s, key(50), 4*block, true), // began before
	}
	f, err := s.Acquire(key(4), 3*block, true)
	if err != nil {
		return err
	}
	errs = append(errs, f.WriteBlock(1, content(key(4), 3*block)[block:2*block]))
	_ = f.FillBlock(2, func(w io.Writer) error {
		_, _ = w.Write(content(key(4), 3*block)[2*block : 2*block+9000])
		return errors.New("the source is gone")
	})
	f.Close()
	if f, err = s.Acquire(key(5), block, false); err == nil {
		f.Close() // it never got a block
	}
	s.MoveNow()
	for i := 10; i < 18; i++ { // guests, which owners' files push out
		errs = append(errs, fill(s, key(i), 3*block, true))
	}
	s.Pin(key(11))
	s.Unpin(key(11))
	s.Pin(key(10))
	for i := 20; i < 26; i++ {
		errs = append(errs, fill(s, key(i), 3*block+1, false))
	}
	for range 3 {
		has(s, 20)
	}
	s.Drop(key(1))
	s.Drop(key(22))
	s.Free(key(21))
	s.Free(key(10))
	s.SetGuest(key(2), true)
	s.MoveNow()
	s.CompactNow()
	errs = append(errs, fill(s, key(1), 2*block+7, false)) // again
	held, ok := s.Lookup(key(1))
	if ok {
		s.Drop(key(1)) // while it is leased
		held.Close()
	}
	if f, ok := s.Lookup(key(24)); ok {
		data, err := f.Data()
		if err != nil {
			return err
		}
		if _, err := data.WriteAt([]byte{^content(key(24), block)[9]}, 9); err != nil { // a bit flips
			return err
		}
		f.Recheck(0)
		f.Close()
		errs = append(errs, fill(s, key(24), 3*block+1, false))
		s.ScrubNow(key(24))
	}
	s.ExpireAt(time.Now().Add(2 * time.Hour))
	s.DropAll()
	errs = append(errs, fill(s, key(30), block+1, false), s.Close())
	for _, err := range errs {
		if err != nil && !errors.Is(err, store.ErrNoSpace) {
			return err
		}
	}
	return nil
}

// stepUntilKilled is the process that is killed.
func stepUntilKilled(dir string) {
	if err := takeSteps(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// prepare makes what a process leaves that was killed before: whole files, one
// that had begun, one that was dropped and not yet unlinked, and odds and ends.
func prepare(t *testing.T, dir string) {
	t.Helper()
	s, err := store.Open(t.Context(), stepOptions(dir))
	if err != nil {
		t.Fatal(err)
	}
	for i := 40; i < 44; i++ {
		if err := fill(s, key(i), block, i%2 == 0); err != nil {
			t.Fatal(err)
		}
	}
	f, err := s.Acquire(key(50), 4*block, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.WriteBlock(1, content(key(50), 4*block)[block:2*block]); err != nil {
		t.Fatal(err)
	}
	s.Drop(key(43))
	f.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(dir, "fast", "millrace-v1")
	for name, size := range map[string]int{"journal.tmp": 100, "probe": 4096, filepath.Join("00", string(key(43))): 2 * block} {
		if err := os.WriteFile(filepath.Join(tree, name), make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	half, err := os.OpenFile(filepath.Join(tree, "00", string(key(50))), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := half.WriteAt([]byte("half a block"), 3*block); err != nil {
		t.Fatal(err)
	}
}

// isSound checks what is left in a directory after a kill.
func isSound(t *testing.T, dir, when string) {
	t.Helper()
	o := stepOptions(dir)
	o.MoveBytes = 0
	for _, again := range []string{"", ", opened again"} {
		s, err := store.Open(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		noWrongByte(t, s)
		if again == "" {
			s.Each(func(c store.Change) { // what was half done can be done to its end
				if err := fill(s, c.Key, c.Size, false); err != nil && !errors.Is(err, store.ErrNoSpace) {
					t.Errorf("%s: %v", when, err)
				}
			})
		}
		for _, tier := range s.Tiers() {
			if on := onDisk(t, tier.Path); tier.UsedBytes != on || on > tier.CapacityBytes || tier.PromisedBytes != 0 {
				t.Errorf("%s%s: %s: used %d, on disk %d, quota %d, promised %d", when, again, tier.Medium, tier.UsedBytes, on, tier.CapacityBytes, tier.PromisedBytes)
			}
		}
		if s.Trusted() != 2 {
			t.Errorf("%s%s: %d directories go by their journals", when, again, s.Trusted())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestKillNineAtEveryStepLeavesRightBytes kills a real process before the changes
// that it makes to its disk, one run for each. Of changes of the same kind after
// two of the same kinds it takes the first; all with STORE_TEST_ALL_STEPS=1.
func TestKillNineAtEveryStepLeavesRightBytes(t *testing.T) {
	var steps []int
	t.Run("not killed", func(t *testing.T) {
		stand := newScaffold(t)
		stand.step(t, 0)
		steps = distinct(stand.path)
		t.Logf("%d of %d changes", len(steps), len(stand.path))
	})
	if len(steps) < 50 {
		t.Fatalf("there are %d steps", len(steps))
	}
	for lane := range 2 {
		t.Run(fmt.Sprint(lane), func(t *testing.T) {
			t.Parallel()
			stand := newScaffold(t)
			for i := lane; i < len(steps); i += 2 {
				stand.step(t, steps[i])
			}
		})
	}
}

// distinct chooses changes, which are counted from 1.
func distinct(path []string) (steps []int) {
	seen := map[[3]string]bool{}
	var last [3]string
	for i, p := range path {
		what, name, _ := strings.Cut(p, " ")
		switch {
		case what == "write":
			what, _, _ = strings.Cut(p, " at ")
		case len(name) != 32: // not a cached file
			what = p
		}
		last = [3]string{last[1], last[2], what}
		if !seen[last] || os.Getenv("STORE_TEST_ALL_STEPS") != "" {
			seen[last] = true
			steps = append(steps, i+1)
		}
	}
	return steps
}

// scaffold is a guillotine over a disk of its own.
type scaffold struct {
	*guillotine
	mounted string
}

func newScaffold(t *testing.T) *scaffold {
	t.Helper()
	s := &scaffold{&guillotine{disk: tmpfs(t, "64m")}, t.TempDir()}
	root := &fs.LoopbackRoot{Path: s.disk}
	root.RootNode = &guillotineNode{fs.LoopbackNode{RootData: root}, s.guillotine}
	server, err := fs.Mount(s.mounted, root.RootNode, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "guillotine"}})
	if err != nil {
		t.Fatalf("mount a disk that kills (root and /dev/fuse are needed): %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
			_ = syscall.Unmount(s.mounted, syscall.MNT_DETACH)
		}
		server.Wait()
	})
	return s
}

// step kills a process before one change, 0 for none, and checks what it leaves.
func (s *scaffold) step(t *testing.T, at int) {
	t.Helper()
	name := fmt.Sprintf("run%d", at)
	prepare(t, filepath.Join(s.disk, name))
	if done := s.run(t, filepath.Join(s.mounted, name), at); done != (at == 0) {
		t.Errorf("change %d of %d was not reached", at, len(s.path))
	}
	when := fmt.Sprintf("killed before change %d, %s", at, s.path[len(s.path)-1])
	isSound(t, filepath.Join(s.disk, name), when)
	if most := s.most - bookkeeping(t, filepath.Join(s.disk, name)); most > fastQuota+slowQuota {
		t.Errorf("%s: %d bytes were on the disk, the quotas are %d", when, most, fastQuota+slowQuota)
	}
	if err := os.RemoveAll(filepath.Join(s.disk, name)); err != nil {
		t.Fatal(err)
	}
}

// bookkeeping bounds what is on the disk beside cached files: journals and their
// successors.
func bookkeeping(t *testing.T, dir string) (n int64) {
	t.Helper()
	for _, tier := range []string{"fast", "slow"} {
		st, err := os.Stat(filepath.Join(dir, tier, "millrace-v1", "journal"))
		if err != nil {
			t.Fatal(err)
		}
		n += 4*4096 + 4*st.Size()
	}
	return n
}

// run has a process take its steps until the change at, and tells whether it
// came to its end before.
func (g *guillotine) run(t *testing.T, dir string, at int) (done bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "STORE_TEST_STEP_UNTIL_KILLED="+dir)
	var said lines
	cmd.Stderr = &said
	g.mu.Lock() // nothing changes before it is known whom to kill
	g.changes, g.at, g.most, g.path = 0, at, 0, nil
	if err := cmd.Start(); err != nil {
		g.mu.Unlock()
		t.Fatal(err)
	}
	g.pid = cmd.Process.Pid
	g.mu.Unlock()
	err := cmd.Wait()
	g.mu.Lock()
	g.at = 0
	g.mu.Unlock()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return false
	}
	if err != nil {
		t.Fatalf("change %d: %v: %s", at, err, said)
	}
	return true
}

type lines []byte

func (l *lines) Write(p []byte) (int, error) {
	*l = append(*l, p...)
	return len(p), nil
}
