package standalone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/millrace/millrace/apis/contract"
	"github.com/millrace/millrace/runtime/component"
)

// What a daemon answers on its control socket, whose directory is closed to
// everyone but its user.
const (
	pathStatus = "/v1/status"
	pathStop   = "/v1/stop"
	pathLoad   = "/v1/load"
	pathCancel = "/v1/load/cancel"
	pathKeep   = "/v1/keep"
)

// Status is how one mount does. Sizes are bytes.
type Status struct {
	State
	// Alive is false for a daemon that ended without a word.
	Alive bool `json:"alive"`
	// Problem is why the daemon cannot tell more.
	Problem string            `json:"problem,omitempty"`
	Summary *contract.Summary `json:"summary,omitempty"`
	// Tiers are those of a worker in the daemon itself.
	Tiers []Tier `json:"tiers,omitempty"`
	// ReadBytesPerSecond is what readers were given lately, of any origin.
	ReadBytesPerSecond int64 `json:"readBytesPerSecond"`
	// HitRatio is the part of the bytes given to readers that the cache had; -1
	// before the first.
	HitRatio float64 `json:"hitRatio"`
}

// Tier is one directory of the cache.
type Tier struct {
	Medium        string `json:"medium"`
	Path          string `json:"path"`
	UsedBytes     int64  `json:"usedBytes"`
	CapacityBytes int64  `json:"capacityBytes"`
}

// control answers on the control socket.
type control struct {
	stop     context.CancelFunc
	conn     *grpc.ClientConn // to the master
	registry *component.Registry
	state    State
	local    bool // the worker is in this process
	rate     rate
}

func (c *control) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathStatus, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(c.status(r.Context()))
	})
	mux.HandleFunc("POST "+pathStop, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush()
		c.stop()
	})
	mux.HandleFunc("POST "+pathLoad, c.serveLoad)
	mux.HandleFunc("POST "+pathCancel, c.serveCancel)
	mux.HandleFunc("POST "+pathKeep, c.serveKeep)
	mux.Handle("GET "+contract.PathMetrics, c.registry.Handler())
	return mux
}

// masterAnswer is how long a master elsewhere may take to tell the summary.
const masterAnswer = 5 * time.Second

func (c *control) status(ctx context.Context) Status {
	s := Status{State: c.state, Alive: true, HitRatio: -1}
	ctx, cancel := context.WithTimeout(ctx, masterAnswer)
	defer cancel()
	summary := &contract.Summary{}
	if err := ask(ctx, c.conn, stateMethod, summary); err != nil {
		s.Problem = err.Error()
	} else {
		s.Summary = summary
		all := given(summary)
		if all > 0 {
			s.HitRatio = float64(all-summary.Reads.SourceBytes) / float64(all)
		}
		s.ReadBytesPerSecond = c.rate.perSecond(all, time.Now())
	}
	if c.local {
		s.Tiers = c.tiers()
	}
	return s
}

// given counts the bytes that readers were given since the master started.
func given(s *contract.Summary) int64 {
	return s.Reads.LocalBytes + s.Reads.RemoteBytes + s.Reads.SourceBytes
}

// given asks the master for that counter.
func (c *control) given(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, masterAnswer)
	defer cancel()
	s := &contract.Summary{}
	if err := ask(ctx, c.conn, stateMethod, s); err != nil {
		return 0, err
	}
	return given(s), nil
}

// Metrics of a worker that tell of its tiers.
const (
	metricTierUsed     = "millrace_worker_tier_used_bytes"
	metricTierCapacity = "millrace_worker_tier_capacity_bytes"
)

// tiers reads the worker's accounts from its metrics.
func (c *control) tiers() []Tier {
	families, err := c.registry.Gather()
	if err != nil {
		return nil
	}
	var out []Tier
	index := map[[2]string]int{}
	for _, f := range families {
		if f.GetName() != metricTierUsed && f.GetName() != metricTierCapacity {
			continue
		}
		for _, m := range f.GetMetric() {
			var at [2]string
			for _, l := range m.GetLabel() {
				switch l.GetName() {
				case "medium":
					at[0] = l.GetValue()
				case "path":
					at[1] = l.GetValue()
				}
			}
			i, known := index[at]
			if !known {
				i = len(out)
				index[at] = i
				out = append(out, Tier{Medium: at[0], Path: at[1]})
			}
			if f.GetName() == metricTierUsed {
				out[i].UsedBytes = int64(m.GetGauge().GetValue())
			} else {
				out[i].CapacityBytes = int64(m.GetGauge().GetValue())
			}
		}
	}
	return out
}

// caller speaks to the daemon of a place.
func (p place) caller() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.control())
		},
	}}
}

// answerWait is how long a daemon may take to answer on its control socket.
const answerWait = masterAnswer + 5*time.Second

func (p place) call(ctx context.Context, method, path string, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, answerWait, errors.New("it does not answer"))
	defer cancel()
	response, err := p.send(ctx, method, path, nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if into == nil {
		return nil
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// send sends a request and gives a good answer, whose body the caller closes.
func (p place) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://millrace"+path, body)
	if err != nil {
		return nil, err
	}
	response, err := p.caller().Do(request)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("ask the daemon: %w", err)
	}
	if response.StatusCode/100 != 2 {
		response.Body.Close()
		return nil, fmt.Errorf("ask the daemon: %s", response.Status)
	}
	return response, nil
}
