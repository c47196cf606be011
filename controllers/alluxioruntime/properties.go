package alluxioruntime

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace/millrace/apis/contract"
)

// meaning is what a property of Alluxio is to the native engine: an option of
// its own, with the value in its own words.
type meaning struct {
	option string
	value  func(string) (string, bool)
}

// properties of Alluxio that have a meaning here. docs/alluxio.md lists them.
var properties = map[string]meaning{
	"alluxio.user.file.metadata.sync.interval": {contract.OptionMetadataTTL, syncInterval},
	"alluxio.user.file.replication.min":        {contract.OptionReplicas, atLeastOne},
	"alluxio.user.file.create.ttl":             {contract.OptionStoreTTL, lifetime},
	"alluxio.worker.block.annotator.class":     {contract.OptionStorePolicy, annotator},
}

// sourceProperties are read by the sources under their own names: they lie under
// the options of every mount. Credentials are none of them, as they would come
// to lie in a ConfigMap: encryptOptions of the Dataset are the place for them.
var sourceProperties = []string{
	"alluxio.underfs.s3.endpoint",
	"alluxio.underfs.s3.endpoint.region",
	"alluxio.underfs.s3.region",
	"alluxio.underfs.s3.disable.dns.buckets",
	"alluxio.underfs.s3.socket.timeout",
	"alluxio.underfs.s3.secure.http.enabled",
	"alluxio.underfs.s3.proxy.host",
	"alluxio.underfs.s3.proxy.port",
	"alluxio.security.underfs.hdfs.kerberos.client.principal",
}

// translate sorts properties into options of the engine, options of its sources,
// and the names of those that mean nothing here, sorted.
func translate(all map[string]string) (options, sources map[string]string, rest []string) {
	options, sources = map[string]string{}, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(sourceProperties, name) {
			sources[name] = all[name]
			continue
		}
		m, known := properties[name]
		if !known {
			rest = append(rest, name)
			continue
		}
		value, ok := m.value(strings.TrimSpace(all[name]))
		switch {
		case !ok:
			rest = append(rest, name)
		case value != "":
			options[m.option] = value
		}
	}
	return options, sources, rest
}

// alluxioDuration is how Alluxio writes one: milliseconds where there is no unit.
var alluxioDuration = regexp.MustCompile(`^(-?\d+)\s*(ms|millisecond|s|sec|second|m|min|minute|h|hr|hour|d|day)?s?$`)

func duration(text string) (time.Duration, bool) {
	parts := alluxioDuration.FindStringSubmatch(strings.ToLower(text))
	if parts == nil {
		return 0, false
	}
	n, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || n > int64(100*365*24*time.Hour/time.Millisecond) {
		return 0, false
	}
	unit := time.Millisecond
	switch {
	case strings.HasPrefix(parts[2], "ms"), strings.HasPrefix(parts[2], "milli"):
	case strings.HasPrefix(parts[2], "s"):
		unit = time.Second
	case strings.HasPrefix(parts[2], "m"):
		unit = time.Minute
	case strings.HasPrefix(parts[2], "h"):
		unit = time.Hour
	case strings.HasPrefix(parts[2], "d"):
		unit = 24 * time.Hour
	}
	if n > int64(100*365*24*time.Hour/unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// never stands for Alluxio's -1.
const never = 10 * 365 * 24 * time.Hour

// syncInterval: -1 is never, 0 is always, which here is a second.
func syncInterval(text string) (string, bool) {
	d, ok := duration(text)
	switch {
	case !ok:
		return "", false
	case d < 0:
		d = never
	case d < time.Second:
		d = time.Second
	}
	return d.String(), true
}

// lifetime: -1, Alluxio's default, is for ever.
func lifetime(text string) (string, bool) {
	d, ok := duration(text)
	switch {
	case !ok || d == 0:
		return "", false
	case d < 0:
		return "", true
	}
	return d.String(), true
}

func atLeastOne(text string) (string, bool) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 100 {
		return "", false
	}
	return strconv.Itoa(max(n, 1)), true
}

// annotator: both of Alluxio's weigh how lately and how often a block was read.
func annotator(text string) (string, bool) {
	class := text[strings.LastIndexByte(text, '.')+1:]
	return "tinylfu", class == "LRUAnnotator" || class == "LRFUAnnotator"
}
