package fuse_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// TestEveryHeadingOfTheSemanticsIsATest keeps docs/semantics.md from saying what
// nobody tries.
func TestEveryHeadingOfTheSemanticsIsATest(t *testing.T) {
	tests := map[string]bool{}
	for _, dir := range []string{".", "../reader"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, name := range files {
			source, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range regexp.MustCompile(`(?m)^func Test(\w+)\(t \*testing\.T\)`).FindAllSubmatch(source, -1) {
				tests[letters(string(f[1]))] = true
			}
		}
	}
	page, err := os.ReadFile("../../docs/semantics.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for _, h := range regexp.MustCompile(`(?m)^## (.+)$`).FindAllSubmatch(page, -1) {
		heading := string(h[1])
		headings[heading] = true
		if fusetest.Programs[heading] == nil && fusetest.Errnos[heading] == nil && !tests[letters(heading)] {
			t.Errorf("no test has the name of the heading %q", heading)
		}
	}
	for name := range fusetest.Programs {
		if !headings[name] {
			t.Errorf("%q is no heading", name)
		}
	}
	for name := range fusetest.Errnos {
		if !headings[name] {
			t.Errorf("%q is no heading", name)
		}
	}
}

// letters are those of a sentence, in lower case.
func letters(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}
