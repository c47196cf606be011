package contract

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// MountTable names the mounts: any other ones have another name. The engine tells
// in its Summary which it serves.
func (c *RuntimeConfig) MountTable() string { return digest(c.Mounts) }

// Version changes with all that is said of a mount.
func (m *MountConfig) Version() string { return digest(m) }

// Identity tells one source at a path from another: what has another identity
// shares no cached byte with it. Options that only say how the source is asked
// are no part of it; of one that is not known, that cannot be said.
func (m *MountConfig) Identity() string {
	which := map[string]string{}
	for name, value := range m.Options {
		if !saysHow(name) {
			which[name] = value
		}
	}
	path := MountPath(m.Path, m.Name)
	return path + "@" + digest(struct {
		MountPoint string
		Options    map[string]string
	}{m.MountPoint, which})
}

// words that the names of options have which say how a source is asked, and by
// whom, and not which it is.
var howWords = []string{
	"key", "secret", "token", "password", "credential", "timeout", "connection", "concurren", "proxy", "header.", "role-", "external-id", "session", "retry", "retries", "pays",
}

func saysHow(option string) bool {
	option = strings.ToLower(option)
	return option == "ca" || option == "user" || slices.ContainsFunc(howWords, func(w string) bool { return strings.Contains(option, w) })
}

// digest is a short name of a value, equal for equal values: JSON sorts the keys of maps.
func digest(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err)) // strings and maps of them always encode
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
