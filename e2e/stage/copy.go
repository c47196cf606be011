package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"
	"time"
)

// Copied is what one copy moved, and how long it took.
type Copied struct {
	Path    string  `json:"path"`
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"`
	SHA256  string  `json:"sha256,omitempty"`
}

// BytesPerSecond is the rate of the copy.
func (c Copied) BytesPerSecond() float64 { return float64(c.Bytes) / c.Seconds }

// Copy reads path to its end in 1 MiB reads and throws the bytes away, as
// `cp FILE /dev/null` does; with digest it also takes their SHA-256.
func Copy(path string, digest bool) (Copied, error) {
	start := time.Now()
	f, err := os.Open(path)
	if err != nil {
		return Copied{}, err
	}
	defer f.Close()
	var sum hash.Hash
	if digest {
		sum = sha256.New()
	}
	buf, n := make([]byte, 1<<20), int64(0)
	for {
		k, err := f.Read(buf)
		n += int64(k)
		if sum != nil {
			sum.Write(buf[:k])
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return Copied{}, fmt.Errorf("read %s at %d: %w", path, n, err)
		}
	}
	out := Copied{Path: path, Bytes: n, Seconds: time.Since(start).Seconds()}
	if sum != nil {
		out.SHA256 = hex.EncodeToString(sum.Sum(nil))
	}
	return out, nil
}
