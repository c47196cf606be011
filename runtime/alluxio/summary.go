package alluxio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Summary is what ReportSummary answers. Sizes are bytes.
type Summary struct {
	Cached           string `json:"cached"`
	CachedPercentage string `json:"cachedPercentage"`
	CacheCapacity    string `json:"cacheCapacity"`
	CacheHitRatio    string `json:"cacheHitRatio,omitempty"`
	FileNum          string `json:"fileNum"`
	UFSTotal         string `json:"ufsTotal"`
}

const (
	// countAfter is how long a count of the tree is believed where nothing else
	// says that the tree has changed.
	countAfter = 5 * time.Minute
	// webTime is how long the master's web server may take.
	webTime = 10 * time.Second
)

// masterInfo is what the master's web server says of itself; credentials in it
// are masked by Alluxio.
type masterInfo struct {
	Capacity struct {
		Used  int64 `json:"used"`
		Total int64 `json:"total"`
	} `json:"capacity"`
	MountPoints map[string]mountPoint `json:"mountPoints"`
}

type mountPoint struct {
	ID       int64  `json:"mountId"`
	Source   string `json:"ufsUri"`
	ReadOnly bool   `json:"readOnly"`
}

// masterMetrics are two of the master's gauges.
type masterMetrics struct {
	Gauges struct {
		Paths    gauge `json:"Master.TotalPaths"`
		HitRatio gauge `json:"Cluster.CacheHitRate"`
	} `json:"gauges"`
}

type gauge struct {
	Value float64 `json:"value"`
}

func (s *Site) masterInfo(ctx context.Context) (*masterInfo, error) {
	info := &masterInfo{}
	return info, s.ask(ctx, "/api/v1/master/info", info)
}

func (s *Site) masterMetrics(ctx context.Context) (*masterMetrics, error) {
	metrics := &masterMetrics{}
	return metrics, s.ask(ctx, "/metrics/json/", metrics)
}

func (s *Site) ask(ctx context.Context, what string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, webTime)
	defer cancel()
	address := "http://" + net.JoinHostPort(s.MasterHost(), strconv.Itoa(MasterWebPort)) + what
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask Alluxio's master: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask Alluxio's master: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Alluxio's master: %s: %s", address, resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("ask Alluxio's master: %s: %w", address, err)
	}
	return nil
}

// ReportSummary tells how much is cached of how much. The tree is counted by
// Alluxio's own command, which is a process each time, so only when the tree has
// changed; the rest is asked of the master's web server.
func (s *Site) ReportSummary(ctx context.Context) (*Summary, error) {
	info, err := s.masterInfo(ctx)
	if err != nil {
		return nil, err
	}
	tree, err := s.counted(ctx, info)
	if err != nil {
		return nil, err
	}
	metrics, err := s.masterMetrics(ctx)
	if err != nil {
		return nil, err
	}
	return summarise(info, metrics, tree), nil
}

func summarise(info *masterInfo, metrics *masterMetrics, tree *tree) *Summary {
	// Alluxio counts copies, and blocks of files that are gone at the source
	// until it notices.
	cached := min(info.Capacity.Used, tree.Bytes)
	share := 100.0
	if tree.Bytes > 0 {
		share = 100 * float64(cached) / float64(tree.Bytes)
	}
	return &Summary{
		Cached: strconv.FormatInt(cached, 10), CachedPercentage: percent(share),
		CacheCapacity: strconv.FormatInt(info.Capacity.Total, 10), CacheHitRatio: percent(100 * metrics.Gauges.HitRatio.Value),
		FileNum: strconv.FormatInt(tree.Files, 10), UFSTotal: strconv.FormatInt(tree.Bytes, 10),
	}
}

// percent is cut and not rounded: 100.0% is all. Alluxio's own ratio is below
// nothing where it read more of a source than its readers asked for.
func percent(share float64) string {
	share = min(max(share, 0), 100)
	return strconv.FormatFloat(float64(int64(share*10))/10, 'f', 1, 64) + "%"
}

// tree is what one count found, and what the master said then.
type tree struct {
	Files  int64     `json:"files"`
	Bytes  int64     `json:"bytes"`
	Paths  int64     `json:"paths"`
	Mounts string    `json:"mounts"`
	At     time.Time `json:"at"`
}

func (s *Site) countFile() string { return filepath.Join(s.State, "count.json") }

// counted is the size of the tree as it was when it last changed.
func (s *Site) counted(ctx context.Context, info *masterInfo) (*tree, error) {
	known := &tree{}
	text, err := os.ReadFile(s.countFile())
	if err == nil {
		err = json.Unmarshal(text, known)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read last count: %w", err)
	}
	metrics, err := s.masterMetrics(ctx)
	if err != nil {
		return nil, err
	}
	mounts := info.table()
	if known.Mounts == mounts && known.Paths == int64(metrics.Gauges.Paths.Value) && time.Since(known.At) < countAfter {
		return known, nil
	}
	next, err := s.count(ctx)
	if err != nil {
		return nil, err
	}
	// Counting may have shown the master more of the tree.
	if metrics, err = s.masterMetrics(ctx); err != nil {
		return nil, err
	}
	next.Paths, next.Mounts, next.At = int64(metrics.Gauges.Paths.Value), mounts, time.Now()
	out, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("encode count: %w", err)
	}
	return next, writeFile(s.countFile(), string(out))
}

// table names the mounts, each by the number that Alluxio gave it.
func (i *masterInfo) table() string {
	text, err := json.Marshal(i.MountPoints)
	if err != nil {
		panic(fmt.Sprintf("encode mounts: %v", err)) // strings and numbers always encode
	}
	return string(text)
}

// count adds up the tree by `alluxio fs count`.
func (s *Site) count(ctx context.Context) (*tree, error) {
	conf, err := s.ready()
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(conf) }()
	out, err := s.call(ctx, conf, classShell, "count", "/")
	if err != nil {
		return nil, fmt.Errorf("count files: %w", err)
	}
	return parseCount(out)
}

// parseCount reads "File Count  Folder Count  Folder Size" and the line of
// numbers below.
func parseCount(text string) (*tree, error) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	var folders int64
	t := &tree{}
	if _, err := fmt.Sscan(lines[len(lines)-1], &t.Files, &folders, &t.Bytes); err != nil {
		return nil, fmt.Errorf("count files: Alluxio printed %q: %w", lastLines(text), err)
	}
	return t, nil
}
