package s3blob_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/blobtest"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

// putRole makes this program put a large blob, in a process that a test can kill.
const putRole = "test-put"

// TestMain gives this process the credentials of the server in the usual variables.
func TestMain(m *testing.M) {
	for _, v := range s3test.Env() {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	if len(os.Args) > 2 && os.Args[1] == putRole {
		l, err := s3blob.Parse(os.Args[2])
		if err == nil {
			var s *s3blob.Store
			if s, err = s3blob.Open(context.Background(), l); err == nil {
				err = s.Put(context.Background(), "a", bytes.NewReader(make([]byte, large)))
			}
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	t.Parallel()
	server := s3test.Start(t)
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, server, server.Bucket(t)) })
}

func open(t testing.TB, server *s3test.Server, path string) *s3blob.Store {
	t.Helper()
	l, err := s3blob.Parse("s3://" + path + "?endpoint=" + server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s, err := s3blob.Open(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}
