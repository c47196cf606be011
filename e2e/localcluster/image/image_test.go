package image

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestFilesAndDirectoriesLieOverABase(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	base, err := os.Create(filepath.Join(dir, "base.tar"))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(base)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "etc/os-release", Size: 3, Mode: 0o644}), second(w.Write([]byte("abc"))), w.Close(), base.Close()); err != nil {
		t.Fatal(err)
	}
	write("lib/a.jar", "a")
	write("lib/b.jar", "b")
	archive := filepath.Join(dir, "image.tar")
	if err := Write(archive, Spec{
		Name: "docker.io/local/x:dev", Base: base.Name(), Entrypoint: []string{"/usr/bin/x"},
		Files: map[string]string{filepath.Join(dir, "lib"): "/opt/x/lib", write("x", "x"): "/usr/bin/x"},
	}); err != nil {
		t.Fatal(err)
	}
	img, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	for _, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		var names []string
		for r := tar.NewReader(content); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
		}
		got = append(got, names)
	}
	want := [][]string{{"etc/os-release"}, {"opt/x/", "opt/x/lib/", "opt/x/lib/a.jar", "opt/x/lib/b.jar", "usr/bin/", "usr/bin/x"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func second(_ int, err error) error { return err }
