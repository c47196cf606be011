package hdfs

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/colinmarc/hdfs/v2"
	krb "github.com/jcmturner/gokrb5/v8/client"
	krbconfig "github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/source"
)

// Options under which users of Fluid, Alluxio and Hadoop write the same thing;
// the first that is set wins.
var (
	optConf      = []string{"hadoop-conf", "alluxio.underfs.hdfs.configuration"}
	optUser      = []string{"hadoop.user.name", "HADOOP_USER_NAME", "user"}
	optTimeout   = []string{"socket-timeout", "dfs.client.socket-timeout"}
	optRetry     = []string{"retry-timeout"}
	optPrincipal = []string{"kerberos-principal", "alluxio.security.underfs.hdfs.kerberos.client.principal"}
	optKeytab    = []string{"kerberos-keytab", "keytab"}
	optKeytabAt  = []string{"kerberos-keytab-file", "alluxio.security.underfs.hdfs.kerberos.client.keytab.file"}
	optKrb5      = []string{"krb5.conf"}
	optKrb5At    = []string{"krb5-conf-file", "java.security.krb5.conf"}
)

const (
	// defaultTimeout is how long a NameNode or DataNode may be silent.
	defaultTimeout = 10 * time.Second
	// defaultRetry is for how long a call is tried that makes no progress. A
	// standby takes about this long to take over.
	defaultRetry = 30 * time.Second
	// defaultPort of a NameNode that is written without one.
	defaultPort = "8020"
)

// properties are Hadoop's, from its files and from options of their names.
type properties map[string]string

// setup is what a mount point and its options come to.
type setup struct {
	addresses      []string // of the NameNodes
	root           string   // the path, absolute and clean
	client         hdfs.ClientOptions
	timeout, retry time.Duration
}

// configure reads everything that Open is given.
func configure(c source.Config) (_ *setup, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open source %s: %w: %w", c.MountPoint, source.ErrInvalid, err)
		}
	}()
	get := func(names []string) string {
		for _, name := range names {
			// What comes from a file often ends in a line feed. A keytab is no text.
			if v := c.EncryptOptions[name]; v != "" {
				if strings.ContainsRune(v, 0) {
					return v
				}
				return strings.TrimSpace(v)
			}
			if v := strings.TrimSpace(c.Options[name]); v != "" {
				return v
			}
		}
		return ""
	}
	places := confPlaces(get(optConf), get([]string{contract.OptionHadoopConfig}))
	p, err := load(places)
	if err != nil {
		return nil, err
	}
	for _, options := range []map[string]string{c.Options, c.EncryptOptions} {
		for name, value := range options {
			if strings.HasPrefix(name, "dfs.") || strings.HasPrefix(name, "fs.") || strings.HasPrefix(name, "hadoop.") {
				p[name] = strings.TrimSpace(value)
			}
		}
	}
	s := &setup{timeout: defaultTimeout, retry: defaultRetry}
	authority, err := s.locate(c.MountPoint, p)
	if err != nil {
		return nil, err
	}
	if who, _, ok := strings.Cut(authority, "@"); ok {
		s.client.User = who
	}
	for names, at := range map[*[]string]*time.Duration{&optTimeout: &s.timeout, &optRetry: &s.retry} {
		v := cmp.Or(get(*names), p[(*names)[len(*names)-1]])
		if v == "" {
			continue
		}
		if *at, err = parseTimeout(v); err != nil {
			return nil, fmt.Errorf("option %s: %q is no duration such as 30s", (*names)[0], v)
		}
	}
	s.client.Addresses = s.addresses
	s.client.User = cmp.Or(get(optUser), s.client.User, os.Getenv("HADOOP_USER_NAME"), processUser())
	s.client.UseDatanodeHostname = p["dfs.client.use.datanode.hostname"] == "true"
	if s.client.DataTransferProtection, err = protection(p); err != nil {
		return nil, err
	}
	principal := get(optPrincipal)
	switch auth := strings.ToLower(p["hadoop.security.authentication"]); {
	case auth == "kerberos" || principal != "" && auth == "":
		s.client.KerberosServicePrincipleName, _, _ = strings.Cut(cmp.Or(p["dfs.namenode.kerberos.principal"], "nn/_HOST"), "@")
		s.client.KerberosClient, err = kerberos(get, places, principal)
	case auth != "" && auth != "simple":
		err = fmt.Errorf("hadoop.security.authentication is %q: simple and kerberos are known", auth)
	}
	return s, err
}

// locate finds the NameNodes and the path of a mount point, and returns its
// authority.
func (s *setup) locate(mountPoint string, p properties) (string, error) {
	authority, at, _ := strings.Cut(strings.TrimPrefix(mountPoint, "hdfs://"), "/")
	if authority == "" {
		fallback := cmp.Or(p["fs.defaultFS"], p["fs.default.name"])
		scheme, rest, ok := strings.Cut(fallback, "://")
		if authority, _, _ = strings.Cut(rest, "/"); !ok || scheme != "hdfs" || authority == "" {
			return "", errors.New("no NameNode is named: write hdfs://namenode:8020/path, or give a core-site.xml whose fs.defaultFS is hdfs://…")
		}
	}
	// Not a URL: a path may have any character, also % and ?.
	s.root = path.Clean("/" + at)
	hosts := authority[strings.LastIndexByte(authority, '@')+1:]
	if slices.Contains(words(p["dfs.nameservices"]), hosts) || p["dfs.ha.namenodes."+hosts] != "" {
		nodes := words(p["dfs.ha.namenodes."+hosts])
		for _, node := range nodes {
			address := p["dfs.namenode.rpc-address."+hosts+"."+node]
			if address == "" {
				return "", fmt.Errorf("the name service %s has a NameNode %s without an address: set dfs.namenode.rpc-address.%s.%s", hosts, node, hosts, node)
			}
			s.addresses = append(s.addresses, withPort(address))
		}
		if address := p["dfs.namenode.rpc-address."+hosts]; len(nodes) == 0 && address != "" {
			s.addresses = []string{withPort(address)}
		}
		if len(s.addresses) == 0 {
			return "", fmt.Errorf("the name service %s has no NameNodes: set dfs.ha.namenodes.%s and their dfs.namenode.rpc-address.%s.…", hosts, hosts, hosts)
		}
		return authority, nil
	}
	for _, host := range words(hosts) {
		s.addresses = append(s.addresses, withPort(host))
	}
	if len(s.addresses) == 0 {
		return "", errors.New("no NameNode is named: write hdfs://namenode:8020/path")
	}
	return authority, nil
}

func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), defaultPort)
}

// words are what Hadoop separates by commas.
func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
}

// parseTimeout reads 30s, and Hadoop's numbers of milliseconds.
func parseTimeout(v string) (time.Duration, error) {
	if ms, err := strconv.ParseInt(v, 10, 64); err == nil {
		v = strconv.FormatInt(ms, 10) + "ms"
	}
	d, err := time.ParseDuration(v)
	if err == nil && d <= 0 {
		err = errors.New("not positive")
	}
	return d, err
}

func processUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "root"
}

// protection is how the transfer of data is protected: the strongest that the
// configuration allows. The DataNode may ask for more.
func protection(p properties) (string, error) {
	if p["dfs.encrypt.data.transfer"] == "true" {
		return hdfs.DataTransferProtectionPrivacy, nil
	}
	out := ""
	for _, v := range words(strings.ToLower(p["dfs.data.transfer.protection"])) {
		switch v {
		case hdfs.DataTransferProtectionAuthentication, hdfs.DataTransferProtectionIntegrity, hdfs.DataTransferProtectionPrivacy:
			out = max(out, v) // their names are in the order of their strength
		default:
			return "", fmt.Errorf("dfs.data.transfer.protection has %q: authentication, integrity and privacy are known", v)
		}
	}
	return out, nil
}

// confPlaces are the files and directories of Hadoop's configuration: those of
// a list, or of a ConfigMap that the pods mount, or of the environment.
func confPlaces(list, configMap string) []string {
	switch dir := os.Getenv("HADOOP_CONF_DIR"); {
	case list != "":
		return strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ',' })
	case configMap != "":
		return []string{contract.HadoopConfigPath(configMap)}
	case dir != "":
		return []string{dir}
	}
	return nil
}

// load reads the files, of directories core-site.xml and hdfs-site.xml. Later
// ones win.
func load(places []string) (properties, error) {
	p := properties{}
	for _, place := range places {
		info, err := os.Stat(place)
		if err != nil {
			return nil, fmt.Errorf("read the Hadoop configuration: %w", err)
		}
		if !info.IsDir() {
			if err := p.read(place); err != nil {
				return nil, err
			}
			continue
		}
		for _, name := range []string{"core-site.xml", "hdfs-site.xml"} {
			if err := p.read(filepath.Join(place, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
		}
	}
	return p, nil
}

func (p properties) read(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the Hadoop configuration: %w", err)
	}
	var all struct {
		XMLName  xml.Name `xml:"configuration"`
		Property []struct {
			Name  string `xml:"name"`
			Value string `xml:"value"`
		} `xml:"property"`
	}
	if err := xml.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("read the Hadoop configuration: %s: %w", file, err)
	}
	for _, property := range all.Property {
		p[strings.TrimSpace(property.Name)] = strings.TrimSpace(property.Value)
	}
	return nil
}

// kerberos makes a client that logs in with a keytab when it is first used.
func kerberos(get func([]string) string, places []string, principal string) (*krb.Client, error) {
	if principal == "" {
		return nil, fmt.Errorf("the cluster wants Kerberos: set the option %s", optPrincipal[0])
	}
	table := keytab.New()
	var data []byte
	var err error
	switch text, file := get(optKeytab), get(optKeytabAt); {
	case text != "":
		data = []byte(text)
	case file != "":
		if data, err = os.ReadFile(file); err != nil {
			return nil, fmt.Errorf("option %s: %w", optKeytabAt[0], err)
		}
	default:
		return nil, fmt.Errorf("the cluster wants Kerberos: give the keytab of %s as the encryptOption %s, or its file as the option %s", principal, optKeytab[0], optKeytabAt[0])
	}
	if err := unmarshal(table, data); err != nil {
		return nil, fmt.Errorf("option %s: this is no keytab: %w", optKeytab[0], err)
	}
	config, realm, err := krb5(get, places)
	if err != nil {
		return nil, err
	}
	name, at, _ := strings.Cut(principal, "@")
	if realm = cmp.Or(at, realm); realm == "" {
		return nil, fmt.Errorf("option %s: %s has no realm, and krb5.conf has no default_realm: write name@REALM", optPrincipal[0], principal)
	}
	if !holds(table, name, realm) {
		return nil, fmt.Errorf("option %s: the keytab has no key of %s@%s", optPrincipal[0], name, realm)
	}
	return krb.NewWithKeytab(name, realm, table, config, krb.DisablePAFXFAST(true)), nil
}

func holds(table *keytab.Keytab, name, realm string) bool {
	for _, e := range table.Entries {
		if e.Principal.Realm == realm && strings.Join(e.Principal.Components, "/") == name {
			return true
		}
	}
	return false
}

// unmarshal reads a keytab; the library may panic at what is none.
func unmarshal(table *keytab.Keytab, data []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it is cut short")
		}
	}()
	return table.Unmarshal(data)
}

// krb5 finds the krb5.conf: of an option, next to Hadoop's files, or the system's.
func krb5(get func([]string) string, places []string) (*krbconfig.Config, string, error) {
	if text := get(optKrb5); text != "" {
		config, err := krbconfig.NewFromString(text)
		if unknown := (krbconfig.UnsupportedDirective{}); err != nil && !errors.As(err, &unknown) {
			return nil, "", fmt.Errorf("option %s: %w", optKrb5[0], err)
		}
		return config, config.LibDefaults.DefaultRealm, nil
	}
	file := get(optKrb5At)
	for _, place := range places {
		if at := filepath.Join(place, "krb5.conf"); file == "" {
			if _, err := os.Stat(at); err == nil {
				file = at
			}
		}
	}
	file = cmp.Or(file, os.Getenv("KRB5_CONFIG"), "/etc/krb5.conf")
	config, err := krbconfig.Load(file)
	if unknown := (krbconfig.UnsupportedDirective{}); err != nil && !errors.As(err, &unknown) {
		return nil, "", fmt.Errorf("option %s: read %s: %w", optKrb5At[0], file, err)
	}
	return config, config.LibDefaults.DefaultRealm, nil
}
