package master

import (
	"fmt"
	"slices"
	"strings"

	"github.com/millrace/millrace/apis/contract"
)

const (
	whyNoRoom = "the cache has no room for it"
	whyGone   = "it was evicted, or lost with its worker, meanwhile"
	// Bounds of what is told of failures, in bytes and files.
	maxFailureBytes   = 300
	maxFailuresInText = 5
)

// fail notes that some of a file cannot be had.
func (j *job) fail(f *loadFile, why string) {
	if f.failed {
		return
	}
	f.failed = true
	if len(j.order) < contract.MaxLoadFailures {
		j.reasons[f] = shortened(why)
		j.order = append(j.order, f)
		j.listFailures()
	}
	j.report(func(p *progress) { p.filesFailed++ })
}

// unfail takes back what is not true any more: the file is another now.
func (j *job) unfail(f *loadFile) {
	if !f.failed {
		return
	}
	f.failed = false
	if _, named := j.reasons[f]; named {
		delete(j.reasons, f)
		j.order = slices.DeleteFunc(j.order, func(other *loadFile) bool { return other == f })
		j.listFailures()
	}
	j.report(func(p *progress) { p.filesFailed-- })
}

// forgive has all files that failed tried again.
func (j *job) forgive() {
	for _, f := range j.files {
		f.failed = false
	}
	clear(j.reasons)
	j.order = nil
	j.listFailures()
	j.report(func(p *progress) { p.filesFailed = 0 })
}

// recountFailed goes by what the workers hold, whatever was said of it.
func (j *job) recountFailed() {
	for _, f := range j.files {
		switch whole := f.dropped || j.master.ledger.held(nil, f.key, 0, f.size) >= f.size; {
		case whole:
			j.unfail(f)
		default:
			j.fail(f, whyGone)
		}
	}
}

// listFailures names the first files that failed in the progress.
func (j *job) listFailures() {
	list := make([]contract.LoadFailure, 0, len(j.order))
	for _, f := range j.order {
		path := fmt.Sprintf("inode %d", f.ino)
		if e, ok := j.master.tree.Known(f.ino); ok {
			path = joinMount(e.Mount, e.Path)
		}
		list = append(list, contract.LoadFailure{Path: path, Error: j.reasons[f]})
	}
	j.mu.Lock()
	j.failures = list
	j.mu.Unlock()
	j.report(func(p *progress) { p.listed++ })
}

// listed is the end of a message that names files that failed.
func listed(failures []contract.LoadFailure, all int64) string {
	if len(failures) < 2 {
		return ""
	}
	var names []string
	for _, f := range failures[:min(len(failures), maxFailuresInText)] {
		names = append(names, fmt.Sprintf("%s (%s)", f.Path, f.Error))
	}
	text := ". Failed: " + strings.Join(names, ", ")
	if rest := all - int64(len(names)); rest > 0 {
		text += fmt.Sprintf(" and %d more", rest)
	}
	return text
}

func shortened(s string) string {
	if len(s) <= maxFailureBytes {
		return s
	}
	return strings.ToValidUTF8(s[:maxFailureBytes], "") + "…"
}
