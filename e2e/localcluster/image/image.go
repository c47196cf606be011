// Package image packs static binaries into docker archives, since there is no
// registry and no image builder on the machine.
package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
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
	// Base is a tar of a whole file system that the files lie over; "" for none.
	Base string
	// Files maps host paths to absolute paths in the image; all become executable.
	// Of a directory, its files are taken.
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
	// What is large is packed already, and containerd on this machine unpacks at once.
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithCompressionLevel(gzip.NoCompression))
	if err != nil {
		return fmt.Errorf("pack image %s: %w", s.Name, err)
	}
	layers, search := []v1.Layer{layer}, "PATH=/bin"
	if s.Base != "" {
		base, err := tarball.LayerFromFile(s.Base, tarball.WithCompressionLevel(gzip.NoCompression))
		if err != nil {
			return fmt.Errorf("add base to image %s: %w", s.Name, err)
		}
		layers, search = []v1.Layer{base, layer}, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		return fmt.Errorf("add layers to image %s: %w", s.Name, err)
	}
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64", OS: "linux",
		Config: v1.Config{Entrypoint: s.Entrypoint, Env: []string{search}},
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
	if s.Base != "" { // Debian's /bin is a link, which a directory would replace
		for _, dir := range []string{"/bin", "/sbin", "/lib", "/usr", "/opt", "/etc", "/var", "/tmp"} {
			dirs[dir] = true
		}
	}
	mkdir := func(dir string, mode int64) error { return makeDirs(w, dirs, dir, mode) }
	if err := mkdir("/tmp", 0o1777); err != nil {
		return nil, err
	}
	files, err := s.files()
	if err != nil {
		return nil, err
	}
	for _, host := range slices.Sorted(maps.Keys(files)) {
		data, err := os.ReadFile(host)
		if err != nil {
			return nil, err
		}
		at := files[host]
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

// files are Files with directories replaced by the files in them.
func (s Spec) files() (map[string]string, error) {
	out := map[string]string{}
	for host, at := range s.Files {
		st, err := os.Stat(host)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			out[host] = at
			continue
		}
		entries, err := os.ReadDir(host)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			out[filepath.Join(host, e.Name())] = path.Join(at, e.Name())
		}
	}
	return out, nil
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
