package duck

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// The declarations of capi.hpp in a namespace, next to those of the library's own header: handles are
// pointers to the same incomplete structs then, and the types that capi.hpp defines by itself are mapped.
const compareHead = `
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include "duckdb.h"
namespace ours {
#include "capi.hpp"
}

template <class T> struct real { using type = T; };
template <> struct real<ours::duckdb_state> { using type = duckdb_state; };
template <> struct real<ours::duckdb_type> { using type = duckdb_type; };
template <> struct real<ours::duckdb_result> { using type = duckdb_result; };
template <class T> struct real<T *> { using type = typename real<T>::type *; };
template <class R, class... A> struct real<R(A...)> { using type = typename real<R>::type(typename real<A>::type...); };

template <class Ours, class Real> constexpr bool same_enum = std::is_same_v<std::underlying_type_t<Ours>, std::underlying_type_t<Real>>;
static_assert(same_enum<ours::duckdb_state, duckdb_state>);
static_assert(same_enum<ours::duckdb_type, duckdb_type>);

template <class Ours, class Real> constexpr bool same_size = sizeof(Ours) == sizeof(Real) && alignof(Ours) == alignof(Real);
static_assert(same_size<ours::duckdb_result, duckdb_result>);
static_assert(std::is_trivially_copyable_v<duckdb_result> && std::is_standard_layout_v<duckdb_result>);
static_assert(same_size<ours::duckdb_string_t, duckdb_string_t>);

#define SAME_TYPE(name) static_assert(std::is_same_v<ours::name, name>)
#define SAME_FUNCTION(name) static_assert(std::is_same_v<real<decltype(ours::name)>::type, decltype(name)>)
#define SAME_VALUE(name) static_assert(int(ours::name) == int(name))
#define SAME_FIELD(type, field) \
	static_assert(offsetof(ours::type, field) == offsetof(type, field)); \
	static_assert(std::is_same_v<decltype(ours::type::field), decltype(type::field)>)
`

// stringFields are the fields of duckdb_string_t that are read or written.
var stringFields = []string{"inlined.length", "inlined.inlined", "pointer.length", "pointer.prefix", "pointer.ptr"}

// TestCAPI holds our declarations of DuckDB's C API to the header of the linked library: a shim
// compiled against another one would call functions and read structs wrongly.
func TestCAPI(t *testing.T) {
	t.Parallel()
	capi, err := os.ReadFile("capi.hpp")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := compare(t, capi); err != nil {
		t.Errorf("capi.hpp differs from the linked library's header:\n%s", out)
	}
}

// TestCAPIDiffers plants one difference of each kind, which the comparison must find.
func TestCAPIDiffers(t *testing.T) {
	t.Parallel()
	capi, err := os.ReadFile("capi.hpp")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, from, to string }{
		{"parameter type", "duckdb_init_get_column_index(duckdb_init_info, idx_t i)", "duckdb_init_get_column_index(duckdb_init_info, sel_t i)"},
		{"parameter count", "duckdb_bind_set_cardinality(duckdb_bind_info, idx_t rows, bool exact)", "duckdb_bind_set_cardinality(duckdb_bind_info, idx_t rows)"},
		{"handle", "duckdb_data_chunk_get_size(duckdb_data_chunk)", "duckdb_data_chunk_get_size(duckdb_vector)"},
		{"callback", "void (*bind)(duckdb_bind_info)", "void (*bind)(duckdb_init_info)"},
		{"return type", "idx_t duckdb_column_count", "sel_t duckdb_column_count"},
		{"function that is gone", "duckdb_fetch_chunk(", "duckdb_fetch_chunks("},
		{"alias", "using sel_t = uint32_t", "using sel_t = uint64_t"},
		{"value of a type", "DUCKDB_TYPE_BIT = 29", "DUCKDB_TYPE_BIT = 30"},
		{"value of a state", "DuckDBError = 1", "DuckDBError = 2"},
		{"size of a result", "counts[3]", "counts[2]"},
		{"layout of a string", "char prefix[4];\n\t\t\tchar *ptr;", "char *ptr;\n\t\t\tchar prefix[4];"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			changed := bytes.Replace(capi, []byte(c.from), []byte(c.to), 1)
			if bytes.Equal(changed, capi) {
				t.Fatalf("capi.hpp has no %q", c.from)
			}
			if _, err := compare(t, changed); err == nil {
				t.Errorf("%q instead of %q was not noticed", c.to, c.from)
			}
		})
	}
}

var (
	declared  = regexp.MustCompile(`(?m)^[^/\n]*?\b(duckdb_\w+)\(`)
	constants = regexp.MustCompile(`\b((?:DUCKDB_TYPE_|DuckDB)[A-Z]\w*) = `)
	aliases   = regexp.MustCompile(`(?m)^using (\w+) =`)
)

// compare compiles capi.hpp's declarations, each next to the library's, and gives the compiler's words.
func compare(t *testing.T, capi []byte) (string, error) {
	t.Helper()
	var code strings.Builder
	code.WriteString(compareHead)
	for macro, names := range map[string]*regexp.Regexp{"SAME_FUNCTION": declared, "SAME_VALUE": constants, "SAME_TYPE": aliases} {
		found := names.FindAllSubmatch(capi, -1)
		if len(found) == 0 {
			t.Fatalf("no %s in capi.hpp", macro)
		}
		for _, name := range found {
			fmt.Fprintf(&code, "%s(%s);\n", macro, name[1])
		}
	}
	for _, field := range stringFields {
		fmt.Fprintf(&code, "SAME_FIELD(duckdb_string_t, value.%s);\n", field)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"capi.hpp": capi, "compare.cpp": []byte(code.String())} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	library := "github.com/duckdb/duckdb-go-bindings/lib/" + runtime.GOOS + "-" + runtime.GOARCH
	header := goSays(t, "list", "-m", "-f", "{{.Dir}}", library)
	compiler := strings.Fields(goSays(t, "env", "CXX"))
	args := append(compiler[1:], "-std=c++17", "-fsyntax-only", "-I", header, filepath.Join(dir, "compare.cpp"))
	out, err := exec.CommandContext(t.Context(), compiler[0], args...).CombinedOutput()
	return string(out), err
}

func goSays(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
