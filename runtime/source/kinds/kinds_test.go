package kinds_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/millrace/millrace/runtime/source"
	"github.com/millrace/millrace/runtime/source/egress"
	"github.com/millrace/millrace/runtime/source/kinds"
)

func TestTheSchemeChoosesTheKind(t *testing.T) {
	at := map[string]string{"endpoint": "http://127.0.0.1:1"}
	for mountPoint, want := range map[string]error{
		"s3://bucket":           nil,
		"s3a://bucket/prefix":   nil,
		"minio://bucket":        nil,
		"http://127.0.0.1/dir":  nil,
		"https://127.0.0.1":     nil,
		"oss://bucket":          nil,
		"pvc://no-such-claim":   source.ErrNotExist,
		"local:///no/such/path": source.ErrNotExist,
		"pvc://":                source.ErrInvalid,
		"hdfs://namenode/path":  nil,
		"hdfs:///path":          source.ErrInvalid,
		"ftp://host":            source.ErrInvalid,
		"bucket":                source.ErrInvalid,
		"":                      source.ErrInvalid,
	} {
		s, err := kinds.Open(t.Context(), source.Config{MountPoint: mountPoint, Options: at, Egress: egress.Unrestricted()})
		if !errors.Is(err, want) {
			t.Errorf("open %q: %v, want %v", mountPoint, err, want)
			continue
		}
		if err != nil {
			if !strings.Contains(err.Error(), mountPoint) {
				t.Errorf("the error does not name %q: %v", mountPoint, err)
			}
			continue
		}
		if s.String() != mountPoint {
			t.Errorf("%q calls itself %q", mountPoint, s)
		}
		s.Close()
	}
}

func TestAnUnknownSchemeIsToldTheKnownOnes(t *testing.T) {
	_, err := kinds.Open(t.Context(), source.Config{MountPoint: "ftp://host"})
	for _, word := range []string{"ftp", "pvc", "local", "s3"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in: %v", word, err)
		}
	}
}
