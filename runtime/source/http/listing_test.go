package http

import (
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// pages in the styles of servers that the suite does not run, and what may
// stand in a page besides names.
func TestOnlyChildrenOfThePageAreNames(t *testing.T) {
	for name, tc := range map[string]struct {
		media, page string
		want        []string
		err         error
	}{
		"links of all kinds": {"text/html", `<html><head><title>x</title></head><a href="a">a</a><A HREF='b/'>b</A><a href="./c">c</a>
			<a href="/dir/d">d</a><a href="http://host/dir/e">e</a><a href="https://host/dir/f">f</a><a href="//host/dir/g">g</a><a href=" h ">h</a><a name="x">no</a>
			<a href="../">up</a><a href="..">up</a><a href="/">root</a><a href="/other/x">x</a><a href="deep/er">x</a><a href="http://elsewhere/dir/x">x</a>
			<a href="?C=N;O=D">sort</a><a href="./?sort=name">sort</a><a href="x?download=1">x</a><a href="#top">top</a><a href="y#z">y</a>
			<a href="mailto:a@b">m</a><a href="javascript:alert(1)">j</a><a href="ftp://host/dir/x">x</a><a href="%zz">bad</a><a href="">empty</a>
			<a href="s%2Flash">s</a><a href="nul%00">n</a><a href="%2e%2e">dots</a><a href="./">here</a><a href="http://user@host/dir/x">x</a>`,
			[]string{"a", "b/", "c", "d", "e", "f", "g", "h"}, nil},
		"names that are encoded": {"text/html; charset=UTF-8", `<a href="a%20b">x</a><a href="%C3%BC">x</a><a href="100%25">x</a><a href="a%3Fb%23c">x</a><a href="a&amp;b">x</a><a href="&quot;q&quot;">x</a><a href="raw space">x</a><a href="ü">x</a><a href="%ff">x</a>`,
			[]string{"a b", "ü", "100%", "a?b#c", "a&b", `"q"`, "raw space"}, nil},
		"a name twice":                   {"text/html", `<a href="a">icon</a><a href="a">a</a><a href="d">d</a><a href="d/">d</a>`, []string{"a", "d/"}, nil},
		"another base":                   {"text/html", `<base href="/dir/"><a href="a">a</a>`, []string{"a"}, nil},
		"a base elsewhere":               {"text/html", `<base href="http://other/dir/"><a href="a">a</a><h1>Index of /dir</h1>`, nil, nil},
		"an empty directory of Apache":   {"text/html", `<title>Index of /dir</title><h1>Index of /dir</h1>`, nil, nil},
		"an empty directory of Python":   {"text/html", `<title>Directory listing for /dir/</title>`, nil, nil},
		"an empty directory of a parent": {"text/html", `<a href="../">../</a>`, nil, nil},
		"a page of something else":       {"text/html", `<title>Sign in</title><a href="/login">sign in</a>`, nil, errNoListing},
		"an empty page":                  {"text/html", ``, nil, errNoListing},
		"a file":                         {"application/octet-stream", `abc`, nil, errNoListing},
		"a type of nonsense":             {"text/", `abc`, nil, errNoListing},
		"no type":                        {"", `abc`, nil, errNoListing},
		"nginx in JSON":                  {"application/json", `[{"name":"d","type":"directory","mtime":"x"},{"name":"f ü\"","type":"file","size":1},{"name":"s","type":"other"},{"name":"../x","type":"file"},{"name":"..","type":"directory"}]`, []string{"d/", "f ü\""}, nil},
		"Caddy in JSON":                  {"application/json; charset=utf-8", `[{"name":"d/","is_dir":true,"size":1},{"name":"e","is_dir":true},{"name":"f","is_dir":false}]`, []string{"d/", "e/", "f"}, nil},
		"nothing in JSON":                {"application/json", `[]`, nil, nil},
		"an object in JSON":              {"application/json", `{"name":"x"}`, nil, errNoListing},
		"numbers in JSON":                {"application/json", `[1,2]`, nil, errNoListing},
		"other objects in JSON":          {"application/json", `[{"id":1}]`, nil, errNoListing},
		"JSON that is broken":            {"application/json", `[{"name":"a"}`, nil, errAny},
	} {
		t.Run(name, func(t *testing.T) {
			at, err := url.Parse("http://host/dir/")
			if err != nil {
				t.Fatal(err)
			}
			entries, err := readListing(at, tc.media, strings.NewReader(tc.page))
			if tc.err == errAny && err != nil {
				return
			}
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v", err)
			}
			var got []string
			for _, e := range entries {
				if e.dir {
					e.name += "/"
				}
				got = append(got, e.name)
			}
			want := slices.Clone(tc.want)
			if name == "names that are encoded" {
				want = slices.Insert(want, len(want), "ü")
				want = slices.Compact(slices.Sorted(slices.Values(want)))
				slices.Sort(got)
			}
			if !slices.Equal(got, want) {
				t.Errorf("names %q, want %q", got, want)
			}
		})
	}
}

var errAny = errors.New("any")

func FuzzListing(f *testing.F) {
	for _, page := range []string{`<a href="a">`, `<a href="%2e%2e/x">`, `<base href="//x"><a href=b/>`, `[{"name":"a"}]`, `<title>Index of`, "<a href=\"a\x00b\">"} {
		f.Add("text/html", page)
		f.Add("application/json", page)
	}
	f.Fuzz(func(t *testing.T, media, page string) {
		at := &url.URL{Scheme: "https", Host: "host", Path: "/a dir/"}
		entries, err := readListing(at, media, strings.NewReader(page))
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, e := range entries {
			if !fileName(e.name) || seen[e.name] {
				t.Fatalf("the name %q", e.name)
			}
			seen[e.name] = true
		}
	})
}
