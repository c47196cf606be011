package namespace

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/millrace/millrace/runtime/source"
)

// named is a mount of a source with an ID, and counts how often it is opened.
func named(path, id string, s source.Store, opened *atomic.Int32) Mount {
	return Mount{Path: path, URI: "mem://" + id, ID: id, Open: func(context.Context) (source.Store, error) {
		if opened != nil {
			opened.Add(1)
		}
		return s, nil
	}}
}

func know(t *testing.T, tree *Tree) {
	t.Helper()
	if err := tree.WaitKnown(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
}

func TestMountsComeAndGo(t *testing.T) {
	for name, tc := range map[string]struct {
		before, after []string
		want          []string
	}{
		"one beside another":           {[]string{"/a"}, []string{"/a", "/b"}, []string{"a/", "a/f", "a/g/", "a/g/h", "b/", "b/f", "b/g/", "b/g/h"}},
		"one of two goes":              {[]string{"/a", "/b"}, []string{"/b"}, []string{"b/", "b/f", "b/g/", "b/g/h"}},
		"deep ones take their way":     {[]string{"/x/y/z", "/a"}, []string{"/a"}, []string{"a/", "a/f", "a/g/", "a/g/h"}},
		"a shared way stays":           {[]string{"/x/y", "/x/z"}, []string{"/x/z"}, []string{"x/", "x/z/", "x/z/f", "x/z/g/", "x/z/g/h"}},
		"the root comes":               {[]string{"/a"}, []string{"/", "/a"}, []string{"a/", "a/f", "a/g/", "a/g/h", "f", "g/", "g/h"}},
		"the root goes":                {[]string{"/", "/a"}, []string{"/a"}, []string{"a/", "a/f", "a/g/", "a/g/h"}},
		"over a directory of an outer": {[]string{"/"}, []string{"/", "/g"}, []string{"f", "g/", "g/f", "g/g/", "g/g/h"}},
		"over a file of an outer":      {[]string{"/"}, []string{"/", "/f"}, []string{"f/", "f/f", "f/g/", "f/g/h", "g/", "g/h"}},
		"off a directory of an outer":  {[]string{"/", "/g"}, []string{"/"}, []string{"f", "g/", "g/h"}},
		"off the deep of an outer":     {[]string{"/", "/g/x/y"}, []string{"/"}, []string{"f", "g/", "g/h"}},
		"an outer goes":                {[]string{"/a", "/a/g"}, []string{"/a/g"}, []string{"a/", "a/g/", "a/g/f", "a/g/g/", "a/g/g/h"}},
		"an outer comes":               {[]string{"/a/g"}, []string{"/a", "/a/g"}, []string{"a/", "a/f", "a/g/", "a/g/f", "a/g/g/", "a/g/g/h"}},
		"all go":                       {[]string{"/", "/a"}, nil, nil},
		"another source at a path":     {[]string{"/a"}, []string{"/a#2"}, []string{"a/", "a/f", "a/g/", "a/g/h"}},
		"another source at the root":   {[]string{"/", "/g"}, []string{"/#2", "/g"}, []string{"f", "g/", "g/f", "g/g/", "g/g/h"}},
	} {
		t.Run(name, func(t *testing.T) {
			mounts := func(specs []string) (out []Mount) {
				for _, spec := range specs {
					path, _, _ := strings.Cut(spec, "#")
					out = append(out, named(path, spec, newMem("f", "g/h"), nil))
				}
				return out
			}
			synctest.Test(t, func(t *testing.T) {
				l := &ledger{files: map[string]string{}}
				file := filepath.Join(t.TempDir(), "tree")
				tree, err := New(mounts(tc.before), Options{OnChange: l.change, Save: file})
				if err != nil {
					t.Fatal(err)
				}
				know(t, tree)
				paths(t, tree, RootIno, "")
				if err := tree.SetMounts(mounts(tc.after)); err != nil {
					t.Fatal(err)
				}
				if len(tc.after) > 0 {
					know(t, tree)
				}
				if diff := cmp.Diff(tc.want, paths(t, tree, RootIno, "")); diff != "" {
					t.Errorf("the tree (-want +got):\n%s", diff)
				}
				time.Sleep(3 * time.Minute) // walks
				if diff := cmp.Diff(tc.want, paths(t, tree, RootIno, "")); diff != "" {
					t.Errorf("after more walks (-want +got):\n%s", diff)
				}
				fresh := newTree(t, Options{}, mounts(tc.after)...)
				know(t, fresh)
				paths(t, fresh, RootIno, "")
				was, is := tree.Totals(), fresh.Totals()
				if was.Files != is.Files || was.Bytes != is.Bytes || was.Complete != is.Complete {
					t.Errorf("totals %+v, of a new tree %+v", was, is)
				}
				tree.mu.Lock()
				for ino, d := range tree.dirs {
					if tree.gone(d) || d.ino != ino {
						t.Errorf("%d is a directory that has left", ino)
					}
				}
				if got, want := len(tree.files), len(fresh.files); got != want {
					t.Errorf("%d files have numbers, of a new tree %d", got, want)
				}
				tree.mu.Unlock()
				l.mu.Lock()
				if len(l.files) != int(is.Files) {
					t.Errorf("told of %v, want %d", l.files, is.Files)
				}
				l.mu.Unlock()
				for _, e := range entriesBelow(t, tree, RootIno) {
					if id := e.Source; e.Mount != "" && !contains(tc.after, id) {
						t.Errorf("%s is of source %q", e.Name, id)
					}
				}
				tree.Close()
				again := newTree(t, Options{Save: file}, mounts(tc.after)...)
				if r := again.Counts().Restored; len(tc.after) > 0 && r.Discarded != "" {
					t.Errorf("restored %+v", r)
				}
				if diff := cmp.Diff(tc.want, paths(t, again, RootIno, "")); diff != "" {
					t.Errorf("restored (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func contains(specs []string, id string) bool {
	for _, s := range specs {
		if s == id {
			return true
		}
	}
	return false
}

func entriesBelow(t *testing.T, tree *Tree, ino uint64) (all []Entry) {
	t.Helper()
	entries, err := tree.ReadDir(t.Context(), ino)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		all = append(all, e)
		if e.IsDir() {
			all = append(all, entriesBelow(t, tree, e.Ino)...)
		}
	}
	return all
}

func TestOtherMountsAreLeftAloneWhenOneChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var kept, other atomic.Int32
		a := newMem("f")
		tree := newTree(t, Options{TTL: time.Hour}, named("/a", "/a", a, &kept), named("/b", "/b", newMem("x"), nil))
		know(t, tree)
		before, record := find(t, tree, "/a/f"), tree.Totals().Snapshot
		walks := tree.Counts().Walks
		if err := tree.SetMounts([]Mount{named("/a", "/a", a, &kept), named("/b", "/b#2", newMem("x"), &other)}); err != nil {
			t.Fatal(err)
		}
		know(t, tree)
		if kept.Load() != 1 || other.Load() != 1 || tree.Counts().Walks != walks+1 {
			t.Errorf("opened %d and %d times, %d walks instead of %d", kept.Load(), other.Load(), tree.Counts().Walks, walks+1)
		}
		if e := find(t, tree, "/a/f"); e != before {
			t.Errorf("was %+v, is %+v", before, e)
		}
		if tree.Totals().Snapshot == record {
			t.Error("another source with the same entries has the same record")
		}
	})
}

func TestAMountIsOpenedAnewForAnotherVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var opened atomic.Int32
		m := named("/", "/", newMem("f"), &opened)
		tree := newTree(t, Options{TTL: time.Hour}, m)
		know(t, tree)
		record := tree.Totals().Snapshot
		m.Version = "2"
		if err := tree.SetMounts([]Mount{m}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if opened.Load() != 2 || tree.Totals().Snapshot != record {
			t.Errorf("opened %d times", opened.Load())
		}
	})
}

func TestASecondMountAtAPathChangesNothing(t *testing.T) {
	tree := newTree(t, Options{}, named("/a", "/a", newMem("f"), nil))
	err := tree.SetMounts([]Mount{named("/b", "/b", newMem("f"), nil), named("/b", "2", newMem("f"), nil)})
	if !errors.Is(err, source.ErrInvalid) {
		t.Error(err)
	}
	find(t, tree, "/a/f")
}

// Mounts come and go while everything is looked at and walked: the tree ends as
// one that was made of the last mounts.
func TestMountsChangeUnderThoseWhoLook(t *testing.T) {
	stores := map[string]*memStore{}
	mounts := func(round int) (out []Mount) {
		for i, path := range []string{"/", "/g", "/a", "/a/b/c"} {
			if (round>>i)&1 == 0 {
				id := fmt.Sprintf("%s#%d", path, round%3)
				if stores[id] == nil {
					stores[id] = newMem("f", "g/h", "g/i/j", "only-"+fmt.Sprint(round%3))
				}
				out = append(out, named(path, id, stores[id], nil))
			}
		}
		return out
	}
	tree := newTree(t, Options{TTL: time.Millisecond, WalkInterval: time.Millisecond}, mounts(0)...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for ctx.Err() == nil {
				for _, p := range []string{"/g/h", "/a/g/i/j", "/a/b/c/f", "/only-1"} {
					if e, err := tree.Resolve(ctx, p); err == nil {
						_, _ = tree.Refresh(ctx, e.Ino, "")
					}
				}
				_ = tree.Scan(ctx, "/")
			}
		}()
	}
	for round := range 300 {
		if err := tree.SetMounts(mounts(round)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	<-done
	<-done
	if err := tree.SetMounts(mounts(16)); err != nil {
		t.Fatal(err)
	}
	know(t, tree)
	if err := tree.Scan(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	fresh := newTree(t, Options{}, mounts(16)...)
	know(t, fresh)
	if diff := cmp.Diff(paths(t, fresh, RootIno, ""), paths(t, tree, RootIno, "")); diff != "" {
		t.Errorf("the tree (-want +got):\n%s", diff)
	}
}
