package origin_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/origin"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

// says is a source whose every object has the same bytes.
func says(text string) *fake {
	return &fake{open: func(_ source.Object, off, n int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text[off : off+n])), nil
	}}
}

func at(path, id, version string, f *fake) namespace.Mount {
	return namespace.Mount{Path: path, URI: "test://" + id, ID: id, Version: version, Open: func(context.Context) (source.Store, error) { return f, nil }}
}

func read(t *testing.T, s *origin.Sources, id string) (string, error) {
	t.Helper()
	p := make([]byte, 3)
	err := s.ReadAt(t.Context(), &wirepb.Object{Mount: id, Path: "x", Size: 3}, p, 0)
	return string(p), err
}

func TestMountsAreReplacedByID(t *testing.T) {
	one, two, again := says("one"), says("two"), says("neu")
	s := origin.New([]namespace.Mount{at("/a", "1", "", one), at("/b", "2", "", two)})
	defer s.Close()
	for id, want := range map[string]string{"1": "one", "2": "two"} {
		if got, err := read(t, s, id); got != want || err != nil {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
	s.Set([]namespace.Mount{at("/a", "3", "", says("thr")), at("/b", "2", "new", again)})
	if _, err := read(t, s, "1"); !errors.Is(err, source.ErrNotExist) {
		t.Errorf("what is mounted no more: %v", err)
	}
	for id, want := range map[string]string{"3": "thr", "2": "neu"} {
		if got, err := read(t, s, id); got != want || err != nil {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
	if one.closed != 1 || two.closed != 1 || again.closed != 0 {
		t.Errorf("closed %d, %d and %d times", one.closed, two.closed, again.closed)
	}
}

func TestAReadWaitsForAMountThatIsToldOfLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := origin.New(nil)
		defer s.Close()
		time.AfterFunc(5*time.Second, func() { s.Set([]namespace.Mount{at("/a", "1", "", says("one"))}) })
		if got, err := read(t, s, "1"); got != "one" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		began := time.Now()
		if _, err := read(t, s, "2"); !errors.Is(err, source.ErrInvalid) || time.Since(began) > time.Minute {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}
