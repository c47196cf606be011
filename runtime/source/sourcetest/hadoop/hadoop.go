// Package hadoop runs a real HDFS on this machine, NameNodes and DataNodes as
// processes of their own, for tests and measurements. It needs Java; the jars
// are fetched by hack/tools/hadoop.sh.
package hadoop

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// Superuser is the user that owns the root of every cluster.
const Superuser = "hdfs"

// Nameservice is the logical name of a cluster of two NameNodes.
const Nameservice = "millcluster"

// ready bounds how long a cluster may take to start, on a busy machine.
const ready = 3 * time.Minute

// Options of a cluster.
type Options struct {
	// DataNodes is 3, and Replication 2, where they are 0.
	DataNodes, Replication int
	// BlockSize in bytes of what Put writes; 1 MiB where it is 0.
	BlockSize int64
	// HighAvailability starts two NameNodes that share their edits; the first
	// is active.
	HighAvailability bool
	// Heap of each process in MiB; 256 where it is 0.
	Heap int
	// Host is the address of this machine that all listen on; loopback where it
	// is empty.
	Host string
	// Properties are added to hdfs-site.xml.
	Properties map[string]string
}

// Cluster is one that runs.
type Cluster struct {
	dir   string
	o     Options
	ports []int // of the NameNodes: RPC, web, RPC, web; then of the DataNodes
	nodes map[string]*exec.Cmd
	// active is the NameNode that was made so.
	active int
}

// Start starts a cluster below dir, an empty directory, and waits until it
// takes writes. Close ends it; it also ends with the process that started it.
func Start(ctx context.Context, dir string, o Options) (_ *Cluster, err error) {
	o.DataNodes, o.Replication, o.Heap = cmp.Or(o.DataNodes, 3), cmp.Or(o.Replication, 2), cmp.Or(o.Heap, 256)
	o.BlockSize, o.Host = cmp.Or(o.BlockSize, 1<<20), cmp.Or(o.Host, "127.0.0.1")
	if err := fetch(ctx); err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, o: o, nodes: map[string]*exec.Cmd{}}
	if c.ports, err = freePorts(o.Host, 4+o.DataNodes); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start hadoop: %w", err), c.logs())
			c.Close()
		}
	}()
	for i := range c.NameNodes() {
		if err := c.configure(nameNode(i), nil); err != nil {
			return nil, err
		}
	}
	for i := range o.DataNodes {
		if err := c.configure(dataNode(i), map[string]string{
			"dfs.datanode.data.dir": "file://" + filepath.Join(dir, dataNode(i), "data"),
			"dfs.datanode.address":  c.DataNodeAddress(i),
		}); err != nil {
			return nil, err
		}
	}
	if out, err := c.Run(ctx, nameNode(0), "org.apache.hadoop.hdfs.server.namenode.NameNode", "-format", "-nonInteractive"); err != nil {
		return nil, fmt.Errorf("format: %w\n%s", err, out)
	}
	if o.HighAvailability {
		if err := os.CopyFS(filepath.Join(dir, nameNode(1), "name"), os.DirFS(filepath.Join(dir, nameNode(0), "name"))); err != nil {
			return nil, err
		}
	}
	for i := range c.NameNodes() {
		if err := c.StartNameNode(i); err != nil {
			return nil, err
		}
	}
	for i := range o.DataNodes {
		if err := c.StartDataNode(i); err != nil {
			return nil, err
		}
	}
	if o.HighAvailability {
		if err := c.Activate(ctx, 0); err != nil {
			return nil, err
		}
	}
	return c, c.Await(ctx)
}

// Close kills every process.
func (c *Cluster) Close() {
	for name := range c.nodes {
		c.kill(name)
	}
}

// NameNodes is how many there are.
func (c *Cluster) NameNodes() int {
	if c.o.HighAvailability {
		return 2
	}
	return 1
}

// Address is host:port of the active NameNode.
func (c *Cluster) Address() string { return c.NameNodeAddress(c.active) }

// Active is the number of the active NameNode.
func (c *Cluster) Active() int { return c.active }

// Standby is host:port of the other of two NameNodes.
func (c *Cluster) Standby() string { return c.NameNodeAddress(1 - c.active) }

// NameNodeAddress is host:port of NameNode i.
func (c *Cluster) NameNodeAddress(i int) string { return c.local(c.ports[2*i]) }

// DataNodeAddress is where DataNode i gives blocks.
func (c *Cluster) DataNodeAddress(i int) string { return c.local(c.ports[4+i]) }

// URL is the mount point of a path.
func (c *Cluster) URL(p string) string { return "hdfs://" + c.Address() + "/" + strings.Trim(p, "/") }

// ConfDir holds the core-site.xml and hdfs-site.xml that a client needs.
func (c *Cluster) ConfDir() string { return filepath.Join(c.dir, nameNode(0), "conf") }

// KillNameNode kills NameNode i with SIGKILL; StartNameNode starts it on its
// old port and files.
func (c *Cluster) KillNameNode(i int) { c.kill(nameNode(i)) }

// StartNameNode starts a NameNode that was killed. It answers some time later.
func (c *Cluster) StartNameNode(i int) error {
	return c.start(nameNode(i), "org.apache.hadoop.hdfs.server.namenode.NameNode")
}

// KillDataNode kills DataNode i with SIGKILL; StartDataNode starts it again.
func (c *Cluster) KillDataNode(i int) { c.kill(dataNode(i)) }

// StartDataNode starts a DataNode that was killed.
func (c *Cluster) StartDataNode(i int) error {
	return c.start(dataNode(i), "org.apache.hadoop.hdfs.server.datanode.DataNode")
}

// HangDataNode stops DataNode i so that its connections stay and are silent,
// until WakeDataNode.
func (c *Cluster) HangDataNode(i int) error { return c.signal(dataNode(i), syscall.SIGSTOP) }

// WakeDataNode lets a hung DataNode go on.
func (c *Cluster) WakeDataNode(i int) error { return c.signal(dataNode(i), syscall.SIGCONT) }

// HangStandby does the same to the NameNode that is not active, until resume.
func (c *Cluster) HangStandby(ctx context.Context) (resume func() error, err error) {
	if err := c.until(ctx, func() error { return answers(c.Standby()) }); err != nil {
		return nil, err
	}
	node := nameNode(1 - c.active)
	return func() error { return c.signal(node, syscall.SIGCONT) }, c.signal(node, syscall.SIGSTOP)
}

// Activate makes NameNode i of two the active one. The other must be a standby
// or dead.
func (c *Cluster) Activate(ctx context.Context, i int) error {
	return c.until(ctx, func() error {
		if err := answers(c.NameNodeAddress(i)); err != nil {
			return err
		}
		out, err := c.Run(ctx, nameNode(i), "org.apache.hadoop.hdfs.tools.DFSHAAdmin", "-transitionToActive", "--forceactive", nameNode(i))
		if err != nil {
			return fmt.Errorf("make %s active: %w: %s", nameNode(i), err, out)
		}
		c.active = i
		return nil
	})
}

// Await waits until the cluster takes writes and the DataNodes that were
// started give blocks.
func (c *Cluster) Await(ctx context.Context) error {
	return c.until(ctx, func() error {
		for i := range c.o.DataNodes {
			if c.nodes[dataNode(i)] == nil {
				continue
			}
			if err := answers(c.DataNodeAddress(i)); err != nil {
				return err
			}
		}
		// A NameNode in safe mode takes no writes, but says that a directory
		// which is there already was made: so a new one each time.
		return c.As(Superuser, func(client *hdfs.Client) error {
			if err := client.MkdirAll("/tmp", 0o777); err != nil {
				return err
			}
			if err := client.RemoveAll("/tmp/await"); err != nil {
				return err
			}
			return client.Mkdir("/tmp/await", 0o777)
		})
	})
}

func answers(address string) error {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err == nil {
		conn.Close()
	}
	return err
}

// As does something as a user, who needs no password.
func (c *Cluster) As(user string, do func(*hdfs.Client) error) error {
	var addresses []string
	for i := range c.NameNodes() {
		addresses = append(addresses, c.NameNodeAddress(i))
	}
	client, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: addresses, User: user})
	if err != nil {
		return err
	}
	defer client.Close()
	return do(client)
}

// Put makes or replaces a file, and the directories above it.
func (c *Cluster) Put(name string, data []byte) error { return c.PutBlocks(name, data, c.o.BlockSize) }

// PutBlocks puts a file in blocks of a size of its own.
func (c *Cluster) PutBlocks(name string, data []byte, blockSize int64) error {
	return c.As(Superuser, func(client *hdfs.Client) error {
		name = path.Clean("/" + name)
		if err := client.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		if err := client.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		w, err := client.CreateFile(name, c.o.Replication, blockSize, 0o644)
		if err != nil {
			return err
		}
		if len(data) > 0 { // a write of nothing begins a block that never ends
			if _, err := w.Write(data); err != nil {
				return errors.Join(err, w.Close())
			}
		}
		return Finish(w)
	})
}

// Finish closes a file that was written. Its last block may not have reached
// its replicas yet.
func Finish(w *hdfs.FileWriter) error {
	for deadline := time.Now().Add(ready); ; time.Sleep(5 * time.Millisecond) {
		if err := w.Close(); !hdfs.IsErrReplicating(err) || time.Now().After(deadline) {
			return err
		}
	}
}

// Remove removes a file or a whole directory.
func (c *Cluster) Remove(name string) error {
	return c.As(Superuser, func(client *hdfs.Client) error { return client.RemoveAll(path.Clean("/" + name)) })
}

// Rot turns a bit of the replica that a DataNode holds of a block, which is
// known by its bytes, and tells whether it holds one.
func (c *Cluster) Rot(i int, block []byte, at int64) (bool, error) {
	found := false
	err := filepath.WalkDir(filepath.Join(c.dir, dataNode(i), "data"), func(name string, e fs.DirEntry, err error) error {
		if err != nil || found || e.IsDir() || !strings.HasPrefix(e.Name(), "blk_") || strings.HasSuffix(e.Name(), ".meta") {
			return err
		}
		data, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(data, block) {
			return err
		}
		found = true
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte{block[at] ^ 1}, at)
		return errors.Join(err, f.Close())
	})
	return found, err
}

// Run runs one of Hadoop's programs, such as org.apache.hadoop.fs.FsShell, with
// the configuration of a node ("nn0").
func (c *Cluster) Run(ctx context.Context, node, class string, args ...string) ([]byte, error) {
	return c.java(ctx, node, class, args...).CombinedOutput()
}

func (c *Cluster) java(ctx context.Context, node, class string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "java", append([]string{
		"-Xmx" + strconv.Itoa(c.o.Heap) + "m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.net.preferIPv4Stack=true",
		"-cp", filepath.Join(c.dir, node, "conf") + ":" + filepath.Join(home(), "lib", "*"), class}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HADOOP_USER_NAME=" + Superuser}
	return cmd
}

func (c *Cluster) start(node, class string) error {
	log, err := os.OpenFile(filepath.Join(c.dir, node+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.java(context.Background(), node, class)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // also when the test is killed
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", node, err)
	}
	c.nodes[node] = cmd
	return nil
}

func (c *Cluster) kill(node string) {
	if cmd := c.nodes[node]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		delete(c.nodes, node)
	}
}

func (c *Cluster) signal(node string, s syscall.Signal) error {
	cmd := c.nodes[node]
	if cmd == nil {
		return fmt.Errorf("%s does not run", node)
	}
	return cmd.Process.Signal(s)
}

// until tries until there is no error.
func (c *Cluster) until(ctx context.Context, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, ready)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not in %s: %w", ready, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// configure writes what a node reads.
func (c *Cluster) configure(node string, more map[string]string) error {
	conf := filepath.Join(c.dir, node, "conf")
	for _, empty := range []string{"webapps/hdfs", "webapps/datanode"} { // the jars lack them
		if err := os.MkdirAll(filepath.Join(conf, empty), 0o755); err != nil {
			return err
		}
	}
	core := map[string]string{
		"fs.defaultFS":   "hdfs://" + c.Address(),
		"hadoop.tmp.dir": filepath.Join(c.dir, node, "tmp"),
		// Groups of users who are not of this machine.
		"hadoop.security.group.mapping": "org.apache.hadoop.security.NullGroupsMapping",
	}
	site := map[string]string{
		"dfs.replication":                          strconv.Itoa(c.o.Replication),
		"dfs.blocksize":                            strconv.FormatInt(c.o.BlockSize, 10),
		"dfs.namenode.fs-limits.min-block-size":    "1024",
		"dfs.namenode.name.dir":                    "file://" + filepath.Join(c.dir, node, "name"),
		"dfs.namenode.rpc-address":                 c.Address(),
		"dfs.namenode.http-address":                c.local(c.ports[1]),
		"dfs.namenode.safemode.min.datanodes":      strconv.Itoa(c.o.DataNodes),
		"dfs.namenode.safemode.extension":          "0",
		"dfs.namenode.edits.noeditlogchannelflush": "true",
		"dfs.heartbeat.interval":                   "1",
		"dfs.namenode.heartbeat.recheck-interval":  "5000",
		"dfs.permissions.enabled":                  "true",
		"dfs.datanode.http.address":                c.local(0),
		"dfs.datanode.ipc.address":                 c.local(0),
		"dfs.blockreport.initialDelay":             "0",
		// Addresses of a bridge have no names.
		"dfs.namenode.datanode.registration.ip-hostname-check": "false",
		"dfs.datanode.du.reserved":                             "0",
		"dfs.datanode.directoryscan.interval":                  "-1",
		"dfs.block.scanner.volume.bytes.per.second":            "0",
	}
	if c.o.HighAvailability {
		core["fs.defaultFS"] = "hdfs://" + Nameservice
		delete(site, "dfs.namenode.rpc-address")
		delete(site, "dfs.namenode.http-address")
		site["dfs.nameservices"] = Nameservice
		site["dfs.ha.namenodes."+Nameservice] = nameNode(0) + "," + nameNode(1)
		site["dfs.namenode.shared.edits.dir"] = "file://" + filepath.Join(c.dir, "edits")
		site["dfs.ha.fencing.methods"] = "shell(/bin/true)"
		site["dfs.ha.tail-edits.period"] = "1"
		site["dfs.client.failover.proxy.provider."+Nameservice] = "org.apache.hadoop.hdfs.server.namenode.ha.ConfiguredFailoverProxyProvider"
		for i := range 2 {
			site["dfs.namenode.rpc-address."+Nameservice+"."+nameNode(i)] = c.NameNodeAddress(i)
			site["dfs.namenode.http-address."+Nameservice+"."+nameNode(i)] = c.local(c.ports[2*i+1])
		}
		if strings.HasPrefix(node, "nn") {
			site["dfs.ha.namenode.id"] = node
		}
	}
	for _, extra := range []map[string]string{more, c.o.Properties} {
		for name, value := range extra {
			site[name] = value
		}
	}
	for name, properties := range map[string]map[string]string{"core-site.xml": core, "hdfs-site.xml": site} {
		if err := os.WriteFile(filepath.Join(conf, name), siteXML(properties), 0o644); err != nil {
			return err
		}
	}
	// Without it the daemons die in silence.
	return os.WriteFile(filepath.Join(conf, "log4j.properties"), []byte(`log4j.rootLogger=WARN,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.target=System.err
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
`), 0o644)
}

func siteXML(properties map[string]string) []byte {
	type property struct {
		Name  string `xml:"name"`
		Value string `xml:"value"`
	}
	var all struct {
		XMLName  xml.Name   `xml:"configuration"`
		Property []property `xml:"property"`
	}
	for name, value := range properties {
		all.Property = append(all.Property, property{name, value})
	}
	out, err := xml.MarshalIndent(all, "", "  ")
	if err != nil {
		panic(err) // strings always marshal
	}
	return out
}

// logs are the ends of what the processes wrote.
func (c *Cluster) logs() error {
	var all []error
	files, _ := filepath.Glob(filepath.Join(c.dir, "*.log"))
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && len(data) > 0 {
			all = append(all, fmt.Errorf("%s: %s", filepath.Base(file), bytes.TrimSpace(data[max(0, len(data)-2000):])))
		}
	}
	return errors.Join(all...)
}

func nameNode(i int) string { return "nn" + strconv.Itoa(i) }

func dataNode(i int) string { return "dn" + strconv.Itoa(i) }

func (c *Cluster) local(port int) string { return net.JoinHostPort(c.o.Host, strconv.Itoa(port)) }

// freePorts finds ports that nobody listens on.
func freePorts(host string, n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			return nil, err
		}
		defer l.Close() // after all are found, so that they differ
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// root is the top of the source tree.
func root() string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", "..", "..", "..")
}

func home() string { return filepath.Join(root(), "out", "hadoop") }

// fetch gets the jars if `make tools` has not done so.
func fetch(ctx context.Context) error {
	if _, err := exec.LookPath("java"); err != nil {
		return fmt.Errorf("start hadoop: hack/prerequisites.sh installs Java: %w", err)
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(root(), "hack", "tools", "hadoop.sh")).CombinedOutput(); err != nil {
		return fmt.Errorf("fetch hadoop: %w\n%s", err, out)
	}
	return nil
}
