package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
)

// bucket queries a table in a bucket of a local S3 server, and counts what is fetched. Its objects are files of this host,
// so DuckDB reads the very same ones.
func bucket(ctx context.Context, b *bench) error {
	s3, err := startS3(ctx, b)
	if err != nil {
		return err
	}
	defer s3.close()
	dir, err := b.project("bucket", map[string]string{})
	if err != nil {
		return err
	}
	rows := b.size(20_000_000, 2_000_000)
	create := fmt.Sprintf("create table t as select range as id, range %% 300 as origin, range * 7 %% 1000 / 10 as delay, "+
		"'name ' || hash(range) as name, date '2020-01-01' + (range // 20000)::int as day from range(%d)", rows)
	if _, err := b.tarn(ctx, dir, "query", create); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(s3.data, "*", "projects", "*", "tables", "*", "data", "*.parquet"))
	if err != nil {
		return err
	}
	var size int64
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		size += info.Size()
	}
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer db.Close() //nolint:errcheck // in memory
	if _, err := db.ExecContext(ctx, "create view t as from read_parquet(['"+strings.Join(files, "', '")+"'])"); err != nil {
		return err
	}
	if _, err := b.tarn(ctx, dir, "server", "stop"); err != nil { // what it had in memory counts for the import
		return err
	}
	memory, stop := watch(b.bin)
	defer stop()
	fmt.Printf("  the table: %d rows, %s MB in %d objects\n", rows, number(megabytes(size)), len(files))
	whole, err := s3.fetchAll(ctx, files)
	if err != nil {
		return err
	}
	for _, q := range []struct {
		what, sql string
		share     float64 // budget: of the table's bytes, in %
	}{
		{"two columns and a filter", fmt.Sprintf("select origin, avg(delay) from t where id between %d and %d group by all", rows/2, rows/2+1000), 5},
		{"two columns of all rows", "select origin, avg(delay) from t group by all", 40},
		{"every column of all rows", "select max(columns(*)) from t", 101},
	} {
		cold, fetched, err := s3.cold(ctx, b, dir, q.sql)
		if err != nil {
			return err
		}
		row{q.what + ", fetched", 100 * float64(fetched.bytes) / float64(size), "%", atMost(q.share), "", 0}.print()
		fmt.Printf("    %d requests, %s MB\n", fetched.requests, number(megabytes(fetched.bytes)))
		row{q.what + ", cold", milliseconds(cold), "ms", nil, fmt.Sprintf("all bytes by plain requests (%s ms)", number(milliseconds(whole))), float64(cold) / float64(whole)}.print()
		s3.take()
		warm, err := best(3, func() error { _, err := b.tarn(ctx, dir, "query", q.sql); return err })
		if err != nil {
			return err
		}
		theirs, err := best(3, func() error { return drain(ctx, db, q.sql) })
		if err != nil {
			return err
		}
		row{q.what + ", warm", milliseconds(warm), "ms", nil, fmt.Sprintf("DuckDB in process on the files (%s ms)", number(milliseconds(theirs))), float64(warm) / float64(theirs)}.print()
		row{q.what + ", requests when warm", float64(s3.take().requests), "", atMost(0), "", 0}.print()
	}
	for _, role := range []string{"server", "engine"} {
		row{"the most memory of the " + role, memory(role), "MB", atMost(memoryBudget), "", 0}.print()
	}
	return nil
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }

// traffic is what came from the S3 server.
type traffic struct{ requests, bytes int64 }

// What the S3 server accepts.
const key, secret, region = "bench", "bench-secret", "us-east-1"

// s3 is an S3 server over a folder, behind a proxy that counts.
type s3 struct {
	data            string
	cmd             *exec.Cmd
	proxy           *httptest.Server
	requests, bytes atomic.Int64
}

// startS3 starts versitygw, and has the binary use a bucket of it.
func startS3(ctx context.Context, b *bench) (*s3, error) {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		program = filepath.Join(".cache", "gobin", "versitygw")
	}
	s := &s3{data: filepath.Join(b.dir, "s3")}
	side, socket := filepath.Join(b.dir, "side"), filepath.Join(b.dir, "s3.sock")
	if err := errors.Join(os.MkdirAll(filepath.Join(s.data, "bucket"), 0o755), os.Mkdir(side, 0o755)); err != nil {
		return nil, err
	}
	s.cmd = exec.CommandContext(ctx, program, "--port", socket, "--region", region, "posix", "--sidecar", side, s.data)
	s.cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+key, "ROOT_SECRET_KEY="+secret)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: tools/setup dev installs versitygw", err)
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	for { // until it listens
		c, err := dial(ctx, "", "")
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	through := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "s3"})
	through.Transport = &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}
	through.ModifyResponse = func(r *http.Response) error {
		s.requests.Add(1)
		r.Body = &counted{r.Body, &s.bytes}
		return nil
	}
	s.proxy = httptest.NewServer(through)
	b.vars = append(b.vars, "TARN_BLOB=s3://bucket?endpoint="+s.proxy.URL, "AWS_ACCESS_KEY_ID="+key, "AWS_SECRET_ACCESS_KEY="+secret,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true")
	return s, nil
}

func (s *s3) close() {
	s.proxy.Close()
	_ = s.cmd.Process.Kill() // it has ended by itself
	_ = s.cmd.Wait()
}

// take returns what came since the last time.
func (s *s3) take() traffic { return traffic{s.requests.Swap(0), s.bytes.Swap(0)} }

// cold is the time of a query by a server that has just started and has no copies.
func (s *s3) cold(ctx context.Context, b *bench, dir, text string) (time.Duration, traffic, error) {
	if _, err := b.tarn(ctx, dir, "server", "stop"); err != nil {
		return 0, traffic{}, err
	}
	if err := os.RemoveAll(filepath.Join(b.dir, "home", "blobcache")); err != nil {
		return 0, traffic{}, err
	}
	if _, err := b.tarn(ctx, dir, "query", "select 1"); err != nil {
		return 0, traffic{}, err
	}
	s.take()
	took, err := best(1, func() error { _, err := b.tarn(ctx, dir, "query", text); return err })
	return took, s.take(), err
}

// fetchAll is how long it takes to get objects by plain requests, one after the other.
func (s *s3) fetchAll(ctx context.Context, files []string) (time.Duration, error) {
	client := awss3.New(awss3.Options{
		BaseEndpoint: &s.proxy.URL, Region: region, UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: key, SecretAccessKey: secret}, nil
		}),
	})
	return best(3, func() error {
		for _, file := range files {
			object, err := filepath.Rel(filepath.Join(s.data, "bucket"), file)
			if err != nil {
				return err
			}
			out, err := client.GetObject(ctx, &awss3.GetObjectInput{Bucket: aws.String("bucket"), Key: &object})
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, out.Body)
			if err := errors.Join(err, out.Body.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}

// watch looks at the memory of all processes of the binary, until stop. most is that of the largest one in a role, in MB.
func watch(program string) (most func(role string) float64, stop func()) {
	var mu sync.Mutex
	peaks := map[string]float64{}
	look := func() {
		links, _ := filepath.Glob("/proc/[0-9]*/exe") // the pattern is right
		for _, link := range links {
			if exe, err := os.Readlink(link); err != nil || exe != program {
				continue
			}
			dir := filepath.Dir(link)
			arguments, _ := os.ReadFile(filepath.Join(dir, "cmdline")) // of one that has ended there are none
			pid, _ := strconv.Atoi(filepath.Base(dir))
			mb, err := memoryOf(pid, "status", "VmHWM")
			if words := strings.Split(string(arguments), "\x00"); err == nil && len(words) > 1 {
				mu.Lock()
				peaks[words[1]] = max(peaks[words[1]], mb)
				mu.Unlock()
			}
		}
	}
	end := make(chan struct{})
	go func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
				look()
			}
		}
	}()
	return func(role string) float64 {
		mu.Lock()
		defer mu.Unlock()
		return peaks[role]
	}, func() { close(end) }
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
