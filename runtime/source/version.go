package source

import (
	"strconv"
	"time"
)

// versionOf identifies bytes by size and modification time in nanoseconds, for
// sources that have no entity tag.
func versionOf(size int64, mod time.Time) string {
	return strconv.FormatInt(size, 36) + "-" + strconv.FormatInt(mod.UnixNano(), 36)
}
