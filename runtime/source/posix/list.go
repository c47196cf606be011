package posix

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/source"
)

const (
	// listBytes of names are read at once, which bounds the memory of a listing.
	listBytes = 128 << 10
	// statTogether is how many entries one goroutine looks at.
	statTogether = 128
	// statParallel is how many goroutines look at entries of one directory.
	statParallel = 8
	// maxName is the longest name that Linux shows, in bytes.
	maxName = 255
)

// List reads one directory. Sockets, pipes and devices are left out; entries
// that vanish while it reads are, too.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	fd, err := call(ctx, s.gate, func() (int, error) { return s.open(dir, unix.O_RDONLY|unix.O_DIRECTORY) }, func(fd int) { unix.Close(fd) })
	if err != nil {
		return s.failed("list", dir, err)
	}
	d := newHandle(fd)
	defer d.release()
	for {
		names, err := callOn(ctx, s.gate, d, func() ([]string, error) { return readNames(fd) }, nil)
		if err != nil {
			return s.failed("list", dir, err)
		}
		if len(names) == 0 {
			return nil
		}
		objects, err := s.look(ctx, d, dir, names)
		if err != nil {
			return s.failed("list", dir, err)
		}
		for _, o := range objects {
			if o.Path == "" { // left out
				continue
			}
			if err := each(o); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// look finds out what the names of a directory are, several at a time.
func (s *Store) look(ctx context.Context, d *handle, dir string, names []string) ([]source.Object, error) {
	if len(names) <= statTogether {
		return s.lookAt(ctx, d, dir, names)
	}
	var (
		wg     sync.WaitGroup
		slots  = make(chan struct{}, statParallel)
		mu     sync.Mutex
		failed error
		out    = make([]source.Object, len(names))
	)
	for from := 0; from < len(names); from += statTogether {
		to := min(from+statTogether, len(names))
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			some, err := s.lookAt(ctx, d, dir, names[from:to])
			copy(out[from:to], some)
			if err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out, failed
}

func (s *Store) lookAt(ctx context.Context, d *handle, dir string, names []string) ([]source.Object, error) {
	return callOn(ctx, s.gate, d, func() ([]source.Object, error) {
		out := make([]source.Object, len(names))
		var st unix.Statx_t
		for i, name := range names {
			text := toText(name)
			if len(text) > maxName {
				s.Omit(path.Join(dir, text))
				continue
			}
			err := statx(d.fd, name, 0, &st)
			if err == nil {
				var o source.Object
				var ok bool
				if o, ok, err = s.object(path.Join(dir, text), d.fd, name, &st); err == nil && ok {
					out[i] = o
				}
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) { // it went, or is no link any more
				return nil, err
			}
		}
		return out, nil
	}, nil)
}

var listBuffers = sync.Pool{New: func() any {
	b := make([]byte, listBytes)
	return &b
}}

// readNames reads the next names of a directory, none at its end.
func readNames(fd int) ([]string, error) {
	buffer := listBuffers.Get().(*[]byte)
	defer listBuffers.Put(buffer)
	var names []string
	for len(names) == 0 { // a piece may hold nothing but the dots
		n, err := eintr(func() (int, error) { return unix.Getdents(fd, *buffer) })
		if err != nil || n == 0 {
			return nil, err
		}
		// struct linux_dirent64: inode and offset of 8 bytes each, length of 2, type of 1, name.
		for b := (*buffer)[:n]; len(b) > 19; {
			length := int(binary.NativeEndian.Uint16(b[16:]))
			if length <= 19 || length > len(b) {
				return nil, unix.EIO
			}
			name := b[19:length]
			if end := bytes.IndexByte(name, 0); end >= 0 {
				name = name[:end]
			}
			if s := string(name); s != "." && s != ".." && s != "" {
				names = append(names, s)
			}
			b = b[length:]
		}
	}
	return names, nil
}
