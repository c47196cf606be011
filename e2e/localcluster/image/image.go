// Package image packs static binaries into docker archives, since there is no
// registry and no image builder on the machine.
package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec is what an image is made of. The same Spec and the same bytes give the
// same archive.
type Spec struct {
	// Name is the full reference, such as docker.io/local/cache:dev.
	Name string
	// Files maps host paths to absolute paths in the image; all become executable.
	Files map[string]string
	// Links maps absolute paths in the image to the targets of symbolic links.
	Links map[string]string
	// Entrypoint is the argv that args are appended to.
	Entrypoint []string
}

// Write makes the archive at file, by way of a temporary file beside it.
func Write(file string, s Spec) error {
	tag, err := name.NewTag(s.Name)
	if err != nil {
		return fmt.Errorf("parse image name %q: %w", s.Name, err)
	}
	content, err := s.layer()
	if err != nil {
		return fmt.Errorf("pack image %s: %w", s.Name, err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		return fmt.Errorf("pack image %s: %w", s.Name, err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return fmt.Errorf("add layer to image %s: %w", s.Name, err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux",
		Config: v1.Config{Entrypoint: s.Entrypoint, Env: []string{"PATH=/bin"}},
		RootFS: mustRootFS(img),
	})
	if err != nil {
		return fmt.Errorf("configure image %s: %w", s.Name, err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := tarball.WriteToFile(file+".tmp", tag, img); err != nil {
		return fmt.Errorf("write image %s: %w", file, err)
	}
	return os.Rename(file+".tmp", file)
}

func mustRootFS(img v1.Image) v1.RootFS {
	cfg, err := img.ConfigFile()
	if err != nil {
		panic(err) // of an image in memory
	}
	return cfg.RootFS
}

// layer is one tar with the files, their parents and /tmp.
func (s Spec) layer() ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	dirs := map[string]bool{"/": true}
	mkdir := func(dir string, mode int64) error { return makeDirs(w, dirs, dir, mode) }
	if err := mkdir("/tmp", 0o1777); err != nil {
		return nil, err
	}
	hosts := make([]string, 0, len(s.Files))
	for host := range s.Files {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	for _, host := range hosts {
		data, err := os.ReadFile(host)
		if err != nil {
			return nil, err
		}
		at := s.Files[host]
		if err := mkdir(path.Dir(at), 0o755); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: strings.TrimPrefix(at, "/"), Mode: 0o755, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	links := make([]string, 0, len(s.Links))
	for at := range s.Links {
		links = append(links, at)
	}
	slices.Sort(links)
	for _, at := range links {
		if err := mkdir(path.Dir(at), 0o755); err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(at, "/"), Linkname: s.Links[at], Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}

func makeDirs(w *tar.Writer, made map[string]bool, dir string, mode int64) error {
	if made[dir] {
		return nil
	}
	if err := makeDirs(w, made, path.Dir(dir), 0o755); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: mode})
}
