// C ABI between Go and the C++ shim.
//
// Two directions: batches into DuckDB (table function arrow_batches, scan.cpp) and results out of it
// (stream.cpp). One rule holds everywhere: no C++ exception crosses a C or Go frame. C++ entry points
// catch everything and hand an error text back; Go callbacks (duckGo*) do Go work only, never call
// DuckDB, and recover from their own panics.
//
// Error texts (char **err) are malloc'ed by the side that fails and freed by the side that reads them.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The Arrow C data interface, as its specification gives it.
struct ArrowSchema {
	const char *format;
	const char *name;
	const char *metadata;
	int64_t flags;
	int64_t n_children;
	struct ArrowSchema **children;
	struct ArrowSchema *dictionary;
	void (*release)(struct ArrowSchema *);
	void *private_data;
};

struct ArrowArray {
	int64_t length;
	int64_t null_count;
	int64_t offset;
	int64_t n_buffers;
	int64_t n_children;
	const void **buffers;
	struct ArrowArray **children;
	struct ArrowArray *dictionary;
	void (*release)(struct ArrowArray *);
	void *private_data;
};

// duck_register adds the table function arrow_batches(name) to conn. helper is a second connection
// that only lends its context to Arrow conversion. sources is a Go handle. Returns 0 on success.
int duck_register(void *conn, void *helper, uintptr_t sources);

// Go callbacks. Handles are runtime/cgo handles.
// duckGoBind finds a source: an empty batch with its schema, its rows (-1 unknown), a handle to it.
extern uintptr_t duckGoBind(uintptr_t sources, char *name, struct ArrowArray *empty, struct ArrowSchema *schema, int64_t *rows, char **err);
// duckGoOpen starts a scan of some columns by at most *threads threads.
extern uintptr_t duckGoOpen(uintptr_t source, int64_t *columns, int64_t n, int64_t *threads, char **err);
// duckGoNext fetches a batch; safe for concurrent use. 1: a batch, 0: the end or an error.
extern int duckGoNext(uintptr_t scan, struct ArrowArray *out, char **err);
// duckGoFree ends a source's binding or a scan.
extern void duckGoFree(uintptr_t handle);

// A streaming result, re-batched.
typedef struct duck_stream duck_stream;

// duck_stream_open executes a prepared statement. It returns null and sets *err on failure.
duck_stream *duck_stream_open(void *statement, struct ArrowSchema *schema, char **err);
// duck_stream_next gives up to max_rows rows: their number, 0 at the end, -1 with *err.
int64_t duck_stream_next(duck_stream *stream, int64_t max_rows, struct ArrowArray *out, char **err);
// duck_stream_flat says whether duck_stream_next fills max_rows by itself. Nested types come as one
// DuckDB chunk (at most 2,048 rows) a call.
bool duck_stream_flat(duck_stream *stream);
void duck_stream_free(duck_stream *stream);
// duck_describe gives the result schema of a prepared statement without running it.
void duck_describe(void *conn, void *statement, struct ArrowSchema *schema, char **err);

#ifdef __cplusplus
}
#endif
