// Package bench measures Millrace against what it must not be slower than: the
// local file system, a raw socket, the source's own client, and its peers. Each
// figure is a ratio of two sides that run in turn, in one run, on one machine.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/apis/contract"
)

// Bench is one run.
type Bench struct {
	// Out has bin/, and takes the run's directory and bench.json.
	Out string
	// Runs of each side; their median counts.
	Runs int
	// Scale divides every size and count: 1 measures, 64 only tries whether
	// everything works.
	Scale int64
	// Only names the groups to run; all if it is empty.
	Only []string
	// Log takes a line for every figure as it comes.
	Log io.Writer

	dir     string
	figures []Figure
}

// group measures figures of one kind.
type group struct {
	name string
	what string
	run  func(context.Context, *Bench) error
}

// groups in the order in which they run.
func groups() []group {
	return []group{
		{"local", "a complete file of this node, against the same file on the tier's file system", local},
		{"small", "files of 64 KiB, against the local file system", smallFiles},
		{"miss", "the first read of a file behind a PVC, against a copy", miss},
		{"s3", "the first read of a large object from S3, against the source's own client", fromS3},
		{"touch", "first reads of small objects from S3, by a node with a worker and by one without", firstTouch},
		{"load", "DataLoad, against a parallel copy of the same objects", dataLoad},
		{"remote", "bytes that another node holds, against a raw socket", remote},
		{"epoch", "epochs in random order with room for half, against the best possible", epochs},
		{"origin", "bytes read from the source by an epoch of several nodes", amplification},
		{"metadata", "names and attributes, against the local file system", metadata},
		{"growth", "what more files and more workers cost", growth},
		{"memory", "memory of idle processes", memory},
		{"peers", "the same reads through other caches", peers},
	}
}

// Groups names what Only may choose, each with what it measures.
func Groups() (out []string) {
	for _, g := range groups() {
		out = append(out, fmt.Sprintf("%-9s %s", g.name, g.what))
	}
	return out
}

// Run measures. What was measured is returned and written also when a group
// fails; its error then names the group.
func (b *Bench) Run(ctx context.Context) (_ []Figure, err error) {
	for _, name := range b.Only {
		if !slices.ContainsFunc(groups(), func(g group) bool { return g.name == name }) {
			return nil, fmt.Errorf("there is no group %q; there are:\n%s", name, strings.Join(Groups(), "\n"))
		}
	}
	if b.dir, err = os.MkdirTemp(b.Out, "bench-"); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(b.dir) }()
	if err := b.shareSources(); err != nil {
		return nil, err
	}
	var errs []error
	for _, g := range groups() {
		if len(b.Only) > 0 && !slices.Contains(b.Only, g.name) {
			continue
		}
		began := time.Now()
		_, _ = fmt.Fprintf(b.Log, "%s: %s\n", g.name, g.what)
		if err := g.run(ctx, b); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
			_, _ = fmt.Fprintf(b.Log, "%s failed: %v\n", g.name, err)
		}
		_, _ = fmt.Fprintf(b.Log, "%s took %.0f s\n", g.name, time.Since(began).Seconds())
		if ctx.Err() != nil {
			break
		}
	}
	return b.figures, errors.Join(errs...)
}

// add takes figures in.
func (b *Bench) add(figures ...Figure) {
	b.figures = append(b.figures, figures...)
	_ = PrintTable(b.Log, figures)
}

// binary is a program that the Makefile has built.
func (b *Bench) binary(name string) string { return filepath.Join(b.Out, "bin", name) }

// of is n scaled, at least one.
func (b *Bench) of(n int64) int64 { return max(1, n/b.Scale) }

// shareSources lets a directory stand where the cache's pods have their host
// directories. Only this process and its children see it: see Isolate.
func (b *Bench) shareSources() error {
	at := contract.LocalDir("/")
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(b.source(""), 0o755); err != nil {
		return err
	}
	if err := unix.Mount(b.source(""), at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the sources at %s: %w", at, err)
	}
	return nil
}

// source is where the data of a local:// mount of this name lies.
func (b *Bench) source(name string) string { return filepath.Join(b.dir, "source", name) }

// localMount is a mount of the directory source(name).
func localMount(name string) contract.MountConfig {
	return contract.MountConfig{MountPoint: "local:///" + name, Path: "/", ReadOnly: true}
}

// settle prepares a run that writes size bytes: nothing waits to be written to
// the disk any more, for whoever writes next would be held up for the bytes of
// the one before, and there is memory at hand.
func (b *Bench) settle(size int64) error {
	d, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", b.dir, err)
	}
	return warmMemory(size)
}

// warmMemory touches so many bytes of free memory. The memory of a virtual
// machine that nobody used lately costs five times as much to write to as
// memory that was just freed: who writes first would pay for the others.
func warmMemory(size int64) error {
	m, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("touch %d bytes of memory: %w", size, err)
	}
	return unix.Munmap(m)
}

// write makes a file of random bytes.
func write(file string, size int64, seed uint64) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, err = io.CopyN(f, rand.NewChaCha8(key), size)
	return err
}

// writeSmall makes n files of size bytes, as smallName names them. What is in
// them does not matter here, only that they differ.
func writeSmall(dir string, n int, size int) error {
	p := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(p)
	for i := range n {
		file := filepath.Join(dir, smallName(i))
		if i%1000 == 0 {
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
		}
		copy(p, fmt.Sprintf("%016d", i))
		if err := os.WriteFile(file, p, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// largest is the largest file below a directory: the cached file.
func largest(dir string) (file string, err error) {
	var most int64
	err = filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > most {
			most, file = info.Size(), name
		}
		return err
	})
	if err == nil && file == "" {
		err = fmt.Errorf("find the cached file: nothing lies in %s", dir)
	}
	return file, err
}
