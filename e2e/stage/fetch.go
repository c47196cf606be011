package stage

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// Fetch gets a page, trying for a minute until it is there.
func Fetch(ctx context.Context, url string) (string, error) {
	client := &http.Client{Timeout: 2 * time.Second}
	return backoff.Retry(ctx, func() (string, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return "", backoff.Permanent(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("get %s: %s", url, resp.Status)
		}
		page, err := io.ReadAll(resp.Body)
		return string(page), err
	}, backoff.WithMaxElapsedTime(time.Minute))
}
