package fusetest

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Programs are what users run on a dataset. Each reads below dir and says what
// it saw; dir is a mount of ProgramFiles, or the directory that they lie in: the
// answer has to be the same. Their names are headings of docs/semantics.md.
var Programs = map[string]func(t *testing.T, dir string) string{
	"cp copies every byte, mode and time":                 copyTree,
	"tar packs the tree as it packs a local one":          packTree,
	"rsync finds nothing to do after it has copied":       syncTree,
	"sha256sum of every file is right":                    sumTree,
	"dd reads with O_DIRECT":                              directReads,
	"a file may be mapped shared":                         mapping("map"),
	"a private mapping may be written to":                 mapping("map private"),
	"sqlite3 reads a database":                            queries,
	"safetensors are read by header and mapping":          tensors,
	"TFRecords are read in a row and by offset":           records,
	"sixty-four random readers of 64 KiB see right bytes": randomReaders,
	"ten thousand files may be open at once":              heldOpen,
	"sendfile and splice move the bytes":                  zeroCopies,
	"a seek past the end reads nothing":                   seeks,
	"O_NOATIME is accepted":                               noAtime,
	"locks for reading are granted":                       locks,
	"access(2) tells that nothing can be written":         accesses,
	"inotify sees what is read on this machine":           watches,
}

const (
	programSmall = 40
	programMany  = 10_000
	programLarge = 9<<20 + 1234
)

// ProgramFiles lays out what Programs read. It needs sqlite3(1).
func ProgramFiles(dir string) error {
	c := Content{"tree/link": {Link: "large.bin"}, "tree/empty": {Data: []byte{}}, "tree/large.bin": {Data: Bytes(7, programLarge)}}
	for i := range programSmall {
		c[fmt.Sprintf("tree/d%d/small-%03d", i%4, i)] = Item{Data: Bytes(uint64(i), 1000+i*3000)}
	}
	for i := range programMany {
		c[fmt.Sprintf("many/%05d", i)] = Item{Data: []byte(strconv.Itoa(i))}
	}
	c["records/a.tfrecord"] = Item{Data: encodeRecords(500)}
	c["weights/model.safetensors"] = Item{Data: encodeTensors()}
	if err := c.WriteTo(dir); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(dir, "tree/d0/small-000"), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o755); err != nil {
		return err
	}
	make := exec.Command("sqlite3", filepath.Join(dir, "db/samples.db"), //nolint:noctx // local and short
		"create table s(id integer primary key, label text, body blob);"+
			"with recursive n(i) as (select 1 union all select i+1 from n where i < 3000) insert into s select i, 'label-' || (i % 17), zeroblob(i % 900) from n;"+
			"create index by_label on s(label);")
	if out, err := make.CombinedOutput(); err != nil {
		return fmt.Errorf("sqlite3: %w: %s", err, out)
	}
	return nil
}

// TestPrograms runs every program on the mount and on the local directory.
func TestPrograms(t *testing.T, mount, local string) {
	for name, run := range Programs {
		t.Run(name, func(t *testing.T) {
			want := run(t, local)
			if t.Failed() {
				t.Fatal("it does not even work on the local disk")
			}
			if got := run(t, mount); got != want {
				t.Errorf("on the mount: %.2000s\non the local disk: %.2000s", got, want)
			}
		})
	}
}

// command is the output of a program.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func digest(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

func copyTree(t *testing.T, dir string) string {
	to := t.TempDir()
	command(t, "cp", "-a", filepath.Join(dir, "tree"), to)
	return listTree(t, to)
}

// listTree has a line for each entry below dir: name, mode, time, size, bytes.
func listTree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		sum, size := "", st.Size()
		switch {
		case st.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			sum = digest(b)
		case st.IsDir():
			size = 0
		default:
			if sum, err = os.Readlink(p); err != nil {
				return err
			}
		}
		when := ""
		if st.Mode().IsRegular() {
			when = st.ModTime().UTC().String()
		}
		rel, _ := filepath.Rel(dir, p)
		_, _ = fmt.Fprintln(&out, rel, st.Mode(), when, size, sum)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func packTree(t *testing.T, dir string) string {
	archive := filepath.Join(t.TempDir(), "t.tar")
	command(t, "tar", "-C", dir, "-c", "--sort=name", "--owner=0", "--group=0", "-f", archive, "tree")
	to := t.TempDir()
	command(t, "tar", "-C", to, "-xpf", archive)
	return listTree(t, to)
}

func syncTree(t *testing.T, dir string) string {
	to := t.TempDir()
	from := filepath.Join(dir, "tree") + "/"
	command(t, "rsync", "-a", from, to)
	again := command(t, "rsync", "-ai", "--checksum", from, to)
	return listTree(t, to) + again
}

func sumTree(t *testing.T, dir string) string {
	args := []string{"large.bin", "empty", "link"}
	for i := range programSmall {
		args = append(args, fmt.Sprintf("d%d/small-%03d", i%4, i))
	}
	cmd := exec.CommandContext(t.Context(), "sha256sum", args...)
	cmd.Dir = filepath.Join(dir, "tree")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("sha256sum: %v: %s", err, out)
	}
	return string(out)
}

func directReads(t *testing.T, dir string) string {
	var out strings.Builder
	for _, bs := range []string{"4k", "64k", "1M", "4M"} {
		to := filepath.Join(t.TempDir(), "copy")
		command(t, "dd", "if="+filepath.Join(dir, "tree/large.bin"), "of="+to, "bs="+bs, "iflag=direct", "status=none")
		b, err := os.ReadFile(to)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintln(&out, bs, len(b), digest(b))
	}
	return out.String()
}

func mapping(how string) func(t *testing.T, dir string) string {
	return func(t *testing.T, dir string) string {
		file := filepath.Join(dir, "tree/large.bin")
		out, err := child(how, file)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file) // a private mapping leaves the file alone
		if err != nil {
			t.Fatal(err)
		}
		return string(out) + digest(b)
	}
}

func queries(t *testing.T, dir string) string {
	var out strings.Builder
	for _, how := range []string{"mode=ro", "mode=ro&immutable=1"} {
		uri := "file:" + filepath.Join(dir, "db/samples.db") + "?" + how
		out.WriteString(command(t, "sqlite3", uri, "pragma integrity_check; select label, count(*), sum(length(body)) from s group by label; select max(id) from s where label = 'label-3';"))
	}
	return out.String()
}

// encodeTensors is a safetensors file: the length of a header, the header in
// JSON with the place of each tensor, the tensors.
func encodeTensors() []byte {
	type tensor struct {
		Dtype   string   `json:"dtype"`
		Shape   []int    `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}
	header, body := map[string]tensor{}, Bytes(11, 5<<20)
	for i, off := 0, int64(0); off < int64(len(body)); i++ {
		n := min(int64(300_000+i*77_000)&^3, int64(len(body))-off)
		header[fmt.Sprintf("layer.%d.weight", i)] = tensor{"F32", []int{int(n / 4)}, [2]int64{off, off + n}}
		off += n
	}
	text, err := json.Marshal(header)
	if err != nil {
		panic(err)
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(text)))
	return append(append(out, text...), body...)
}

// readTensors does what the library does: it reads the header, maps the file and
// takes each tensor from the mapping. It is a process of its own because of the
// mapping; see MappedSum.
const readTensors = `
import hashlib, json, mmap, struct, sys
with open(sys.argv[1], "rb") as f:
    n, = struct.unpack("<Q", f.read(8))
    header = json.loads(f.read(n))
    with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
        for name in sorted(header, reverse=True):
            begin, end = header[name]["data_offsets"]
            print(name, hashlib.sha256(m[8 + n + begin:8 + n + end]).hexdigest())
`

func tensors(t *testing.T, dir string) string {
	return command(t, "python3", "-c", readTensors, filepath.Join(dir, "weights/model.safetensors"))
}

// maskedCRC is the checksum of a TFRecord.
func maskedCRC(b []byte) uint32 {
	crc := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	return (crc>>15 | crc<<17) + 0xa282ead8
}

// encodeRecords is a TFRecord file: of each record its length, the checksum of
// that, the data, the checksum of that.
func encodeRecords(n int) []byte {
	var out []byte
	for i := range n {
		data := Bytes(uint64(i), 100+i*37)
		length := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
		out = append(out, length...)
		out = binary.LittleEndian.AppendUint32(out, maskedCRC(length))
		out = append(out, data...)
		out = binary.LittleEndian.AppendUint32(out, maskedCRC(data))
	}
	return out
}

func records(t *testing.T, dir string) string {
	f, err := os.Open(filepath.Join(dir, "records/a.tfrecord"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var (
		offsets []int64
		at      int64
		all     = sha256.New()
		r       = bufio.NewReaderSize(f, 256<<10)
	)
	read := func(r io.Reader) (data []byte, end bool) {
		var head [12]byte
		if _, err := io.ReadFull(r, head[:]); errors.Is(err, io.EOF) {
			return nil, true
		} else if err != nil {
			t.Fatal(err)
		}
		if maskedCRC(head[:8]) != binary.LittleEndian.Uint32(head[8:]) {
			t.Fatal("a length is damaged")
		}
		b := make([]byte, binary.LittleEndian.Uint64(head[:8])+4)
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatal(err)
		}
		data = b[:len(b)-4]
		if maskedCRC(data) != binary.LittleEndian.Uint32(b[len(data):]) {
			t.Fatal("a record is damaged")
		}
		return data, false
	}
	for {
		data, end := read(r)
		if end {
			break
		}
		offsets = append(offsets, at)
		at += int64(len(data)) + 16
		all.Write(data)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		data, _ := read(io.NewSectionReader(f, offsets[rnd.IntN(len(offsets))], 1<<30))
		all.Write(data)
	}
	return fmt.Sprintf("%d records, %x", len(offsets), all.Sum(nil))
}

func randomReaders(t *testing.T, dir string) string {
	sums := make([]string, 64)
	var wg sync.WaitGroup
	for i := range sums {
		wg.Go(func() {
			f, err := os.Open(filepath.Join(dir, "tree/large.bin"))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			rnd, all, buf := rand.New(rand.NewPCG(uint64(i), 1)), sha256.New(), make([]byte, 64<<10)
			for range 12 {
				n, err := f.ReadAt(buf, rnd.Int64N(programLarge+1000))
				if err != nil && !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				all.Write(buf[:n])
			}
			sums[i] = fmt.Sprintf("%x", all.Sum(nil))
		})
	}
	wg.Wait()
	return strings.Join(sums, "\n")
}

func heldOpen(t *testing.T, dir string) string {
	out, err := child("hold open", filepath.Join(dir, "many"), strconv.Itoa(programMany))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func zeroCopies(t *testing.T, dir string) string {
	in, err := os.Open(filepath.Join(dir, "tree/large.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	to, err := os.Create(filepath.Join(t.TempDir(), "sent"))
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	var off int64
	for off < programLarge {
		n, err := unix.Sendfile(int(to.Fd()), int(in.Fd()), &off, 1<<20)
		if err != nil || n == 0 {
			t.Fatalf("sendfile at %d: %d, %v", off, n, err)
		}
	}
	sent, err := os.ReadFile(to.Name())
	if err != nil {
		t.Fatal(err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(pipe[0]); _ = unix.Close(pipe[1]) }()
	all, buf := sha256.New(), make([]byte, 64<<10)
	for at := int64(0); at < programLarge; {
		n, err := unix.Splice(int(in.Fd()), &at, pipe[1], nil, len(buf), 0)
		if err != nil || n == 0 {
			t.Fatalf("splice at %d: %d, %v", at, n, err)
		}
		for n > 0 {
			m, err := unix.Read(pipe[0], buf[:n])
			if err != nil {
				t.Fatal(err)
			}
			all.Write(buf[:m])
			n -= int64(m)
		}
	}
	return fmt.Sprintf("%s %x", digest(sent), all.Sum(nil))
}

func seeks(t *testing.T, dir string) string {
	f, err := os.Open(filepath.Join(dir, "tree/large.bin"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out strings.Builder
	buf := make([]byte, 100)
	for _, off := range []int64{programLarge - 10, programLarge, programLarge + 1, 1 << 40} {
		n, err := unix.Pread(int(f.Fd()), buf, off)
		_, _ = fmt.Fprintln(&out, off, n, err)
	}
	for _, try := range []struct {
		off    int64
		whence int
	}{{-1, unix.SEEK_SET}, {1 << 40, unix.SEEK_SET}, {-10, unix.SEEK_END}, {5, unix.SEEK_DATA}, {5, unix.SEEK_HOLE}, {programLarge, unix.SEEK_DATA}, {programLarge + 1, unix.SEEK_HOLE}} {
		at, err := unix.Seek(int(f.Fd()), try.off, try.whence)
		_, _ = fmt.Fprintln(&out, try, at, err)
	}
	return out.String()
}

func noAtime(t *testing.T, dir string) string {
	file := filepath.Join(dir, "tree/d1/small-001")
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NOATIME|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	return fmt.Sprint(n, err, digest(buf))
}

func locks(t *testing.T, dir string) string {
	f, err := os.Open(filepath.Join(dir, "tree/d1/small-001"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := f.Fd()
	return fmt.Sprint(
		unix.Flock(int(fd), unix.LOCK_SH|unix.LOCK_NB), unix.Flock(int(fd), unix.LOCK_UN),
		unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB), unix.Flock(int(fd), unix.LOCK_UN),
		unix.FcntlFlock(fd, unix.F_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}),
		unix.FcntlFlock(fd, unix.F_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}),
		unix.FcntlFlock(fd, unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}), // not without the right to write
	)
}

// accesses says nothing of writing on the local disk: that is not read-only.
func accesses(t *testing.T, dir string) string {
	var out strings.Builder
	for _, p := range []string{"tree", "tree/large.bin", "tree/d0/small-000", "tree/link", "tree/nothing"} {
		full := filepath.Join(dir, p)
		_, _ = fmt.Fprintln(&out, p, unix.Access(full, unix.F_OK), unix.Access(full, unix.R_OK), unix.Access(full, unix.X_OK))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Access(filepath.Join(dir, "tree/large.bin"), unix.W_OK); st.Flags&unix.ST_RDONLY != 0 && !errors.Is(err, syscall.EROFS) {
		t.Errorf("access for writing: %v", err)
	}
	return out.String()
}

func watches(t *testing.T, dir string) string {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	file := filepath.Join(dir, "tree/d1/small-001")
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE); err != nil {
		t.Fatal(err)
	}
	r, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Read(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(r)
	buf, seen := make([]byte, 4096), uint32(0)
	n, err := unix.Read(fd, buf)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at+unix.SizeofInotifyEvent <= n; {
		e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[at]))
		seen |= e.Mask
		at += unix.SizeofInotifyEvent + int(e.Len)
	}
	return fmt.Sprintf("%x", seen)
}
