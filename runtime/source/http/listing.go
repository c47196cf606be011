package http

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
)

const (
	// maxListing is how many bytes a page may have, maxEntries how many names.
	maxListing = 1 << 30
	maxEntries = 5_000_000
	// maxToken bounds one tag or one text of a page.
	maxToken = 1 << 20
)

// errNoListing is a page that is there and lists nothing.
var errNoListing = errors.New("the page is no listing of a directory: turn the server's directory index on, or mount a single file")

// entry is a name in a listing. Dir is a hint: a file may yet turn out to be a
// directory.
type entry struct {
	name string
	dir  bool
}

// readListing reads the names out of a page. at is where the page came from.
func readListing(at *url.URL, contentType string, page io.Reader) ([]entry, error) {
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, fmt.Errorf("content type %q: %w", contentType, errNoListing)
	}
	l := &listing{at: at, seen: map[string]int{}}
	bounded := &io.LimitedReader{R: page, N: maxListing}
	switch media {
	case "application/json", "text/json":
		err = l.json(bounded)
	case "text/html", "application/xhtml+xml":
		err = l.html(bounded)
	default:
		return nil, fmt.Errorf("content type %q: %w", media, errNoListing)
	}
	if err == nil && bounded.N <= 0 {
		err = errLongListing
	}
	if err != nil {
		return nil, err
	}
	return l.entries, nil
}

var errLongListing = errors.New("the listing is too long")

type listing struct {
	at      *url.URL
	entries []entry
	seen    map[string]int // name to index in entries
}

func (l *listing) add(name string, dir bool) error {
	if !fileName(name) {
		return nil
	}
	if i, ok := l.seen[name]; ok {
		l.entries[i].dir = l.entries[i].dir || dir
		return nil
	}
	if len(l.entries) == maxEntries {
		return errLongListing
	}
	l.seen[name] = len(l.entries)
	l.entries = append(l.entries, entry{name, dir})
	return nil
}

// fileName tells whether a file system could have the name.
func fileName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && utf8.ValidString(name) && !strings.ContainsAny(name, "/\x00")
}

// json reads what nginx (autoindex_format json) and Caddy answer: an array of
// objects. Anything else is no listing.
func (l *listing) json(page io.Reader) error {
	d := json.NewDecoder(page)
	if t, err := d.Token(); err != nil {
		return invalidJSON(err)
	} else if t != json.Delim('[') {
		return errNoListing
	}
	for d.More() {
		var item struct {
			Name  *string `json:"name"`
			Type  string  `json:"type"`
			IsDir bool    `json:"is_dir"`
		}
		if err := d.Decode(&item); err != nil {
			return invalidJSON(err)
		}
		if item.Name == nil {
			return errNoListing
		}
		name, slash := strings.CutSuffix(*item.Name, "/")
		if item.Type == "other" { // sockets, pipes, devices
			continue
		}
		if err := l.add(name, slash || item.IsDir || item.Type == "directory"); err != nil {
			return err
		}
	}
	_, err := d.Token()
	return invalidJSON(err)
}

// invalidJSON keeps errors of the connection apart from those of the text.
func invalidJSON(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &kind) {
		return errNoListing
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// titles of the pages that servers make of directories. An empty directory has
// no other mark.
var titles = regexp.MustCompile(`(?i)\b(index of|directory listing|listing (of|for)|contents of|directory of)\b`)

// html takes every link to a child of the page's own directory. Links to the
// parent, to the same page in another order, and to elsewhere are not names.
func (l *listing) html(page io.Reader) error {
	z := html.NewTokenizer(page)
	z.SetMaxBuf(maxToken)
	base, isListing, inTitle := *l.at, false, false
	for {
		switch z.Next() {
		case html.ErrorToken:
			if err := z.Err(); !errors.Is(err, io.EOF) {
				if errors.Is(err, html.ErrBufferExceeded) {
					return errNoListing
				}
				return err
			}
			if !isListing && len(l.entries) == 0 {
				return errNoListing
			}
			return nil
		case html.StartTagToken, html.SelfClosingTagToken:
			tag, attributes := z.TagName()
			switch string(tag) {
			case "title", "h1":
				inTitle = true
			case "base":
				if u, err := l.at.Parse(attribute(z, attributes, "href")); err == nil {
					base = *u
				}
			case "a":
				href := strings.Trim(attribute(z, attributes, "href"), " \t\r\n\f")
				name, dir, self := l.child(&base, href)
				isListing = isListing || self
				if err := l.add(name, dir); err != nil {
					return err
				}
			}
		case html.EndTagToken:
			inTitle = false
		case html.TextToken:
			isListing = isListing || inTitle && titles.Match(z.Text())
		}
	}
}

func attribute(z *html.Tokenizer, more bool, name string) string {
	for more {
		var key, value []byte
		if key, value, more = z.TagAttr(); string(key) == name {
			return string(value)
		}
	}
	return ""
}

// child gives the name that a link leads to if that is a child of the page's
// directory; self is a link to the directory itself or to its parent.
func (l *listing) child(base *url.URL, href string) (name string, dir, self bool) {
	u, err := base.Parse(href)
	if href == "" || err != nil || u.Host != l.at.Host || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
		return "", false, false
	}
	here := directoryOf(l.at.Path)
	if u.Path == here || u.Path == directoryOf(strings.TrimSuffix(here, "/")) {
		return "", false, true
	}
	// A slash within a name, and a link with parameters, are not a file's.
	if u.RawQuery != "" || u.Fragment != "" || strings.Contains(strings.ToLower(href), "%2f") {
		return "", false, false
	}
	name, ok := strings.CutPrefix(u.Path, here)
	if !ok {
		return "", false, false
	}
	name, dir = strings.CutSuffix(name, "/")
	return name, dir, false
}

// directoryOf is the part of a path up to its last slash.
func directoryOf(p string) string {
	dir, _ := path.Split(p)
	if dir == "" {
		return "/"
	}
	return dir
}
