package origin_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/runtime/namespace"
	"github.com/millrace/millrace/runtime/origin"
	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/wire/wirepb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a source whose answers a test chooses.
type fake struct {
	source.Store
	open func(o source.Object, off, n int64) (io.ReadCloser, error)

	mu     sync.Mutex
	closed int
}

func (f *fake) Open(_ context.Context, o source.Object, off, n int64) (io.ReadCloser, error) {
	return f.open(o, off, n)
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

// tail gives text and then an error in place of its end.
type tail struct {
	io.Reader
	err error
}

func (t tail) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if errors.Is(err, io.EOF) && t.err != nil {
		err = t.err
	}
	return n, err
}

func sources(opened *int, f *fake) *origin.Sources {
	return origin.New([]namespace.Mount{{Path: "/m", URI: "s3://bucket", Open: func(context.Context) (source.Store, error) {
		*opened++
		return f, nil
	}}})
}

var object = &wirepb.Object{Mount: "/m", Path: "p", Size: 5, MtimeNs: 7, Etag: "e"}

func TestARangeIsWholeAndOfOneVersionOrAnError(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		end  error
		want error
	}{
		"whole":                        {text: "abcde"},
		"ends early":                   {text: "abc", want: source.ErrUnavailable},
		"gives more":                   {text: "abcdef", want: source.ErrUnavailable},
		"changed, as its end tells":    {text: "abcde", end: source.ErrChanged, want: source.ErrChanged},
		"changed, before it was whole": {text: "ab", end: source.ErrChanged, want: source.ErrChanged},
	} {
		t.Run(name, func(t *testing.T) {
			var asked source.Object
			opened := 0
			s := sources(&opened, &fake{open: func(o source.Object, off, n int64) (io.ReadCloser, error) {
				asked = o
				return io.NopCloser(tail{strings.NewReader(tc.text), tc.end}), nil
			}})
			defer s.Close()
			p := make([]byte, 5)
			err := s.ReadAt(t.Context(), object, p, 0)
			if !errors.Is(err, tc.want) || tc.want == nil && (err != nil || !bytes.Equal(p, []byte("abcde"))) {
				t.Errorf("%q, %v", p, err)
			}
			if want := (source.Object{Path: "p", Size: 5, ModTime: time.Unix(0, 7), ETag: "e"}); asked != want {
				t.Errorf("asked for %+v, want %+v", asked, want)
			}
		})
	}
}

func TestASourceIsOpenedOnceAndAnewAfterItDenied(t *testing.T) {
	var answer error
	f := &fake{open: func(source.Object, int64, int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("abcde")), answer
	}}
	opened := 0
	s := sources(&opened, f)
	read := func() error { return s.ReadAt(t.Context(), object, make([]byte, 5), 0) }
	for range 2 {
		if err := read(); err != nil || opened != 1 {
			t.Errorf("opened %d times, %v", opened, err)
		}
	}
	answer = source.ErrDenied
	if err := read(); !errors.Is(err, source.ErrDenied) || !strings.Contains(err.Error(), "s3://bucket") {
		t.Error(err)
	}
	if opened != 2 || f.closed != 2 { // tried once more, with what the secrets are now
		t.Errorf("opened %d times, closed %d", opened, f.closed)
	}
	answer = nil
	if read() != nil || opened != 3 {
		t.Errorf("opened %d times", opened)
	}
	tries := 0
	f.open = func(source.Object, int64, int64) (io.ReadCloser, error) {
		if tries++; tries == 1 {
			return nil, source.ErrDenied
		}
		return io.NopCloser(strings.NewReader("abcde")), nil
	}
	if err := read(); err != nil || opened != 4 {
		t.Errorf("after the secrets were renewed: opened %d times, %v", opened, err)
	}
	s.Close()
	if f.closed != 4 {
		t.Errorf("closed %d times", f.closed)
	}
	if err := s.ReadAt(t.Context(), &wirepb.Object{Mount: "/other"}, nil, 0); !errors.Is(err, source.ErrUnavailable) {
		t.Error(err)
	}
}
