package namespace

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/runtime/source"
)

// mirror is a reader that knows only what it was told: it holds what it looked
// up until an invalidation takes it away.
type mirror struct {
	mu    sync.Mutex
	files map[string]string // mount|path → version, from Added and Removed
	held  map[Invalidation]string
}

func (m *mirror) change(c Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range c.Removed {
		if m.files[e.Mount+"|"+e.Path] == stamp(e) {
			delete(m.files, e.Mount+"|"+e.Path)
		}
	}
	for _, e := range c.Added {
		m.files[e.Mount+"|"+e.Path] = stamp(e)
	}
	for _, inv := range c.Invalid {
		delete(m.held, inv)
	}
}

func stamp(e Entry) string { return fmt.Sprint(e.ETag, e.Size, e.MTime, e.Mode) }

// look is what a tree shows of itself, path by path.
func look(t *rapid.T, tree *Tree, ino uint64, at string, into map[string]string) {
	entries, err := tree.ReadDir(context.Background(), ino)
	if err != nil {
		t.Fatalf("read %q: %v", at, err)
	}
	for _, e := range entries {
		if e.IsDir() {
			look(t, tree, e.Ino, at+e.Name+"/", into)
			continue
		}
		into[at+e.Name] = stamp(e)
		if known, ok := tree.Known(e.Ino); !ok || known != e {
			t.Fatalf("inode %d is %+v, want %+v", e.Ino, known, e)
		}
	}
}

// want is what a source shows: keys, less those that lie at a directory's name.
func want(s *memStore) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	dirs := map[string]bool{}
	for path := range s.files {
		for at := parentOf(path); at != "" && !dirs[at]; at = parentOf(at) {
			dirs[at] = true
		}
	}
	all := map[string]string{}
	for path, o := range s.files {
		if !dirs[path] {
			all[path] = fmt.Sprint(o.ETag, o.Size, o.ModTime.UnixNano(), uint32(0o100644))
		}
	}
	return all
}

// TestATreeIsItsSource makes random changes, looks at them in every way there
// is, and compares the tree, its sums, what it told, and its name with those of
// a tree that is made anew and of one that is restored.
func TestATreeIsItsSource(t *testing.T) {
	slog.SetLogLoggerLevel(slog.LevelError)
	defer slog.SetLogLoggerLevel(slog.LevelInfo)
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		save := filepath.Join(dir, fmt.Sprint(runs))
		mem := newMem()
		var s source.Store = mem
		if rapid.Bool().Draw(t, "walks") {
			s = walkStore{mem}
		}
		opts := Options{TTL: time.Hour, WalkInterval: time.Hour, Save: save, SaveInterval: time.Hour}
		if rapid.Bool().Draw(t, "clashes") {
			opts.hash = func(dir uint64, name string) uint64 { return 2 + hashName(dir, name)%(1<<17) }
		}
		m := &mirror{files: map[string]string{}, held: map[Invalidation]string{}}
		opts.OnChange = m.change
		mounts := []Mount{mountOf("/in/m", s)}
		tree, err := New(mounts, opts)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { tree.Close() }()
		ctx := context.Background()
		if err := tree.WaitKnown(ctx, "/"); err != nil {
			t.Fatal(err)
		}
		name := rapid.StringMatching(`[a-c]{1,2}(/[a-c]{1,2}){0,2}`)
		many := rapid.IntRange(0, 900)
		same := func(tree *Tree) {
			t.Helper()
			got := map[string]string{}
			look(t, tree, find2(t, tree, "/in/m").Ino, "", got)
			if diff := cmp.Diff(want(mem), got); diff != "" {
				t.Fatal(diff)
			}
			var bytes int64
			tree.Files(RootIno, func(e Entry) bool { bytes += e.Size; return true })
			if sum := tree.Totals(); sum.Files != int64(len(got)) || sum.Bytes != bytes {
				t.Fatalf("totals %+v of %d files, %d bytes", sum, len(got), bytes)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				mem.put(name.Draw(t, "name"), rapid.SampledFrom([]string{"v1", "v2", `"d41d8cd98f00b204e9800998ecf8427e"`}).Draw(t, "tag"), rapid.Int64Range(0, 9).Draw(t, "size"))
			},
			"remove": func(t *rapid.T) { mem.remove(name.Draw(t, "name")) },
			"fill": func(t *rapid.T) {
				at := name.Draw(t, "dir")
				for i := range many.Draw(t, "files") {
					mem.put(fmt.Sprintf("%s/f%05d", at, i), "v1", 1)
				}
			},
			"refresh": func(t *rapid.T) { // one entry, seen alone
				p := name.Draw(t, "name")
				if d, err := tree.Resolve(ctx, "/in/m/"+parentOf(p)); err == nil && d.IsDir() {
					_, _ = tree.Refresh(ctx, d.Ino, baseName(p))
				}
			},
			"relist": func(t *rapid.T) {
				if d, err := tree.Resolve(ctx, "/in/m/"+name.Draw(t, "name")); err == nil {
					_, _ = tree.Refresh(ctx, d.Ino, "")
				}
			},
			"restart": func(t *rapid.T) {
				tree.Close()
				before, inos := tree.Totals(), map[string]uint64{}
				tree.Files(RootIno, func(e Entry) bool { inos[e.Path] = e.Ino; return true })
				m.files = map[string]string{}
				mem.fail(source.ErrUnavailable) // what it knows, it knows from the file
				tree, err = New(mounts, opts)
				if err != nil {
					t.Fatal(err)
				}
				if after := tree.Totals(); after != before {
					t.Fatalf("restored %+v, want %+v", after, before)
				}
				tree.Files(RootIno, func(e Entry) bool {
					if inos[e.Path] != e.Ino {
						t.Fatalf("%s was inode %d and is %d", e.Path, inos[e.Path], e.Ino)
					}
					return true
				})
				mem.fail(nil)
			},
			"scan": func(t *rapid.T) {
				if err := tree.Scan(ctx, "/"); err != nil {
					t.Fatal(err)
				}
				same(tree)
				m.mu.Lock()
				told := len(m.files)
				m.mu.Unlock()
				if told != len(want(mem)) {
					t.Fatalf("told of %d files, want %d", told, len(want(mem)))
				}
				fresh := opts
				fresh.Save, fresh.OnChange = "", nil
				anew, err := New(mounts, fresh)
				if err != nil {
					t.Fatal(err)
				}
				defer anew.Close()
				if err := anew.WaitKnown(ctx, "/"); err != nil {
					t.Fatal(err)
				}
				// Numbers that clashed once may differ, and so may the name.
				if a, b := anew.Totals(), tree.Totals(); opts.hash == nil && a != b {
					t.Fatalf("a new tree has %+v, this one %+v", a, b)
				}
			},
		})
		if err := tree.Scan(ctx, "/"); err != nil {
			t.Fatal(err)
		}
		same(tree)
		_ = os.Remove(save)
	})
}

func find2(t *rapid.T, tree *Tree, path string) Entry {
	e, err := tree.Resolve(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestOneChangeMakesOnePage compares directories that were changed entry by
// entry with directories that were listed whole.
func TestOneChangeMakesOnePage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var names []string
		for i := range rapid.IntRange(0, 5000).Draw(t, "names") {
			names = append(names, fmt.Sprintf("img_%07d.jpg", i*7))
		}
		one, _ := blank(nil, Options{})
		g := &gather{}
		for _, n := range names {
			g.add(n, source.Object{Size: 1})
		}
		c := one.changes()
		one.replace(one.root, g, 0, c)
		for range rapid.IntRange(1, 30).Draw(t, "changes") {
			before := one.root.pages
			n := fmt.Sprintf("img_%07d.jpg", rapid.IntRange(0, 36000).Draw(t, "at"))
			if i, ok := slices.BinarySearch(names, n); ok && rapid.Bool().Draw(t, "removes") {
				names = slices.Delete(names, i, i+1)
				one.put(one.root, n, nil, c)
			} else if !ok {
				names = slices.Insert(names, i, n)
				one.put(one.root, n, &source.Object{Size: 1}, c)
			}
			kept := 0
			for _, p := range one.root.pages {
				if slices.Contains(before, p) {
					kept++
				}
			}
			if made := len(one.root.pages) - kept; made > 2 {
				t.Fatalf("%d of %d pages are new", made, len(one.root.pages))
			}
		}
		whole, _ := blank(nil, Options{})
		g = &gather{}
		for i := range names { // in another order
			g.add(names[len(names)-1-i], source.Object{Size: 1})
		}
		c = whole.changes()
		whole.replace(whole.root, g, 0, c)
		one.root.listed, whole.root.listed = 1, 1
		one.root.stir()
		if a, b := one.recordOf(one.root), whole.recordOf(whole.root); a != b {
			t.Fatalf("%s of %d pages, %s of %d pages", a, len(one.root.pages), b, len(whole.root.pages))
		}
		for i, n := range names {
			it, _, _, ok := one.root.find(n)
			if e, known := one.Known(one.inoOf(one.root, n)); !ok || it.name != n || !known || e.Name != n {
				t.Fatalf("name %d, %s: %v, %+v", i, n, ok, e)
			}
			if _, _, _, ok := one.root.find(n + "x"); ok {
				t.Fatalf("found %sx", n)
			}
		}
	})
}
