package scale

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
)

// Masters speak the HTTP interface of the masters of all runtimes, each at an
// address of its own on this machine, and say what they are told to say.
type Masters struct {
	mu      sync.Mutex
	servers map[types.NamespacedName]*master
	last    uint32 // address that was given
	closed  bool
}

type master struct {
	mu      sync.Mutex
	changed chan struct{}
	says    contract.Summary
	streams int // that are open
	ip      string
	http    *http.Server
}

func newMasters() *Masters { return &Masters{servers: map[types.NamespacedName]*master{}} }

// begun is what a master says until it is told otherwise.
var begun = contract.Summary{
	Revision: 1, MetadataComplete: true, UFSTotalBytes: 1000, FileNum: 3,
	Mounts: []contract.MountSummary{{Path: "/", Ready: true, Reason: contract.MountReady}},
}

// Restart has the master of a runtime say what it said first.
func (m *Masters) Restart(of types.NamespacedName) {
	m.Say(of, func(s *contract.Summary) { *s = begun })
}

// address is where the master of a runtime is; it is opened the first time.
func (m *Masters) address(of types.NamespacedName) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.servers[of]; s != nil {
		return s.ip, nil
	}
	if m.closed {
		return "", errors.New("the masters are gone")
	}
	m.last++
	s := &master{changed: make(chan struct{}), ip: fmt.Sprintf("127.77.%d.%d", m.last>>8, m.last&0xff)}
	s.says = begun
	listener, err := net.Listen("tcp", net.JoinHostPort(s.ip, strconv.Itoa(contract.MasterHTTPPort)))
	if err != nil {
		return "", fmt.Errorf("open a master: %w", err)
	}
	s.http = &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.http.Serve(listener) }() // until close
	m.servers[of] = s
	return s.ip, nil
}

// Say has the master of a runtime say something else, if it has one.
func (m *Masters) Say(of types.NamespacedName, edit func(*contract.Summary)) {
	m.mu.Lock()
	s := m.servers[of]
	m.mu.Unlock()
	if s != nil {
		s.edit(edit)
	}
}

// Heard tells whether somebody listens to the master of a runtime.
func (m *Masters) Heard(of types.NamespacedName) bool {
	m.mu.Lock()
	s := m.servers[of]
	m.mu.Unlock()
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams > 0
}

func (m *Masters) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, s := range m.servers {
		_ = s.http.Close()
	}
}

func (s *master) edit(edit func(*contract.Summary)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.says)
	s.says.Revision++
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *master) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == contract.PathRetire {
		s.edit(func(says *contract.Summary) { says.Retired = true })
		return
	}
	s.mu.Lock()
	s.streams++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.streams--
	}()
	repeat := time.NewTicker(15 * time.Second)
	defer repeat.Stop()
	for {
		s.mu.Lock()
		says, changed := s.says, s.changed
		s.mu.Unlock()
		if json.NewEncoder(w).Encode(says) != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-repeat.C:
		case <-r.Context().Done():
			return
		}
	}
}
