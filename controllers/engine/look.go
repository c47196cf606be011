package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/millrace/millrace/apis/contract"
)

// Look is a look at the sources that somebody asked for.
type Look struct {
	// Token is what it was asked by; "" is none.
	Token string
	// Began is when the master was asked, Ended when it answered; zero while it looks.
	Began, Ended time.Time
	// Snapshot is the state that was found; Err why none could be.
	Snapshot string
	Err      error
}

// errNoAnswer: the master did not answer, so that it may be asked again.
var errNoAnswer = errors.New("the master gave no answer")

// LookAgain has the master look at its sources, once for a token, and wakes the
// listeners when it has. It does not wait: a large source takes its time.
func (o *Observer) LookAgain(key types.NamespacedName, token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.watches[key]
	if w == nil || !w.state.Connected || w.state.Look.Token == token || o.ctx.Err() != nil {
		return
	}
	began := time.Now()
	w.state.Look = Look{Token: token, Began: began}
	o.wg.Go(func() {
		snapshot, err := o.revalidate(w.ctx, w.address)
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.watches[key] != w || w.state.Look.Token != token {
			return
		}
		w.state.Look = Look{Token: token, Began: began, Ended: time.Now(), Snapshot: snapshot, Err: err}
		if errors.Is(err, errNoAnswer) {
			w.state.Look = Look{}
			o.log.V(1).Info("a look at the sources is asked for again", "runtime", key, "cause", err.Error())
		}
		o.wake(key)
	})
}

// revalidate returns when the master has looked. What the master says of its
// sources is the error; errNoAnswer stands for all else.
func (o *Observer) revalidate(ctx context.Context, address string) (snapshot string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+contract.PathRevalidate, nil)
	if err != nil {
		return "", fmt.Errorf("look at the sources: %w", err)
	}
	resp, err := o.http.Do(req)
	if err != nil {
		return "", errors.Join(errNoAnswer, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		said, err := io.ReadAll(io.LimitReader(resp.Body, maxTrouble))
		if err != nil || ctx.Err() != nil {
			return "", errors.Join(errNoAnswer, err, ctx.Err())
		}
		return "", errors.New(strings.TrimSpace(string(said)))
	}
	reply := contract.RevalidateReply{}
	if err := json.NewDecoder(resp.Body).Decode(&reply); err != nil {
		return "", errors.Join(errNoAnswer, err)
	}
	return reply.Snapshot, nil
}
