package namespace

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNamesThatNoFileSystemCanShowAreCountedInTheNote(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "good"), 1)
	if err := os.WriteFile(filepath.Join(dir, strings.Repeat("\xff", 200)), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tree := newTree(t, Options{}, posixMount("/", dir))
	if err := tree.WaitKnown(t.Context(), "/"); err != nil {
		t.Fatal(err)
	}
	if state := tree.MountStates()[0]; state.Err != nil || !strings.Contains(state.Note, "1 names are left out") {
		t.Errorf("%+v", state)
	}
}
