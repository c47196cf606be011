package hdfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"

	"github.com/millrace/millrace/runtime/source"
)

const site = `<?xml version="1.0"?>
<configuration>
  <property><name>fs.defaultFS</name><value> hdfs://pair </value></property>
  <property><name>dfs.nameservices</name><value>pair, single</value></property>
  <property><name>dfs.ha.namenodes.pair</name><value>a,b</value></property>
  <property><name>dfs.namenode.rpc-address.pair.a</name><value>one:9000</value></property>
  <property><name>dfs.namenode.rpc-address.pair.b</name><value>two</value></property>
  <property><name>dfs.namenode.rpc-address.single</name><value>three:9000</value></property>
  <property><name>dfs.ha.namenodes.lost</name><value>a</value></property>
  <property><name>dfs.data.transfer.protection</name><value>integrity,authentication</value></property>
  <property><name>dfs.client.use.datanode.hostname</name><value>true</value></property>
</configuration>
`

// confDir is a directory with the files that are given by name.
func confDir(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheConfigurationNamesTheNameNodes(t *testing.T) {
	dir := confDir(t, map[string]string{"hdfs-site.xml": site})
	for mountPoint, want := range map[string][]string{
		"hdfs://pair/x":           {"one:9000", "two:8020", "/x"},
		"hdfs:///x/../y/":         {"one:9000", "two:8020", "/y"},
		"hdfs://single":           {"three:9000", "/"},
		"hdfs://host/a b/100%":    {"host:8020", "/a b/100%"},
		"hdfs://host:1,other:2/":  {"host:1", "other:2", "/"},
		"hdfs://bob@[::1]:8020/":  {"[::1]:8020", "/"},
		"hdfs://[2001:db8::1]/ok": {"[2001:db8::1]:8020", "/ok"},
	} {
		s, err := configure(source.Config{MountPoint: mountPoint, Options: map[string]string{"hadoop-conf": dir, "dfs.client.socket-timeout": "1500"}})
		if err != nil {
			t.Errorf("%s: %v", mountPoint, err)
			continue
		}
		if got := append(s.addresses, s.root); !slices.Equal(got, want) {
			t.Errorf("%s is at %q, want %q", mountPoint, got, want)
		}
		if s.client.DataTransferProtection != "integrity" || !s.client.UseDatanodeHostname || s.timeout != 1500*time.Millisecond {
			t.Errorf("%s: %+v", mountPoint, s)
		}
		if user := s.client.User; strings.Contains(mountPoint, "bob@") != (user == "bob") || user == "" {
			t.Errorf("%s: the user is %q", mountPoint, user)
		}
	}
}

func TestWhatMakesNoSenseIsNamed(t *testing.T) {
	dir := confDir(t, map[string]string{"hdfs-site.xml": site})
	broken := confDir(t, map[string]string{"core-site.xml": "<configuration><property>"})
	for name, tc := range map[string]struct {
		mountPoint string
		options    map[string]string
		want       string
	}{
		"no NameNode":                 {"hdfs:///x", nil, "fs.defaultFS"},
		"a default that is not HDFS":  {"hdfs:///x", map[string]string{"fs.defaultFS": "file:///"}, "fs.defaultFS"},
		"a name service of no nodes":  {"hdfs://empty/x", map[string]string{"dfs.nameservices": "empty"}, "dfs.ha.namenodes.empty"},
		"a NameNode of no address":    {"hdfs://lost/x", nil, "dfs.namenode.rpc-address.lost.a"},
		"a directory that is missing": {"hdfs://host/x", map[string]string{"hadoop-conf": "/no/such/dir"}, "/no/such/dir"},
		"a file that is no XML":       {"hdfs://host/x", map[string]string{"hadoop-conf": broken}, "core-site.xml"},
		"a timeout of no unit":        {"hdfs://host/x", map[string]string{"socket-timeout": "soon"}, "socket-timeout"},
		"no time to try again":        {"hdfs://host/x", map[string]string{"retry-timeout": "-1s"}, "retry-timeout"},
		"an unknown authentication":   {"hdfs://host/x", map[string]string{"hadoop.security.authentication": "magic"}, "hadoop.security.authentication"},
		"an unknown protection":       {"hdfs://host/x", map[string]string{"dfs.data.transfer.protection": "walls"}, "dfs.data.transfer.protection"},
	} {
		t.Run(name, func(t *testing.T) {
			options := map[string]string{"hadoop-conf": dir}
			for name, value := range tc.options {
				options[name] = value
			}
			if name == "no NameNode" {
				options["fs.defaultFS"] = ""
			}
			_, err := Open(source.Config{MountPoint: tc.mountPoint, Options: options})
			if !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), tc.mountPoint) {
				t.Errorf("error %v", err)
			}
		})
	}
}

const krb5conf = `[libdefaults]
  default_realm = EXAMPLE.COM
  dns_lookup_kdc = false
[realms]
  EXAMPLE.COM = {
    kdc = 127.0.0.1:1
  }
`

func table(t *testing.T) string {
	k := keytab.New()
	// The version of the key is a line feed, which must not be trimmed away.
	if err := k.AddEntry("reader", "EXAMPLE.COM", "pass-word", time.Unix(1, 0), 10, 18); err != nil {
		t.Fatal(err)
	}
	out, err := k.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestKerberosIsConfigured(t *testing.T) {
	dir := confDir(t, map[string]string{"krb5.conf": krb5conf, "reader.keytab": table(t), "core-site.xml": `<configuration>
  <property><name>hadoop.security.authentication</name><value>kerberos</value></property>
  <property><name>dfs.namenode.kerberos.principal</name><value>nn/_HOST@EXAMPLE.COM</value></property>
  <property><name>dfs.data.transfer.protection</name><value>privacy</value></property>
</configuration>`})
	for name, c := range map[string]source.Config{
		"the keytab in a secret": {
			Options:        map[string]string{"hadoop-conf": dir, "kerberos-principal": "reader"},
			EncryptOptions: map[string]string{"kerberos-keytab": table(t)},
		},
		"the keytab in a file": {Options: map[string]string{
			"hadoop-conf": dir, "kerberos-principal": "reader@EXAMPLE.COM", "kerberos-keytab-file": filepath.Join(dir, "reader.keytab"),
		}},
		"as Alluxio writes it, with a krb5.conf of its own": {Options: map[string]string{
			"alluxio.underfs.hdfs.configuration":                        filepath.Join(dir, "core-site.xml"),
			"alluxio.security.underfs.hdfs.kerberos.client.principal":   "reader",
			"alluxio.security.underfs.hdfs.kerberos.client.keytab.file": filepath.Join(dir, "reader.keytab"),
			"java.security.krb5.conf":                                   filepath.Join(dir, "krb5.conf"),
		}},
		"krb5.conf as a text": {
			Options:        map[string]string{"hadoop-conf": filepath.Join(dir, "core-site.xml"), "kerberos-principal": "reader", "krb5.conf": krb5conf},
			EncryptOptions: map[string]string{"keytab": table(t)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.MountPoint = "hdfs://127.0.0.1:1/x"
			s, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			o := s.setup.client
			if o.KerberosClient == nil || s.user() != "reader@EXAMPLE.COM" || o.KerberosServicePrincipleName != "nn/_HOST" || o.DataTransferProtection != "privacy" {
				t.Errorf("user %s: %+v", s.user(), o)
			}
		})
	}
}

func TestKerberosErrorsNameTheOption(t *testing.T) {
	dir := confDir(t, map[string]string{"krb5.conf": krb5conf})
	for name, tc := range map[string]struct {
		drop, option, value, want string
	}{
		"no principal":                   {drop: "kerberos-principal", want: "kerberos-principal"},
		"no keytab":                      {drop: "kerberos-keytab", want: "kerberos-keytab"},
		"a keytab that is none":          {option: "kerberos-keytab", value: "pass-word", want: "no keytab"},
		"a keytab that is cut short":     {option: "kerberos-keytab", value: table(t)[:20], want: "no keytab"},
		"a keytab of somebody else":      {option: "kerberos-principal", value: "writer", want: "no key of writer@EXAMPLE.COM"},
		"a keytab's file that is not":    {drop: "kerberos-keytab", option: "kerberos-keytab-file", value: "/no/such/keytab", want: "/no/such/keytab"},
		"a krb5.conf that is not":        {option: "krb5-conf-file", value: "/no/such/krb5.conf", want: "/no/such/krb5.conf"},
		"a realm that nobody has chosen": {option: "krb5.conf", value: "[libdefaults]\n", want: "no realm"},
	} {
		t.Run(name, func(t *testing.T) {
			options := map[string]string{"hadoop-conf": dir, "hadoop.security.authentication": "kerberos", "kerberos-principal": "reader", "kerberos-keytab": table(t)}
			delete(options, tc.drop)
			if tc.option != "" {
				options[tc.option] = tc.value
			}
			_, err := Open(source.Config{MountPoint: "hdfs://host/x", EncryptOptions: options, Options: map[string]string{"hadoop-conf": dir}})
			if !errors.Is(err, source.ErrInvalid) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "pass-word") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestAKerberosServerThatIsAwayIsUnavailable(t *testing.T) {
	s, err := Open(source.Config{MountPoint: "hdfs://127.0.0.1:1/x", Options: map[string]string{"retry-timeout": "10ms"}, EncryptOptions: map[string]string{
		"kerberos-principal": "reader", "kerberos-keytab": table(t), "krb5.conf": krb5conf,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Stat(t.Context(), ""); !errors.Is(err, source.ErrUnavailable) || !strings.Contains(err.Error(), "Kerberos") {
		t.Errorf("error %v", err)
	}
}
