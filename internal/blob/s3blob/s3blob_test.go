package s3blob_test

import (
	"os"
	"strings"
	"testing"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/blobtest"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/blob/s3blob/s3test"
)

// TestMain gives this process the credentials of the server in the usual variables.
func TestMain(m *testing.M) {
	for _, v := range s3test.Env() {
		name, value, _ := strings.Cut(v, "=")
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
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
