package namespace

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/source"
)

func TestMain(m *testing.M) {
	// A hundred random runs, the default of rapid, would take minutes.
	if err := flag.Set("rapid.checks", "15"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

func mountOf(path string, s source.Store) Mount {
	return Mount{Path: path, URI: "mem://test", Open: func(context.Context) (source.Store, error) { return s, nil }}
}

func newTree(t *testing.T, opts Options, mounts ...Mount) *Tree {
	t.Helper()
	tree, err := New(mounts, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tree.Close)
	return tree
}

// paths lists everything below an entry, directories with a trailing slash.
func paths(t *testing.T, tree *Tree, ino uint64, at string) []string {
	t.Helper()
	entries, err := tree.ReadDir(t.Context(), ino)
	if err != nil {
		t.Fatalf("read %q: %v", at, err)
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, at+e.Name+"/")
			all = append(all, paths(t, tree, e.Ino, at+e.Name+"/")...)
			continue
		}
		all = append(all, at+e.Name)
	}
	return all
}

func find(t *testing.T, tree *Tree, path string) Entry {
	t.Helper()
	e, err := tree.Resolve(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// ledger keeps what a tree tells of its files, as the master does.
type ledger struct {
	mu      sync.Mutex
	files   map[string]string // path → version
	invalid []Invalidation
}

func (l *ledger) change(c Change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range c.Removed {
		if l.files[e.Mount+"|"+e.Path] == e.ETag {
			delete(l.files, e.Mount+"|"+e.Path)
		}
	}
	for _, e := range c.Added {
		l.files[e.Mount+"|"+e.Path] = e.ETag
	}
	l.invalid = append(l.invalid, c.Invalid...)
}

func TestTree(t *testing.T) {
	kinds := map[string]func(*memStore) source.Store{
		"listed":           func(s *memStore) source.Store { return s },
		"walked by prefix": func(s *memStore) source.Store { return walkStore{s} },
	}
	for kind, as := range kinds {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testTree(t, as) })
		})
	}
}

func testTree(t *testing.T, as func(*memStore) source.Store) {
	outer := newMem("top", "a/file", "a/deep/er/x", "a/.hidden", "a/with space", "a/ünïcode-файл", "b", "b/c", "a/m/shadowed", "bad//key")
	inner := newMem("in", "sub/in2")
	far := newMem("f")
	l := &ledger{files: map[string]string{}}
	tree := newTree(t, Options{OnChange: l.change}, mountOf("/", as(outer)), mountOf("/a/m", as(inner)), mountOf("/v/w", as(far)))
	defer tree.Close()
	synctest.Wait()
	want := []string{
		"a/", "a/.hidden", "a/deep/", "a/deep/er/", "a/deep/er/x", "a/file", "a/m/", "a/m/in", "a/m/sub/", "a/m/sub/in2",
		"a/with space", "a/ünïcode-файл", "b/", "b/c", "top", "v/", "v/w/", "v/w/f",
	}
	got := paths(t, tree, RootIno, "")
	got = slices.DeleteFunc(got, func(p string) bool { return p == "bad/" })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	check := func(files int64) {
		t.Helper()
		sum := tree.Totals()
		if !sum.Complete || sum.Files != files || sum.Bytes != files*10 || len(l.files) != int(files) {
			t.Errorf("totals %+v, ledger %v, want %d files of 10 bytes", sum, slices.Sorted(maps.Keys(l.files)), files)
		}
	}
	check(10)
	before := tree.Totals().Snapshot

	e := find(t, tree, "/a/m/sub/in2")
	if e.Mount != "/a/m" || e.Path != "sub/in2" || e.Name != "in2" || e.ETag != "v1" {
		t.Errorf("entry %+v", e)
	}
	byIno, err := tree.Lookup(t.Context(), e.Ino, "")
	if err != nil || byIno != e {
		t.Errorf("by inode: %+v, %v", byIno, err)
	}

	// Changes are seen by the walk, and told.
	outer.put("a/file", "v2", 10)
	outer.remove("top")
	outer.remove("a/deep/er/x")
	outer.put("a/new/n", "v1", 10)
	l.mu.Lock()
	l.invalid = nil
	l.mu.Unlock()
	time.Sleep(DefaultTTL + time.Second)
	synctest.Wait()
	check(9)
	if l.files["/|a/file"] != "v2" {
		t.Error("the new version was not told")
	}
	file := find(t, tree, "/a/file")
	for _, want := range []Invalidation{
		{find(t, tree, "/a").Ino, "file"}, {file.Ino, ""}, {RootIno, "top"},
		{find(t, tree, "/a").Ino, "new"}, {find(t, tree, "/a").Ino, "deep"},
	} {
		if !slices.Contains(l.invalid, want) {
			t.Errorf("no invalidation %+v in %+v", want, l.invalid)
		}
	}
	if after := tree.Totals().Snapshot; after == before {
		t.Error("the snapshot kept its name")
	}
	// Back to the old state: the same name again.
	outer.put("a/file", "v1", 10)
	outer.put("top", "v1", 10)
	outer.put("a/deep/er/x", "v1", 10)
	outer.remove("a/new/n")
	if err := tree.Scan(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	check(10)
	if after := tree.Totals().Snapshot; after != before {
		t.Errorf("snapshot %s of the same state as %s", after, before)
	}
}

func TestListingsAreSharedAndKeptForTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("d/a")
		tree := newTree(t, Options{TTL: time.Minute, WalkInterval: time.Hour}, mountOf("/", s))
		defer tree.Close()
		synctest.Wait()
		d := find(t, tree, "/d")
		time.Sleep(61 * time.Second)
		s.put("d/b", "v1", 1)
		s.mu.Lock()
		s.hold = make(chan struct{})
		s.mu.Unlock()
		before := s.listings()
		results := make(chan error, 10)
		for range 10 {
			go func() {
				_, err := tree.Lookup(t.Context(), d.Ino, "b")
				results <- err
			}()
		}
		synctest.Wait()
		close(s.hold)
		for range 10 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if _, err := tree.ReadDir(t.Context(), d.Ino); err != nil {
			t.Error(err)
		}
		if n := s.listings() - before; n != 1 {
			t.Errorf("%d listings for eleven looks, want one", n)
		}
	})
}

func TestAMountThatFailsDoesNotTouchTheOthersAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newMem("g"), newMem("b")
		bad.fail(source.ErrDenied)
		tree := newTree(t, Options{}, mountOf("/good", good), mountOf("/bad", bad))
		defer tree.Close()
		synctest.Wait()
		find(t, tree, "/good/g")
		if _, err := tree.Resolve(t.Context(), "/bad/b"); !errors.Is(err, source.ErrDenied) {
			t.Errorf("below the bad mount: %v", err)
		}
		if _, err := tree.Lookup(t.Context(), 12345, ""); !errors.Is(err, source.ErrDenied) {
			t.Errorf("an unknown inode: %v", err)
		}
		states := tree.MountStates()
		if !errors.Is(states[0].Err, source.ErrDenied) || states[1].Err != nil || tree.Totals().Complete {
			t.Errorf("states %+v", states)
		}
		if err := tree.WaitKnown(t.Context(), "/"); !errors.Is(err, source.ErrDenied) {
			t.Errorf("wait: %v", err)
		}
		bad.fail(nil)
		time.Sleep(2 * lastRetry)
		synctest.Wait()
		find(t, tree, "/bad/b")
		if !tree.Totals().Complete {
			t.Error("not complete after the source came back")
		}
		// Down again: what is known stays.
		bad.fail(source.ErrUnavailable)
		time.Sleep(3 * time.Minute)
		find(t, tree, "/bad/b")
		time.Sleep(time.Second)
		synctest.Wait()
		if err := tree.MountStates()[0].Err; !errors.Is(err, source.ErrUnavailable) {
			t.Errorf("state: %v", err)
		}
		bad.fail(nil)
		time.Sleep(2 * lastRetry)
		if err := tree.MountStates()[0].Err; err != nil {
			t.Errorf("state: %v", err)
		}
	})
}

func TestInodesOfAFormerProcessAreFoundByTheWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("d/a")
		first := newTree(t, Options{}, mountOf("/", s))
		synctest.Wait()
		ino := find(t, first, "/d/a").Ino
		first.Close()
		s.hold = make(chan struct{})
		second := newTree(t, Options{}, mountOf("/", s))
		defer second.Close()
		got := make(chan error, 1)
		go func() {
			e, err := second.Lookup(t.Context(), ino, "")
			if err == nil && e.Path != "d/a" {
				err = fmt.Errorf("found %+v", e)
			}
			got <- err
		}()
		synctest.Wait()
		close(s.hold)
		if err := <-got; err != nil {
			t.Error(err)
		}
		if _, err := second.Lookup(t.Context(), 4711, ""); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("an inode that never was: %v", err)
		}
	})
}

func TestRefreshSeesOneEntryNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("d/a", "d/b")
		tree := newTree(t, Options{}, mountOf("/", s))
		defer tree.Close()
		synctest.Wait()
		d := find(t, tree, "/d")
		s.put("d/a", "v2", 20)
		s.remove("d/b")
		if e, err := tree.Refresh(t.Context(), d.Ino, "a"); err != nil || e.Size != 20 || e.ETag != "v2" {
			t.Errorf("%+v, %v", e, err)
		}
		if _, err := tree.Lookup(t.Context(), d.Ino, "b"); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("the rest of the directory is stale: %v", err)
		}
		s.remove("d/a")
		if _, err := tree.Refresh(t.Context(), d.Ino, "a"); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("a vanished file: %v", err)
		}
		if sum := tree.Totals(); sum.Bytes != 0 || sum.Files != 0 {
			t.Errorf("%+v", sum)
		}
	})
}

func TestInodesDoNotDependOnTheOrderOfDiscovery(t *testing.T) {
	clash := func(_ uint64, name string) uint64 {
		p, salt, _ := strings.Cut(name, "\x00")
		return 100 + uint64(len(salt)) + uint64(len(salt)*int(p[len(p)-1]))
	}
	number := func(names ...string) map[string]uint64 {
		tree, err := blank(nil, Options{hash: clash})
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range names {
			c := tree.changes()
			tree.put(tree.root, name, &source.Object{Dir: i%2 == 0}, c)
			c.publish()
		}
		inos := map[string]uint64{}
		for it := range tree.root.items {
			inos[it.name] = tree.inoOf(tree.root, it.name)
			if e, ok := tree.Known(inos[it.name]); !ok || e.Name != it.name {
				t.Errorf("%s is not found by its number", it.name)
			}
		}
		return inos
	}
	want := number("a", "b", "c", "d")
	if len(slices.Compact(slices.Sorted(maps.Values(want)))) != 4 {
		t.Fatalf("numbers are not unique: %v", want)
	}
	for _, order := range [][]string{{"d", "c", "b", "a"}, {"b", "d", "a", "c"}} {
		if diff := cmp.Diff(want, number(order...)); diff != "" {
			t.Errorf("in order %v: %s", order, diff)
		}
	}
}

func TestTwoMountsOfOnePathAreRefused(t *testing.T) {
	if _, err := New([]Mount{mountOf("/a", newMem()), mountOf("/a", newMem())}, Options{}); !errors.Is(err, source.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestADirectoryThatMayNotBeListedHidesNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("a", "secret/x")
		s.deny = "secret"
		tree := newTree(t, Options{}, mountOf("/", s))
		defer tree.Close()
		synctest.Wait()
		state := tree.MountStates()[0]
		if state.Err != nil || !state.Walked || !strings.Contains(state.Note, "mem://test/secret") || !tree.Totals().Complete {
			t.Errorf("state %+v", state)
		}
		secret := find(t, tree, "/secret")
		s.put("new", "v1", 10)
		for range 20 { // looking at it in vain must not put off the walks
			time.Sleep(5 * time.Second)
			if _, err := tree.ReadDir(t.Context(), secret.Ino); !errors.Is(err, source.ErrDenied) {
				t.Fatalf("got %v", err)
			}
		}
		if sum := tree.Totals(); sum.Files != 2 {
			t.Errorf("totals %+v", sum)
		}
	})
}

func TestEntityTagsAreGivenAsTheyCame(t *testing.T) {
	for _, tag := range []string{
		`"d41d8cd98f00b204e9800998ecf8427e"`, `"D41D8CD98F00B204E9800998ECF8427E"`, `"d41d8cd98f00b204e9800998ecf8427e-12"`,
		`"xy1d8cd98f00b204e9800998ecf8427e"`, "d41d8cd98f00b204e9800998ecf8427e", "", "v1",
	} {
		s := newMem()
		s.put("f", tag, 1)
		tree := newTree(t, Options{}, mountOf("/", s))
		if e := find(t, tree, "/f"); e.ETag != tag || e.Mode != 0o100644 {
			t.Errorf("%s became %s, mode %o", tag, e.ETag, e.Mode)
		}
	}
}
