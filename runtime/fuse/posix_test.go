package fuse_test

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"

	"github.com/millrace/millrace/runtime/fuse"
	"github.com/millrace/millrace/runtime/fuse/fusetest"
)

// changes is why most of go-fuse's cases cannot run on a read-only mount: each
// makes the files that it looks at through the mount itself. What remains of
// such a case when the files are there already is named where it is tested.
const changes = "changes files through the mount; "

// excluded says why a case of posixtest does not run.
var excluded = map[string]string{
	"AppendWrite":                changes + "that it cannot: no call can change a file",
	"DirSeek":                    changes + "TestADirectoryMayBeReadFromAnyPlace",
	"DirectIO":                   changes + "dd reads with O_DIRECT",
	"Fallocate":                  changes + "that it cannot: no call can change a file",
	"FallocateKeepSize":          changes + "that it cannot: no call can change a file",
	"FcntlFlockLocksFile":        changes + "locks for reading are granted",
	"FcntlFlockSetLk":            changes + "locks for reading are granted",
	"FdLeak":                     changes + "TestTheSmallProfileOpensWithoutAsking, TestRepeatedOpensOfAFileShareOneRegistration",
	"FileBasic":                  changes + "cp copies every byte, mode and time",
	"FileLarge":                  changes + "every byte of the large file is right",
	"FstatDeleted":               changes + "TestANewVersionIsSeenByTheNextOpenAndTheOldHandleKeepsItsOwn",
	"Link":                       changes + "that it cannot: no call can change a directory",
	"LinkUnlinkRename":           changes + "that it cannot: no call can change a directory",
	"LseekEnxioCheck":            changes + "a seek past the end reads nothing",
	"LseekHoleSeeksToEOF":        changes + "a seek past the end reads nothing",
	"MkdirRmdir":                 changes + "that it cannot: no call can change a directory",
	"NlinkZero":                  changes + "that it cannot: no call can change a directory",
	"OpenAt":                     changes + "that it cannot: no call can change a directory",
	"OpenSymlinkRace":            changes + "a link that is not to be followed, among wrong paths",
	"ParallelFileOpen":           changes + "sixty-four readers at once see right bytes",
	"ReadDirBasic":               changes + "a directory of ten thousand is complete",
	"RenameOpenDir":              changes + "that it cannot: no call can change a directory",
	"RenameOverwriteDestExist":   changes + "that it cannot: no call can change a directory",
	"RenameOverwriteDestNoExist": changes + "that it cannot: no call can change a directory",
	"SetattrSymlink":             changes + "that it cannot: no call can change a file",
	"SymlinkReadlink":            changes + "a link leads to its target",
	"Tmpfile":                    changes + "that it cannot: no call can change a directory",
	"TruncateFile":               changes + "that it cannot: no call can change a file",
	"TruncateNoFile":             changes + "that it cannot: no call can change a file",
	"XAttr":                      changes + "there are no extended attributes",
	"XAttrLarge":                 changes + "there are no extended attributes",
}

func TestPosixCasesOfGoFuse(t *testing.T) {
	ran := 0
	for profile, mount := range map[fuse.Profile]func(testing.TB, fusetest.Content) *mounted{fuse.ProfileLarge: mount, fuse.ProfileSmall: mountSmall} {
		m := mount(t, fusetest.Content{"a": {Data: []byte("a")}, "b/c": {Data: []byte("c")}, "d": {Link: "a"}})
		for name, run := range posixtest.All {
			if excluded[name] == "" {
				ran++
				t.Run(string(profile)+"/"+name, func(t *testing.T) { run(t, m.dir) })
			}
		}
	}
	for name := range excluded {
		if posixtest.All[name] == nil {
			t.Errorf("%s is excluded and does not exist", name)
		}
	}
	if ran == 0 {
		t.Error("no case ran")
	}
}

func TestADirectoryMayBeReadFromAnyPlace(t *testing.T) {
	content := fusetest.Content{}
	for i := range 500 {
		content[fmt.Sprintf("d/%03d", i)] = fusetest.Item{Data: []byte("x")}
	}
	m := mount(t, content)
	d := open(t, m.path("d"))
	first, err := d.Readdirnames(200)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := d.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		again, err := d.Readdirnames(-1)
		if err != nil || len(again) != 500 || fmt.Sprint(again[:200]) != fmt.Sprint(first) {
			t.Errorf("%d entries after a seek to the start, %v", len(again), err)
		}
	}
}

func TestErrnosAreThoseOfALocalDisk(t *testing.T) {
	for profile, mount := range map[fuse.Profile]func(testing.TB, fusetest.Content) *mounted{fuse.ProfileLarge: mount, fuse.ProfileSmall: mountSmall} {
		t.Run(string(profile), func(t *testing.T) {
			m := mount(t, fusetest.ErrnoFiles())
			m.SetMode("program", 0o755)
			fusetest.TestErrnos(t, m.dir)
		})
	}
}

func TestAHundredThousandEntriesAreListed(t *testing.T) {
	const entries = 100_000
	m := mount(t, fusetest.Content{"d": {Dir: true}})
	m.Fill("d", entries)
	for pass := range 2 {
		list, err := os.ReadDir(m.path("d"))
		if err != nil {
			t.Fatal(err)
		}
		if len(list) != entries || list[0].Name() != "entry-000000" || list[entries-1].Name() != fmt.Sprintf("entry-%06d", entries-1) {
			t.Fatalf("pass %d: %d entries", pass, len(list))
		}
	}
	if _, err := os.Stat(m.path("d/entry-054321")); err != nil {
		t.Error(err)
	}
}

func TestThereAreNoExtendedAttributes(t *testing.T) {
	m := mount(t, file([]byte("x")))
	buf := make([]byte, 100)
	_, err := syscall.Getxattr(m.path("f"), "user.x", buf)
	wantErr(t, "getxattr", err, syscall.EOPNOTSUPP)
	if n, err := syscall.Listxattr(m.path("f"), buf); n > 0 || err != nil && err != syscall.EOPNOTSUPP {
		t.Errorf("listxattr: %d, %v", n, err)
	}
}

func TestWhoeverMaySeeTheMountMayReadIt(t *testing.T) {
	m := mount(t, file([]byte("x")))
	m.SetMode("f", 0o600)
	dir := open(t, m.dir) // what lies above belongs to this user alone
	done := make(chan error)
	go func() { // a thread of its own, which ends with the identity of another user
		runtime.LockOSThread()
		if _, _, no := syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0); no != 0 {
			done <- no
			return
		}
		fd, err := unix.Openat(int(dir.Fd()), "f", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = syscall.Read(fd, make([]byte, 1))
			_ = syscall.Close(fd)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Errorf("another user reads a file of mode 0600: %v", err)
	}
}
