package source

import "sync"

// maxOmissions is how many names are told apart; what is beyond is not counted.
const maxOmissions = 10_000

// Omissions counts what listings leave out without an error, because no file
// system could show it under a name of its own. The zero value is ready.
type Omissions struct {
	mu    sync.Mutex
	first string
	names map[string]struct{}
}

// Omit counts a path, once however often it is listed.
func (o *Omissions) Omit(path string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.names) == maxOmissions {
		return
	}
	if o.names == nil {
		o.names, o.first = map[string]struct{}{}, path
	}
	o.names[path] = struct{}{}
}

// Omitted is how many paths were left out since the source was opened, at most
// 10,000, and the first of them.
func (o *Omissions) Omitted() (n int, first string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.names), o.first
}
