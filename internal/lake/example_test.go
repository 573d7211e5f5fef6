package lake_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"tarn.dev/tarn/internal/blob/memblob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta/sqlitemeta"
)

// A file is put on a branch and merged into main.
func ExampleLake_Update() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "")
	check(err)
	defer func() { check(os.RemoveAll(dir)) }()
	rows, err := sqlitemeta.Open(filepath.Join(dir, "meta.db"))
	check(err)
	defer func() { check(rows.Close()) }()
	l, err := lake.Open(ctx, memblob.New(), rows, "p/demo/lake", lake.Options{})
	check(err)
	defer func() { check(l.Close()) }()

	main, err := l.Resolve(ctx, "main")
	check(err)
	_, err = l.CreateBranch(ctx, "dev", main.ID, "")
	check(err)
	dev, err := l.Update(ctx, "dev", lake.CommitInfo{Author: "ann", Message: "greet"}, func(ctx context.Context, tx *lake.Tx) error {
		ref, err := tx.Batch().PutFile(ctx, strings.NewReader("hello"))
		tx.Put(lake.FileKey("notes/hello.txt"), lake.FileEntry(ref))
		return err
	})
	check(err)
	result, merged, err := l.Merge(ctx, dev.ID, "main", lake.CommitInfo{}, lake.MergeOptions{}, nil, false)
	check(err)
	for _, c := range result.Changes {
		fmt.Println(lake.DisplayKey(c.Key), c.After.Location.Size)
	}
	fmt.Println(merged.Message, result.FastForward)
	// Output:
	// notes/hello.txt 5
	// greet true
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
