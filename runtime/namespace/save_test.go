package namespace

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/millrace/millrace/runtime/source"
)

// saved is the file of a small tree.
func saved(t testing.TB, s source.Store) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "tree")
	tree, err := New([]Mount{mountOf("/m", s)}, Options{Save: file})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.WaitKnown(context.Background(), "/"); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestARestartedTreeAnswersAtOnceAndLooksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("d/a", "d/b", "e")
		file := filepath.Join(t.TempDir(), "tree")
		first := newTree(t, Options{Save: file}, mountOf("/", s))
		synctest.Wait()
		a, before := find(t, first, "/d/a"), first.Totals()
		first.Close()

		time.Sleep(24 * time.Hour)
		s.put("d/a", "v2", 20)
		s.remove("d/b")
		s.mu.Lock()
		s.hold = make(chan struct{}) // the source takes its time
		s.mu.Unlock()
		l := &ledger{files: map[string]string{}}
		second := newTree(t, Options{Save: file, OnChange: l.change}, mountOf("/", s))
		defer second.Close()
		if e, err := second.Lookup(t.Context(), a.Ino, ""); err != nil || e != a {
			t.Errorf("the inode: %+v, %v, want %+v", e, err, a)
		}
		find(t, second, "/d/b")
		if sum := second.Totals(); sum != before || !sum.Complete || len(l.files) != 3 {
			t.Errorf("totals %+v, want %+v; told of %d files", sum, before, len(l.files))
		}
		close(s.hold)
		synctest.Wait()
		if e := find(t, second, "/d/a"); e.ETag != "v2" || e.Ino != a.Ino {
			t.Errorf("looked at again: %+v", e)
		}
		if _, err := second.Resolve(t.Context(), "/d/b"); !errors.Is(err, source.ErrNotExist) {
			t.Errorf("what has gone: %v", err)
		}
		if len(l.invalid) == 0 || l.files["/|d/a"] != "v2" || len(l.files) != 2 {
			t.Errorf("told %+v", l)
		}
		if r := second.Counts().Restored; r.Entries != 5 || r.Discarded != "" {
			t.Errorf("restored %+v", r)
		}
	})
}

func TestATreeIsServedWhileItsSourceIsAwayFromTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMem("d/a")
		file := filepath.Join(t.TempDir(), "tree")
		newTree(t, Options{Save: file}, mountOf("/", s)).waitAndClose(t)
		s.fail(source.ErrUnavailable)
		tree := newTree(t, Options{Save: file}, mountOf("/", s))
		defer tree.Close()
		for range 10 {
			find(t, tree, "/d/a")
			time.Sleep(time.Minute)
		}
		if err := tree.MountStates()[0].Err; !errors.Is(err, source.ErrUnavailable) {
			t.Errorf("the state hides the error: %v", err)
		}
	})
}

func (t *Tree) waitAndClose(test *testing.T) {
	if err := t.WaitKnown(test.Context(), "/"); err != nil {
		test.Fatal(err)
	}
	t.Close()
}

func TestASavedTreeThatIsOfNoUseIsDiscarded(t *testing.T) {
	good, err := os.ReadFile(saved(t, newMem("a", "d/b")))
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int, b byte) []byte {
		c := bytes.Clone(good)
		c[i] ^= b
		return c
	}
	cases := map[string]struct {
		data []byte
		at   string
		want string
	}{
		"good":                 {good, "/m", ""},
		"a bit is wrong":       {at(len(good)/2, 4), "/m", "corrupt"},
		"the sum is wrong":     {at(len(good)-1, 1), "/m", "corrupt"},
		"it is cut":            {good[:len(good)-9], "/m", "corrupt"},
		"it is empty":          {nil, "/m", "corrupt"},
		"there is more":        {append(bytes.Clone(good), 0), "/m", "corrupt"},
		"of another version":   {at(8, 64), "/m", "version"},
		"of other mounts":      {good, "/other", "mounts"},
		"it is something else": {bytes.Repeat([]byte("x"), 9999), "/m", "corrupt"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "tree")
			if err := os.WriteFile(file, tc.data, 0o600); err != nil {
				t.Fatal(err)
			}
			tree := newTree(t, Options{Save: file}, mountOf(tc.at, newMem("a", "d/b")))
			r := tree.Counts().Restored
			if r.Discarded != tc.want || (r.Entries > 0) != (tc.want == "") {
				t.Errorf("restored %+v", r)
			}
			find(t, tree, tc.at+"/d/b")
			tree.Close()
			entries, err := os.ReadDir(filepath.Dir(file))
			if err != nil || len(entries) != 1 {
				t.Errorf("left behind: %v, %v", entries, err)
			}
		})
	}
}

func TestATreeThatCannotBeSavedGoesOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "missing", "tree")
	tree := newTree(t, Options{Save: file, SaveInterval: time.Millisecond}, mountOf("/", newMem("a")))
	deadline := time.Now().Add(2 * time.Minute)
	for tree.Counts().SaveFailures < 2 {
		if time.Now().After(deadline) {
			t.Fatal("no save has failed")
		}
		time.Sleep(time.Millisecond)
	}
	find(t, tree, "/a")
}

func FuzzReadImage(f *testing.F) {
	for _, s := range []source.Store{newMem("a", "d/b", "d/e/f"), newMem()} {
		data, err := os.ReadFile(saved(f, s))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		// The sum keeps most of what a fuzzer does away from the decoder: mend it.
		if len(data) > 8 {
			data = mend(bytes.Clone(data))
		}
		im, err := readImage(bytes.NewReader(data))
		if err != nil {
			return
		}
		mounts := []Mount{}
		for _, m := range im.mounts {
			mounts = append(mounts, Mount{Path: m.path, URI: m.uri})
		}
		tree, err := blank(mounts, Options{})
		if err != nil {
			return
		}
		if tree.adopt(im) != nil {
			return
		}
		sum, entries := tree.Totals(), 0
		tree.Files(RootIno, func(e Entry) bool {
			entries++
			if known, ok := tree.Known(e.Ino); !ok || known.Name != e.Name {
				t.Fatalf("%+v is not found by its number: %+v", e, known)
			}
			return true
		})
		if sum.Files > int64(entries) {
			t.Fatalf("%d files, totals %+v", entries, sum)
		}
	})
}

func FuzzCopyOfAPage(f *testing.F) {
	g := &gather{}
	g.add("a", source.Object{Size: 7, ModTime: time.Unix(1, 2), ETag: `"d41d8cd98f00b204e9800998ecf8427e"`})
	g.add("b", source.Object{Dir: true, Mode: 0o700})
	g.add("c", source.Object{Link: "a"})
	f.Add(string(g.buf))
	f.Fuzz(func(t *testing.T, data string) {
		p, _, err := parsePage(nil, data, "")
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		s, err := NewSheet(p.id, data)
		if err != nil {
			t.Fatal(err)
		}
		c, err := NewCopy(Listing{Path: "x"}, 5, nil, nil, []*Sheet{s})
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		last := ""
		for e := range c.From(0) {
			if e.Name <= last || e.Path != "x/"+e.Name || e.Size < 0 {
				t.Fatalf("%+v after %q", e, last)
			}
			last = e.Name
		}
	})
}

// mend gives a file the right checksum.
func mend(data []byte) []byte {
	body := data[:len(data)-8]
	return binary.LittleEndian.AppendUint64(bytes.Clone(body), xxhash.Sum64(body))
}

// A process that is killed has no time to save: what it had walked is on disk already.
func TestATreeIsSavedOnceItIsKnown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tree")
	first := newTree(t, Options{Save: file, SaveInterval: time.Hour}, mountOf("/", newMem("a", "d/b")))
	deadline := time.Now().Add(2 * time.Minute)
	for first.Counts().Saves == 0 {
		if time.Now().After(deadline) {
			t.Fatal("it was not saved")
		}
		time.Sleep(time.Millisecond)
	}
	away := newMem()
	away.fail(source.ErrUnavailable)
	second := newTree(t, Options{Save: file, SaveInterval: time.Hour}, mountOf("/", away)) // the first one is not closed
	if a, b := find(t, first, "/d/b"), find(t, second, "/d/b"); a != b {
		t.Errorf("%+v became %+v", a, b)
	}
}
