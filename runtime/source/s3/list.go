package s3

import (
	"context"
	"errors"
	"net/url"
	"path"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/millrace/millrace/runtime/source"
)

// Stat finds an object, or a directory that exists as a prefix of others. Where
// a key is both, the directory wins, as it does in listings.
func (s *Store) Stat(ctx context.Context, p string) (source.Object, error) {
	ctx, cancel := s.bound(ctx)
	defer cancel()
	if p != "" && !filePath(p) {
		return source.Object{}, s.failed("stat", p, source.ErrNotExist)
	}
	type answer struct {
		object source.Object
		err    error
	}
	head := make(chan answer, 1)
	if p == "" {
		head <- answer{err: source.ErrNotExist}
	} else {
		go func() { // ends with the call, which ctx bounds
			out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: aws.String(s.prefix + p), RequestPayer: s.payer})
			if err != nil {
				head <- answer{err: because(ctx, err)}
				return
			}
			head <- answer{object: source.Object{Path: p, Size: aws.ToInt64(out.ContentLength), ModTime: modTime(out.LastModified), ETag: aws.ToString(out.ETag)}}
		}()
	}
	prefix := s.directory(p)
	list, err := s.client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, MaxKeys: aws.Int32(1), RequestPayer: s.payer,
		EncodingType: types.EncodingTypeUrl})
	if err != nil {
		err = because(ctx, err)
	}
	object := <-head
	switch {
	case err == nil && (p == "" || len(list.Contents) > 0):
		return source.Object{Path: p, Dir: true}, nil
	case object.err == nil:
		return object.object, nil // also where listing is denied
	case err != nil:
		return source.Object{}, s.failed("stat", p, err)
	default:
		return source.Object{}, s.failed("stat", p, object.err)
	}
}

// List gives the objects and the common prefixes one level below dir. Names that
// no file system could have ("", ".", "..", too long ones) are left out, and so
// is an object whose name is a directory's as well.
func (s *Store) List(ctx context.Context, dir string, each func(source.Object) error) error {
	if dir != "" && !filePath(dir) {
		return s.failed("list", dir, source.ErrNotExist)
	}
	found := false
	prefix := s.directory(dir)
	held := &held{each: each, omit: s.Omit}
	err := s.pages(ctx, "list", dir, aws.String("/"), func(page *s3.ListObjectsV2Output) error {
		found = found || len(page.Contents)+len(page.CommonPrefixes) > 0
		objects, prefixes := page.Contents, page.CommonPrefixes
		for len(objects)+len(prefixes) > 0 {
			if len(prefixes) == 0 || len(objects) > 0 && aws.ToString(objects[0].Key) < aws.ToString(prefixes[0].Prefix) {
				o := objects[0]
				objects = objects[1:]
				name := strings.TrimPrefix(aws.ToString(o.Key), prefix)
				if name == "" { // the marker of dir itself
					continue
				}
				if !fileName(name) {
					s.Omit(odd(dir, name))
					continue
				}
				if err := held.file(s.prefix+path.Join(dir, name), s.object(path.Join(dir, name), o)); err != nil {
					return err
				}
				continue
			}
			name := strings.TrimSuffix(strings.TrimPrefix(aws.ToString(prefixes[0].Prefix), prefix), "/")
			prefixes = prefixes[1:]
			if !fileName(name) {
				s.Omit(odd(dir, name) + "/")
				continue
			}
			if err := held.directory(s.prefix+path.Join(dir, name), path.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = held.flush()
	}
	if err == nil && !found && dir != "" {
		err = s.failed("list", dir, source.ErrNotExist)
	}
	return err
}

// Walk lists every object below dir in one flat listing, and leaves out what
// List would. Directories are not named, but for those that have nothing which
// could be served.
func (s *Store) Walk(ctx context.Context, dir string, each func(source.Object) error) error {
	if dir != "" && !filePath(dir) {
		return s.failed("walk", dir, source.ErrNotExist)
	}
	prefix := s.directory(dir)
	held := &held{each: each, omit: s.Omit}
	err := s.pages(ctx, "walk", dir, nil, func(page *s3.ListObjectsV2Output) error {
		for _, o := range page.Contents {
			key := aws.ToString(o.Key)
			name, isDir := strings.CutSuffix(strings.TrimPrefix(key, prefix), "/")
			if name == "" && key == prefix {
				continue
			}
			good := goodPart(name)
			var err error
			switch {
			case good == name && !isDir:
				err = held.file(key, s.object(path.Join(dir, name), o))
			case good == name:
				err = held.directory(s.prefix+path.Join(dir, name), path.Join(dir, name))
			default:
				s.Omit(odd(dir, name))
				if good != "" {
					err = held.directory(s.prefix+path.Join(dir, good), path.Join(dir, good))
				}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = held.flush()
	}
	return err
}

// held keeps back the objects of an ordered listing until no directory of the
// same name can follow. Each begins with the one before, so they are few.
type held struct {
	each  func(source.Object) error
	omit  func(string)
	files []heldFile
	last  string // the last directory that was given, to give each once
}

type heldFile struct {
	key    string
	object source.Object
}

// file takes an object. Keys come in order.
func (h *held) file(key string, o source.Object) error {
	if err := h.until(key); err != nil {
		return err
	}
	h.files = append(h.files, heldFile{key, o})
	return nil
}

// directory takes a directory that is there by its own.
func (h *held) directory(key, p string) error {
	if err := h.until(key + "/"); err != nil {
		return err
	}
	if h.last == p {
		return nil
	}
	h.last = p
	return h.each(source.Object{Path: p, Dir: true})
}

// until gives the files that key, which comes next, cannot lie below, nor any
// later one; and leaves out the file that it does lie below.
func (h *held) until(key string) error {
	for n := len(h.files) - 1; n >= 0; n-- {
		f := h.files[n]
		switch {
		case strings.HasPrefix(key, f.key+"/"):
			h.omit(f.object.Path)
		case strings.HasPrefix(key, f.key) && key < f.key+"/":
			return nil // a directory may still come, as it may for those before
		default:
			if err := h.each(f.object); err != nil {
				return err
			}
		}
		h.files = h.files[:n]
	}
	return nil
}

func (h *held) flush() error {
	for _, f := range h.files {
		if err := h.each(f.object); err != nil {
			return err
		}
	}
	h.files = nil
	return nil
}

// pages gives the pages of a listing, whose keys are in order. The next page is
// asked for while one is looked at.
func (s *Store) pages(ctx context.Context, what, dir string, delimiter *string, each func(*s3.ListObjectsV2Output) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	prefix := s.directory(dir)
	type answer struct {
		page *s3.ListObjectsV2Output
		err  error
	}
	var encoding types.EncodingType
	fetch := func(token *string) chan answer {
		out := make(chan answer, 1)
		encoding := encoding
		go func() { // ends with the call, which ctx bounds
			bounded, cancel := s.bound(ctx)
			defer cancel()
			page, err := s.client.ListObjectsV2(bounded, &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix, Delimiter: delimiter,
				ContinuationToken: token, EncodingType: encoding, RequestPayer: s.payer})
			if err == nil {
				err = decode(page)
			} else {
				err = because(bounded, err)
			}
			out <- answer{page, err}
		}()
		return out
	}
	var token *string
	next := fetch(token)
	for {
		got := <-next
		if got.err != nil && encoding == "" && strings.Contains(got.err.Error(), "illegal character code") {
			// Keys with control characters are no XML: have them written otherwise.
			encoding = types.EncodingTypeUrl
			next = fetch(token)
			continue
		}
		if got.err != nil {
			return s.failed(what, dir, got.err)
		}
		more := aws.ToBool(got.page.IsTruncated)
		if more {
			if aws.ToString(got.page.NextContinuationToken) == "" || aws.ToString(got.page.NextContinuationToken) == aws.ToString(token) {
				return s.failed(what, dir, errors.New("the server says there is more and not where"))
			}
			token = got.page.NextContinuationToken
			next = fetch(token)
		}
		if err := each(got.page); err != nil {
			return err
		}
		if !more {
			return ctx.Err()
		}
	}
}

// decode undoes the encoding of a page, if the server has used one.
func decode(page *s3.ListObjectsV2Output) error {
	if page.EncodingType != types.EncodingTypeUrl {
		return nil
	}
	for i := range page.Contents {
		key, err := url.QueryUnescape(aws.ToString(page.Contents[i].Key))
		if err != nil {
			return err
		}
		page.Contents[i].Key = &key
	}
	for i := range page.CommonPrefixes {
		prefix, err := url.QueryUnescape(aws.ToString(page.CommonPrefixes[i].Prefix))
		if err != nil {
			return err
		}
		page.CommonPrefixes[i].Prefix = &prefix
	}
	return nil
}

// odd is the path of a name that cannot be one: as it is, not cleaned.
func odd(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// fileName tells whether a file system can have a name.
func fileName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

func filePath(p string) bool { return goodPart(p) == p }

// goodPart is p up to before the first name that no file system can have.
func goodPart(p string) string {
	for from := 0; ; {
		end := strings.IndexByte(p[from:], '/')
		name := p[from:]
		if end >= 0 {
			name = p[from : from+end]
		}
		if !fileName(name) {
			return strings.TrimSuffix(p[:from], "/")
		}
		if end < 0 {
			return p
		}
		from += end + 1
	}
}
