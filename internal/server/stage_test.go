package server_test

import (
	"fmt"
	"strings"
	"testing"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/client"
)

// putMany puts tiny files, 500 to a message.
func putMany(t *testing.T, c *client.Client, request string, names []string) (*tarnv1.PutResponse, error) {
	t.Helper()
	s, err := c.Files.Put(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = s.Send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Write{Write: into("main", request)}})
	for len(names) > 0 && err == nil {
		m := &tarnv1.WholeFiles{}
		for _, name := range names[:min(len(names), 500)] {
			m.Files = append(m.Files, &tarnv1.WholeFile{Path: name, Content: []byte(name)})
		}
		names = names[len(m.GetFiles()):]
		err = s.Send(&tarnv1.PutRequest{Event: &tarnv1.PutRequest_Files{Files: m}})
	}
	resp, err := s.CloseAndReceive() // with the reason, if sending failed
	return resp, client.Error(err)
}

// More files than a put holds in memory are one commit all the same, and what is wrong with one of them stops all.
func TestPutOfMoreThanFitsInMemory(t *testing.T) {
	t.Parallel()
	p := serve(t, 0)
	c := p.open()
	var names []string
	for i := range 34_000 {
		names = append(names, fmt.Sprintf("many/%02d/%05d", i%100, i))
	}
	resp, err := putMany(t, c, "many", names)
	if err != nil || resp.GetFiles() != 34_000 || !resp.GetWritten().GetChanged() {
		t.Fatalf("%v, %v", resp, err)
	}
	commits := p.commits(c, "main")
	for what, more := range map[string]string{
		"many/07/00007":   "comes twice",
		"many/07/00007/x": "many/07/00007 is a file, not a folder",
		"many/07":         "many/07 is a folder",
		"many/../up":      "is not allowed as a component",
	} {
		if _, err := putMany(t, c, what, append(names[:len(names):len(names)], what)); errdef.CodeOf(err) != errdef.InvalidArgument || !strings.Contains(err.Error(), more) {
			t.Errorf("with %s: %v", what, err)
		}
	}
	if n := p.commits(c, "main"); n != commits {
		t.Errorf("%d commits, %d before", n, commits)
	}
	found := 0
	stream, err := c.Files.Select(t.Context(), &tarnv1.SelectRequest{Project: "p", Ref: "main", Pattern: "many/"})
	if err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		found += len(stream.Msg().GetFiles())
	}
	if err := stream.Err(); err != nil || found != 34_000 {
		t.Errorf("%d files, %v", found, err)
	}
	gone, err := c.Files.Remove(t.Context(), &tarnv1.RemoveRequest{Write: into("main", "remove"), Patterns: []string{"many/", "many/07/"}})
	if err != nil || gone.GetFiles() != 34_000 {
		t.Errorf("removed: %v, %v", gone, err)
	}
}
