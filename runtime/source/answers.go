package source

import (
	"context"
	"errors"
	"fmt"
)

// errEnough ends a listing that is only made to see whether a source answers.
var errEnough = errors.New("enough")

// Answers asks a source for its root, which has to be a directory that can be
// listed, and gives the root. uri names the source in errors.
func Answers(ctx context.Context, s Store, uri string) (root Object, err error) {
	if root, err = s.Stat(ctx, ""); err != nil {
		return root, err
	}
	if !root.Dir {
		return root, fmt.Errorf("%s is not a directory: %w", uri, ErrInvalid)
	}
	err = s.List(ctx, "", func(Object) error { return errEnough })
	if errors.Is(err, errEnough) {
		err = nil
	}
	return root, err
}
