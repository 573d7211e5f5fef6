package stall

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A server that takes a request and falls silent is given up; one that is slow, but goes on, is not.
func TestStallingConnection(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	silent := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/silent" {
			<-silent
			return
		}
		for range 5 { // longer than limit, all in all
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			<-time.After(limit / 3)
		}
	}))
	defer server.Close()
	defer close(silent)
	client := &http.Client{Transport: Transport(limit)}
	if answer, err := client.Get(server.URL + "/silent"); err == nil {
		t.Errorf("silent: %s", answer.Status)
	} else if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("silent: %v", err)
	}
	answer, err := client.Get(server.URL + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || string(text) != strings.Repeat("x", 5) {
		t.Errorf("slow: %q, %v", text, err)
	}
}
