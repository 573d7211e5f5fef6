// The part of DuckDB's C API that scan.cpp and stream.cpp call, declared by us: the header itself is in
// a Go module, and cgo has no way to name another module's folder.
//
// capi_test.go compares every declaration with the header of the linked library, so a wrong line here,
// or an upgrade of DuckDB that changes one, fails the test. For its sake this file includes nothing
// and opens no extern "C": layout.hpp includes it inside one, the test inside a namespace. It needs
// <cstddef> and <cstdint> before it, and the Arrow structs of shim.h.
//
// Ownership: what a function creates, fetches, converts, or gives as a value, a logical type, options or
// error data is the caller's, who gives it to the destroy function of its type. A chunk owns its vectors,
// and DuckDB the info handles of a callback. Texts are as said at each function.
#pragma once

using idx_t = uint64_t;
using sel_t = uint32_t;

using duckdb_connection = struct _duckdb_connection *;
using duckdb_prepared_statement = struct _duckdb_prepared_statement *;
using duckdb_arrow_options = struct _duckdb_arrow_options *;
using duckdb_arrow_converted_schema = struct _duckdb_arrow_converted_schema *;
using duckdb_error_data = struct _duckdb_error_data *;
using duckdb_logical_type = struct _duckdb_logical_type *;
using duckdb_value = struct _duckdb_value *;
using duckdb_data_chunk = struct _duckdb_data_chunk *;
using duckdb_vector = struct _duckdb_vector *;
using duckdb_selection_vector = struct _duckdb_selection_vector *;
using duckdb_table_function = struct _duckdb_table_function *;
using duckdb_bind_info = struct _duckdb_bind_info *;
using duckdb_init_info = struct _duckdb_init_info *;
using duckdb_function_info = struct _duckdb_function_info *;

enum duckdb_state : uint32_t { DuckDBError = 1 }; // 0 is success

enum duckdb_type : uint32_t { // those that we treat by name
	DUCKDB_TYPE_BOOLEAN = 1,
	DUCKDB_TYPE_VARCHAR = 17,
	DUCKDB_TYPE_BLOB = 18,
	DUCKDB_TYPE_DECIMAL = 19,
	DUCKDB_TYPE_BIT = 29,
	DUCKDB_TYPE_SQLNULL = 36,
};

// A value of VARCHAR or BLOB in a vector: 16 bytes. Up to 12 bytes of text are inside; of longer text
// the first four are, with a pointer to all of it, which the vector does not own.
struct duckdb_string_t {
	union {
		struct {
			uint32_t length;
			char inlined[12];
		} inlined;
		struct {
			uint32_t length;
			char prefix[4];
			char *ptr;
		} pointer;
	} value;
};

// A result is passed by value, so its size is part of the ABI; nobody but DuckDB looks inside.
struct duckdb_result {
	uint64_t counts[3];
	void *pointers[3];
};

void duckdb_free(void *memory); // of the texts that are said below to be the caller's

// Prepared statements and results.
idx_t duckdb_prepared_statement_column_count(duckdb_prepared_statement);
const char *duckdb_prepared_statement_column_name(duckdb_prepared_statement, idx_t column); // the caller's
duckdb_logical_type duckdb_prepared_statement_column_logical_type(duckdb_prepared_statement, idx_t column);
duckdb_state duckdb_execute_prepared_streaming(duckdb_prepared_statement, duckdb_result *out); // out to be destroyed also on failure
idx_t duckdb_column_count(duckdb_result *);
const char *duckdb_column_name(duckdb_result *, idx_t column); // the result's
duckdb_logical_type duckdb_column_logical_type(duckdb_result *, idx_t column);
const char *duckdb_result_error(duckdb_result *); // the result's
duckdb_data_chunk duckdb_fetch_chunk(duckdb_result);
void duckdb_destroy_result(duckdb_result *);

// Arrow conversion.
duckdb_arrow_options duckdb_result_get_arrow_options(duckdb_result *);
void duckdb_connection_get_arrow_options(duckdb_connection, duckdb_arrow_options *out);
void duckdb_destroy_arrow_options(duckdb_arrow_options *);
duckdb_error_data duckdb_to_arrow_schema(duckdb_arrow_options, duckdb_logical_type *types, const char **names, idx_t columns, struct ArrowSchema *out);
duckdb_error_data duckdb_data_chunk_to_arrow(duckdb_arrow_options, duckdb_data_chunk, struct ArrowArray *out);
duckdb_error_data duckdb_schema_from_arrow(duckdb_connection, struct ArrowSchema *, duckdb_arrow_converted_schema *out);
duckdb_error_data duckdb_data_chunk_from_arrow(duckdb_connection, struct ArrowArray *, duckdb_arrow_converted_schema, duckdb_data_chunk *out);
void duckdb_destroy_arrow_converted_schema(duckdb_arrow_converted_schema *);
bool duckdb_error_data_has_error(duckdb_error_data);
const char *duckdb_error_data_message(duckdb_error_data); // the error data's
void duckdb_destroy_error_data(duckdb_error_data *);

// Types, values, chunks and vectors.
duckdb_logical_type duckdb_create_logical_type(duckdb_type);
duckdb_type duckdb_get_type_id(duckdb_logical_type);
void duckdb_destroy_logical_type(duckdb_logical_type *);
char *duckdb_get_varchar(duckdb_value); // the caller's
void duckdb_destroy_value(duckdb_value *);
idx_t duckdb_data_chunk_get_size(duckdb_data_chunk);
void duckdb_data_chunk_set_size(duckdb_data_chunk, idx_t rows);
duckdb_vector duckdb_data_chunk_get_vector(duckdb_data_chunk, idx_t column);
void duckdb_destroy_data_chunk(duckdb_data_chunk *);
duckdb_vector duckdb_create_vector(duckdb_logical_type, idx_t capacity);
duckdb_logical_type duckdb_vector_get_column_type(duckdb_vector);
void *duckdb_vector_get_data(duckdb_vector);
uint64_t *duckdb_vector_get_validity(duckdb_vector); // null: every row is valid
void duckdb_vector_ensure_validity_writable(duckdb_vector);
void duckdb_validity_set_row_invalid(uint64_t *validity, idx_t row);
void duckdb_vector_reference_vector(duckdb_vector to, duckdb_vector from); // shares from's memory, which then lives as long as both
void duckdb_vector_copy_sel(duckdb_vector from, duckdb_vector to, duckdb_selection_vector, idx_t rows, idx_t from_row, idx_t to_row);
void duckdb_slice_vector(duckdb_vector, duckdb_selection_vector, idx_t rows); // makes it a dictionary
void duckdb_destroy_vector(duckdb_vector *);
duckdb_selection_vector duckdb_create_selection_vector(idx_t rows);
sel_t *duckdb_selection_vector_get_data_ptr(duckdb_selection_vector);
void duckdb_destroy_selection_vector(duckdb_selection_vector);

// Table functions. DuckDB calls the deleter of extra info, bind data and init data when it is done with
// them, and copies the texts that it gets.
using duckdb_delete_callback_t = void (*)(void *);
duckdb_table_function duckdb_create_table_function();
void duckdb_table_function_set_name(duckdb_table_function, const char *name);
void duckdb_table_function_add_parameter(duckdb_table_function, duckdb_logical_type);
void duckdb_table_function_set_extra_info(duckdb_table_function, void *extra, duckdb_delete_callback_t);
void duckdb_table_function_set_bind(duckdb_table_function, void (*bind)(duckdb_bind_info));
void duckdb_table_function_set_init(duckdb_table_function, void (*init)(duckdb_init_info));
void duckdb_table_function_set_local_init(duckdb_table_function, void (*init)(duckdb_init_info)); // of each thread
void duckdb_table_function_set_function(duckdb_table_function, void (*fill)(duckdb_function_info, duckdb_data_chunk out));
void duckdb_table_function_supports_projection_pushdown(duckdb_table_function, bool);
duckdb_state duckdb_register_table_function(duckdb_connection, duckdb_table_function);
void duckdb_destroy_table_function(duckdb_table_function *);

void *duckdb_bind_get_extra_info(duckdb_bind_info);
duckdb_value duckdb_bind_get_parameter(duckdb_bind_info, idx_t index);
void duckdb_bind_add_result_column(duckdb_bind_info, const char *name, duckdb_logical_type);
void duckdb_bind_set_bind_data(duckdb_bind_info, void *data, duckdb_delete_callback_t);
void duckdb_bind_set_cardinality(duckdb_bind_info, idx_t rows, bool exact);
void duckdb_bind_set_error(duckdb_bind_info, const char *text);
void *duckdb_init_get_bind_data(duckdb_init_info);
idx_t duckdb_init_get_column_count(duckdb_init_info);
idx_t duckdb_init_get_column_index(duckdb_init_info, idx_t i); // in the bind's columns; past them for a virtual one
void duckdb_init_set_init_data(duckdb_init_info, void *data, duckdb_delete_callback_t);
void duckdb_init_set_max_threads(duckdb_init_info, idx_t threads);
void duckdb_init_set_error(duckdb_init_info, const char *text);
void *duckdb_function_get_extra_info(duckdb_function_info);
void *duckdb_function_get_init_data(duckdb_function_info);
void *duckdb_function_get_local_init_data(duckdb_function_info);
void duckdb_function_set_error(duckdb_function_info, const char *text);
