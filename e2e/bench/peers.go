package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The objects that every cache reads: one large, many small.
const (
	peerBucket = "peers"
	peerLarge  = "large"
)

// peer is another cache that can be mounted here.
type peer struct {
	name string
	// mount gives a mounted system that has read nothing yet. errMissing when a
	// program it needs is not here.
	mount func(ctx context.Context, b *Bench, s *objectStore, dir string) (*mounted, error)
}

var errMissing = errors.New("is not installed")

// mounted is a running cache of any kind.
type mounted struct {
	root      string // where the bucket appears
	processes []*process
	close     func()
}

func (m *mounted) cpu() (total time.Duration) {
	for _, p := range m.processes {
		total += p.cpu()
	}
	return total
}

// measure is one figure of every peer.
type measure struct {
	name, unit string
	less       bool // is better
	values     map[string]float64
}

// peers has the same objects read through every cache, one system after the
// other, and compares Millrace with the best of the rest.
func peers(ctx context.Context, b *Bench) error {
	store, err := b.newObjectStore(ctx)
	if err != nil {
		return err
	}
	defer store.stop()
	size, n := b.of(1<<30), int(b.of(2000))
	if err := store.bucket(ctx, peerBucket); err != nil {
		return err
	}
	if err := store.put(ctx, peerBucket, 1, func(int) (string, io.Reader) { return peerLarge, stream(1, size) }); err != nil {
		return err
	}
	if err := store.put(ctx, peerBucket, n, func(i int) (string, io.Reader) { return smallName(i), smallBody(i, 64<<10) }); err != nil {
		return err
	}
	measures := []*measure{
		{name: "first-read", unit: "GB/s"}, {name: "cached-seq1M", unit: "GB/s"}, {name: "cached-rand4K", unit: "k/s"},
		{name: "first-touch-64KiB", unit: "k/s"}, {name: "cached-64KiB", unit: "k/s"}, {name: "warm-64KiB", unit: "k/s"},
		{name: "cached-seq1M-cpu", unit: "s/GB", less: true},
	}
	for _, m := range measures {
		m.values = map[string]float64{}
	}
	var errs []error
	for _, p := range []peer{
		{"millrace", mountMillrace}, {"juicefs", mountJuiceFS}, {"rclone", mountRclone}, {"s3fs", mountS3FS}, {"alluxio", mountAlluxio},
	} {
		err := b.measurePeer(ctx, p, store, size, n, measures)
		switch {
		case errors.Is(err, errMissing):
			_, _ = fmt.Fprintf(b.Log, "peers: %s: %v: it is left out\n", p.name, err)
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	for _, m := range measures {
		b.comparePeers(m)
	}
	return errors.Join(errs...)
}

// comparePeers adds the figures of all, and ours over the best of the others.
func (b *Bench) comparePeers(m *measure) {
	var best float64
	var who string
	better := higher
	if m.less {
		better = lower
	}
	for _, name := range slices.Sorted(maps.Keys(m.values)) {
		v := m.values[name]
		b.add(once("peers/"+name+"/"+m.name, m.unit, v, nil, better, ""))
		if name != "millrace" && (who == "" || v > best != m.less) {
			best, who = v, name
		}
	}
	ours, measured := m.values["millrace"]
	if !measured || best <= 0 { // too little to be measured
		return
	}
	ratio := ours / best
	if m.less {
		ratio = best / max(ours, 1e-3) // the clock of /proc has ticks of 10 ms
	}
	b.add(once("peers/ahead-of-the-best/"+m.name, "x", ratio, aim(1), higher, "the best is "+who))
}

func (b *Bench) measurePeer(ctx context.Context, p peer, s *objectStore, size int64, n int, measures []*measure) error {
	dir, err := os.MkdirTemp(b.dir, p.name+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := warmMemory(2 * size); err != nil {
		return err
	}
	m, err := p.mount(ctx, b, s, dir)
	if err != nil {
		return err
	}
	defer m.close()
	put := func(i int, v float64) { measures[i].values[p.name] = v }
	large := filepath.Join(m.root, peerLarge)
	cold := func(path string) func() error { return func() error { return dropCache(path) } }
	runs := func(s side, rate func(done) float64) (float64, error) {
		var values []float64
		for range b.peerRuns() {
			d, err := s.run()
			if err != nil {
				return 0, err
			}
			values = append(values, rate(d))
		}
		return median(values), nil
	}
	gb := func(d done) float64 { return d.bytesPerSec() / 1e9 }
	k := func(d done) float64 { return d.perSecond() / 1e3 }
	d, err := sequential(large, 1, 1<<20)()
	if err != nil {
		return err
	}
	put(0, gb(d))
	if got := d.Bytes; got != size {
		return fmt.Errorf("the large object has %d bytes through the mount, not %d", got, size)
	}
	for i, one := range []struct {
		side
		rate func(done) float64
	}{
		1: {side{sequential(large, 1, 1<<20), cold(large)}, gb},
		2: {side{random(large, 1, 4096, int(max(16, b.of(20000)))), cold(large)}, k},
	} {
		if one.rate == nil {
			continue
		}
		idle := m.cpu()
		v, err := runs(one.side, one.rate)
		if err != nil {
			return err
		}
		put(i, v)
		if i == 1 {
			put(6, (m.cpu()-idle).Seconds()/(float64(size)*float64(b.peerRuns())/1e9))
		}
	}
	if d, err = small(m.root, n, 1)(); err != nil {
		return err
	}
	put(3, k(d))
	v, err := runs(side{small(m.root, n, 1), func() error {
		for i := range (n + 999) / 1000 {
			if err := dropCache(filepath.Join(m.root, fmt.Sprintf("d%03d", i))); err != nil {
				return err
			}
		}
		return nil
	}}, k)
	if err != nil {
		return err
	}
	put(4, v)
	if v, err = runs(side{work: small(m.root, n, 1)}, k); err != nil {
		return err
	}
	put(5, v)
	return nil
}

// peerRuns is how often each figure of a peer is measured: not in turn, since
// only one system runs at a time.
func (b *Bench) peerRuns() int { return b.Runs/2 + 1 }

// served waits until a bucket's objects show below root.
func served(ctx context.Context, root string, p *process) error {
	return until(ctx, "the mount of "+p.name, 90*time.Second, func() (bool, error) {
		if err := p.up(); err != nil {
			return true, err
		}
		_, err := os.Stat(filepath.Join(root, peerLarge))
		return err == nil, err
	})
}

// ending closes processes, the last started first, and what is mounted at dir.
func ending(dir string, processes ...*process) func() {
	return func() {
		_ = unix.Unmount(dir, unix.MNT_DETACH)
		for i := len(processes) - 1; i >= 0; i-- {
			processes[i].stop()
		}
	}
}

// program finds one that was built or installed.
func (b *Bench) program(name string) (string, error) {
	if file := b.binary(name); executable(file) {
		return file, nil
	}
	file, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s %w", name, errMissing)
	}
	return file, nil
}

func executable(file string) bool {
	st, err := os.Stat(file)
	return err == nil && st.Mode()&0o111 != 0
}

func mountMillrace(ctx context.Context, b *Bench, s *objectStore, _ string) (*mounted, error) {
	source, err := s.mount(peerBucket)
	if err != nil {
		return nil, err
	}
	c, err := b.newCache(ctx, "peer", cacheConfig{mount: source, workers: 1, quota: "8Gi"})
	if err != nil {
		return nil, err
	}
	mnt, err := c.mount(ctx, 0)
	if err != nil {
		c.close()
		return nil, err
	}
	return &mounted{mnt, []*process{c.master, c.workers[0], c.clients[0]}, c.close}, nil
}

// directories of a peer: where it mounts, and what it caches in.
func directories(dir string) (mnt, cache string, err error) {
	mnt, cache = filepath.Join(dir, "mnt"), filepath.Join(dir, "cache")
	return mnt, cache, errors.Join(os.MkdirAll(mnt, 0o755), os.MkdirAll(cache, 0o755))
}

// mountRclone uses its second mount, which is the faster one, with the VFS
// cache in full.
func mountRclone(ctx context.Context, b *Bench, s *objectStore, dir string) (*mounted, error) {
	program, err := b.program("rclone")
	if err != nil {
		return nil, err
	}
	mnt, cache, err := directories(dir)
	if err != nil {
		return nil, err
	}
	env := []string{
		"RCLONE_CONFIG=" + filepath.Join(dir, "none.conf"), "RCLONE_CONFIG_O_TYPE=s3", "RCLONE_CONFIG_O_PROVIDER=Other", "RCLONE_CONFIG_O_ENDPOINT=" + s.endpoint,
		"RCLONE_CONFIG_O_ACCESS_KEY_ID=" + accessKey, "RCLONE_CONFIG_O_SECRET_ACCESS_KEY=" + secretKey, "RCLONE_CONFIG_O_REGION=us-east-1",
	}
	p, err := start(dir, "rclone", env, program, "mount2", "o:"+peerBucket, mnt, "--vfs-cache-mode", "full", "--cache-dir", cache,
		"--read-only", "--dir-cache-time", "1h", "--attr-timeout", "1h", "--vfs-fast-fingerprint", "--no-checksum")
	if err != nil {
		return nil, err
	}
	m := &mounted{mnt, []*process{p}, ending(mnt, p)}
	if err := served(ctx, mnt, p); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func mountS3FS(ctx context.Context, b *Bench, s *objectStore, dir string) (*mounted, error) {
	program, err := b.program("s3fs")
	if err != nil {
		return nil, err
	}
	mnt, cache, err := directories(dir)
	if err != nil {
		return nil, err
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte(accessKey+":"+secretKey), 0o600); err != nil {
		return nil, err
	}
	p, err := start(dir, "s3fs", nil, program, peerBucket, mnt, "-f", "-o", strings.Join([]string{
		"url=" + s.endpoint, "use_path_request_style", "passwd_file=" + secret, "use_cache=" + cache, "kernel_cache", "ro",
		"parallel_count=8", "stat_cache_expire=3600", "max_stat_cache_size=100000",
	}, ","))
	if err != nil {
		return nil, err
	}
	m := &mounted{mnt, []*process{p}, ending(mnt, p)}
	if err := served(ctx, mnt, p); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// mountJuiceFS has a format of its own: the objects are copied in first, by a
// mount whose cache is another.
func mountJuiceFS(ctx context.Context, b *Bench, s *objectStore, dir string) (_ *mounted, err error) {
	juicefs, err := b.program("juicefs")
	if err != nil {
		return nil, err
	}
	redis, err := b.program("redis-server")
	if err != nil {
		return nil, err
	}
	mnt, cache, err := directories(dir)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "redis.sock")
	meta, err := start(dir, "redis", nil, redis, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err != nil {
		return nil, err
	}
	m := &mounted{root: mnt, processes: []*process{meta}, close: ending(mnt, meta)}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	err = until(ctx, "redis", 30*time.Second, func() (bool, error) {
		_, err := os.Stat(socket)
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	if err := s.bucket(ctx, "juicefs"); err != nil {
		return nil, err
	}
	url := "unix://" + socket + "?db=1"
	env := []string{"ACCESS_KEY=" + accessKey, "SECRET_KEY=" + secretKey}
	if _, err := call(ctx, env, juicefs, "format", "--storage", "minio", "--bucket", s.endpoint+"/juicefs", url, "bench"); err != nil {
		return nil, err
	}
	mount := func(name, cache string, options ...string) (*process, error) {
		args := append([]string{"mount", url, mnt, "--no-usage-report", "--backup-meta", "0", "--cache-dir", cache, "--cache-size", "8192"}, options...)
		p, err := start(dir, name, env, juicefs, args...)
		if err != nil {
			return nil, err
		}
		return p, until(ctx, "the mount of juicefs", time.Minute, func() (bool, error) {
			var st unix.Statfs_t
			return unix.Statfs(mnt, &st) == nil && st.Type == unix.FUSE_SUPER_MAGIC, p.up()
		})
	}
	writer, err := mount("juicefs-writer", filepath.Join(dir, "other"))
	if err == nil {
		err = copyTree(filepath.Join(s.dir, peerBucket), mnt)
	}
	_ = unix.Unmount(mnt, 0)
	writer.stop()
	if err != nil {
		return nil, err
	}
	reader, err := mount("juicefs", cache, "--read-only", "--buffer-size", "600", "--prefetch", "3", "--attr-cache", "3600", "--entry-cache", "3600",
		"--dir-entry-cache", "3600", "--open-cache", "3600", "--verify-cache-checksum", "none")
	if err != nil {
		return nil, err
	}
	m.processes = append(m.processes, reader)
	m.close = ending(mnt, meta, reader)
	return m, nil
}

// copyTree copies the regular files below a directory.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil || strings.HasPrefix(rel, ".sgwtmp") {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		in, err := os.Open(name)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(filepath.Join(to, rel))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// mountAlluxio runs a master, a worker with a memory tier, and AlluxioFuse, from
// the jars in out/alluxio/lib. The bucket's directory is its under-store.
func mountAlluxio(ctx context.Context, b *Bench, s *objectStore, dir string) (_ *mounted, err error) {
	java, err := b.program("java")
	if err != nil {
		return nil, err
	}
	jars := filepath.Join(b.Out, "alluxio", "lib")
	if _, err := os.Stat(jars); err != nil {
		return nil, fmt.Errorf("alluxio %w: there is no %s", errMissing, jars)
	}
	mnt, _, err := directories(dir)
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "conf")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return nil, err
	}
	memory := filepath.Join("/dev/shm", filepath.Base(b.dir))
	if err := os.MkdirAll(memory, 0o755); err != nil {
		return nil, err
	}
	ports := make([]string, 6)
	for i := range ports {
		address, err := freeAddress()
		if err != nil {
			return nil, err
		}
		ports[i] = address[strings.LastIndexByte(address, ':')+1:]
	}
	properties := []string{
		"alluxio.master.hostname=127.0.0.1", "alluxio.worker.hostname=127.0.0.1", "alluxio.user.hostname=127.0.0.1",
		"alluxio.master.journal.type=UFS", "alluxio.master.journal.folder=" + filepath.Join(dir, "journal"),
		"alluxio.master.rpc.port=" + ports[0], "alluxio.master.web.port=" + ports[1],
		"alluxio.worker.rpc.port=" + ports[2], "alluxio.worker.web.port=" + ports[3],
		"alluxio.master.mount.table.root.ufs=" + filepath.Join(s.dir, peerBucket),
		"alluxio.worker.ramdisk.size=2GB", "alluxio.worker.tieredstore.level0.dirs.path=" + memory,
		"alluxio.tmp.dirs=" + dir, "alluxio.user.metadata.cache.enabled=true",
		"alluxio.security.login.impersonation.username=_NONE_", "alluxio.fuse.user.group.translation.enabled=false",
		"alluxio.fuse.mount.options=kernel_cache,attr_timeout=600,entry_timeout=600", "alluxio.user.file.passive.cache.enabled=false",
		"alluxio.fuse.web.port=" + ports[4], "alluxio.user.metrics.collection.enabled=false",
	}
	if err := os.WriteFile(filepath.Join(conf, "alluxio-site.properties"), []byte(strings.Join(properties, "\n")), 0o644); err != nil {
		return nil, err
	}
	args := func(memory, class string, rest ...string) []string {
		return append([]string{"-Xmx" + memory, "-Dalluxio.conf.dir=" + conf, "-Dalluxio.home=" + dir, "-Dalluxio.logs.dir=" + dir, "--add-opens", "java.base/java.lang=ALL-UNNAMED",
			"-cp", conf + ":" + jars + "/*", class}, rest...)
	}
	m := &mounted{root: mnt}
	m.close = func() {
		ending(mnt, m.processes...)()
		_ = os.RemoveAll(memory)
	}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	for _, one := range []struct{ format, class, name string }{
		{"master", "alluxio.master.AlluxioMaster", "alluxio-master"}, {"worker", "alluxio.worker.AlluxioWorker", "alluxio-worker"},
	} {
		if _, err := call(ctx, nil, java, args("512m", "alluxio.cli.Format", one.format)...); err != nil {
			return nil, err
		}
		p, err := start(dir, one.name, nil, java, args("1g", one.class)...)
		if err != nil {
			return nil, err
		}
		m.processes = append(m.processes, p)
	}
	shell := func(limit time.Duration, words ...string) error {
		return until(ctx, "alluxio fs "+words[0], limit, func() (bool, error) {
			_, err := call(ctx, nil, java, args("512m", "alluxio.cli.fs.FileSystemShell", words...)...)
			return err == nil, err
		})
	}
	if err := shell(2*time.Minute, "ls", "/"); err != nil {
		return nil, err
	}
	p, err := start(dir, "alluxio-fuse", nil, java, args("1g", "alluxio.fuse.AlluxioFuse", "-m", mnt, "-o", "alluxio.fuse.mount.alluxio.path=/")...)
	if err != nil {
		return nil, err
	}
	m.processes = append(m.processes, p)
	return m, served(ctx, mnt, p)
}
