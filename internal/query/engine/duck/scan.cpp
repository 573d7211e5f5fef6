// arrow_batches(name): a DuckDB table function over Arrow batches that Go hands out.
//
// Per vector of 2,048 rows, copying fixed-width values measured faster than DuckDB's "zero-copy"
// converter. Long strings are not copied: DuckDB's string_t points into the Arrow buffer, so a batch
// stays alive until the one after it has been left. Everything else goes through the converter.
#include <vector>

#include "layout.hpp"

using namespace duck;

namespace {

struct Sources { // extra info of the function, lives as long as the database
	duckdb_connection helper;
	uintptr_t handle;
};

void release_nothing(ArrowArray *array) { array->release = nullptr; }
void release_nothing(ArrowSchema *schema) { schema->release = nullptr; }

void drop(ArrowArray &array) {
	if (array.release) array.release(&array);
	memset(&array, 0, sizeof array);
}

struct Column {
	Shape shape;
	duckdb_logical_type type = nullptr;
	duckdb_arrow_converted_schema converter = nullptr; // of the column; of the values for Dictionary
};

// Chunk owns a converted chunk of one column.
struct Chunk {
	duckdb_data_chunk chunk = nullptr;
	~Chunk() { if (chunk) duckdb_destroy_data_chunk(&chunk); }
	duckdb_vector vector() const { return duckdb_data_chunk_get_vector(chunk, 0); }
};

duckdb_arrow_converted_schema converter_for(duckdb_connection conn, ArrowSchema *column) {
	ArrowSchema table{};
	table.format = "+s";
	table.name = "";
	table.n_children = 1;
	table.children = &column;
	void (*release)(ArrowSchema *) = release_nothing;
	table.release = release;
	duckdb_arrow_converted_schema converter = nullptr;
	check(duckdb_schema_from_arrow(conn, &table, &converter));
	return converter;
}

// convert runs DuckDB's converter on rows [start, start+rows) of one column. The memory of source must
// outlive the use of the result.
void convert(duckdb_connection conn, duckdb_arrow_converted_schema converter, const ArrowArray *source, int64_t start, int64_t rows, Chunk &out) {
	void (*release)(ArrowArray *) = release_nothing;
	ArrowArray column = *source;
	column.offset += start;
	column.length = rows;
	column.release = release;
	column.private_data = nullptr;
	// DuckDB ignores the nulls of a dictionary column whose null_count is -1 (unknown), so any
	// count that is not known to be 0 becomes a positive one.
	if (column.null_count != 0) column.null_count = rows + 1;
	ArrowArray *children[1] = {&column};
	const void *no_validity[1] = {nullptr};
	ArrowArray table{};
	table.length = rows;
	table.n_buffers = 1;
	table.buffers = no_validity;
	table.n_children = 1;
	table.children = children;
	table.release = release;
	check(duckdb_data_chunk_from_arrow(conn, &table, converter, &out.chunk));
}

bool has_nested_dictionary(const ArrowSchema *schema) {
	for (int64_t i = 0; i < schema->n_children; i++)
		if (schema->children[i]->dictionary || has_nested_dictionary(schema->children[i])) return true;
	return false;
}

struct Binding {
	uintptr_t source = 0;
	std::vector<Column> columns;
	~Binding() {
		for (auto &column : columns) {
			if (column.type) duckdb_destroy_logical_type(&column.type);
			if (column.converter) duckdb_destroy_arrow_converted_schema(&column.converter);
		}
		if (source) duckGoFree(source);
	}
};

constexpr int kVirtual = -1; // count(*) asks for a column that is not in the batch

struct Scan {
	uintptr_t handle = 0;
	std::vector<int> child; // of the exported batch, per output column; or kVirtual
	std::vector<Column> columns;
	~Scan() { if (handle) duckGoFree(handle); }
};

// Values of a dictionary as a DuckDB vector, with one NULL appended for the null indices to point at.
// Kept while batches share the dictionary.
struct Dictionary {
	const void *buffers[3] = {};
	int64_t length = -1, offset = 0;
	duckdb_vector values = nullptr;
};

struct Thread {
	ArrowArray batch{}, previous{};
	int64_t position = 0;
	std::vector<Dictionary> dictionaries;
	~Thread() {
		drop(batch);
		drop(previous);
		for (auto &dictionary : dictionaries)
			if (dictionary.values) duckdb_destroy_vector(&dictionary.values);
	}
};

template <class T> void destroy(void *p) { delete static_cast<T *>(p); }

void copy_validity(duckdb_vector vector, const ArrowArray *array, int64_t start, idx_t rows) {
	auto bits = static_cast<const uint8_t *>(array->buffers[0]);
	if (!bits || array->null_count == 0) return;
	duckdb_vector_ensure_validity_writable(vector);
	auto out = reinterpret_cast<uint8_t *>(duckdb_vector_get_validity(vector));
	int64_t first = array->offset + start;
	bits += first / 8;
	int shift = first % 8;
	idx_t bytes = (rows + 7) / 8;
	if (!shift) {
		memcpy(out, bits, bytes);
		return;
	}
	idx_t source_bytes = (shift + rows + 7) / 8; // never read past them
	for (idx_t i = 0; i < bytes; i++)
		out[i] = bits[i] >> shift | (i + 1 < source_bytes ? bits[i + 1] << (8 - shift) : 0);
}

template <class Offset> void point_strings(duckdb_vector vector, const ArrowArray *array, int64_t start, idx_t rows) {
	auto offsets = static_cast<const Offset *>(array->buffers[1]) + array->offset + start;
	auto bytes = static_cast<const char *>(array->buffers[2]);
	auto out = static_cast<duckdb_string_t *>(duckdb_vector_get_data(vector));
	for (idx_t i = 0; i < rows; i++) {
		auto length = offsets[i + 1] - offsets[i];
		if (length < 0 || static_cast<int64_t>(length) > UINT32_MAX) throw std::runtime_error("a string of 4 GiB or more");
		auto &value = out[i].value;
		value.inlined.length = static_cast<uint32_t>(length);
		if (length <= 12) {
			memset(value.inlined.inlined, 0, 12);
			if (length) memcpy(value.inlined.inlined, bytes + offsets[i], length);
		} else {
			memcpy(value.pointer.prefix, bytes + offsets[i], 4);
			value.pointer.ptr = const_cast<char *>(bytes + offsets[i]);
		}
	}
}

template <class T> void narrow_decimals(duckdb_vector vector, const ArrowArray *array, int64_t start, idx_t rows) {
	auto in = static_cast<const int64_t *>(array->buffers[1]) + 2 * (array->offset + start); // low word first
	auto out = static_cast<T *>(duckdb_vector_get_data(vector));
	for (idx_t i = 0; i < rows; i++) out[i] = static_cast<T>(in[2 * i]);
}

template <class T> void select_indices(sel_t *out, const ArrowArray *array, int64_t start, idx_t rows, sel_t null_at) {
	auto in = static_cast<const T *>(array->buffers[1]) + array->offset + start;
	auto bits = array->null_count ? array->buffers[0] : nullptr;
	for (idx_t i = 0; i < rows; i++)
		out[i] = bits && !bit(bits, array->offset + start + i) ? null_at : static_cast<sel_t>(in[i]);
}

void load_dictionary(duckdb_connection conn, Dictionary &dictionary, const Column &column, const ArrowArray *values) {
	const void *buffers[3] = {};
	for (int i = 0; i < values->n_buffers && i < 3; i++) buffers[i] = values->buffers[i];
	if (dictionary.values && dictionary.length == values->length && dictionary.offset == values->offset &&
	    values->n_children == 0 && !memcmp(buffers, dictionary.buffers, sizeof buffers))
		return;
	if (dictionary.values) duckdb_destroy_vector(&dictionary.values);
	idx_t rows = values->length;
	Chunk chunk;
	convert(conn, column.converter, values, 0, rows, chunk);
	dictionary.values = duckdb_create_vector(column.type, rows + 1);
	if (rows) {
		auto selection = duckdb_create_selection_vector(rows);
		auto indices = duckdb_selection_vector_get_data_ptr(selection);
		for (idx_t i = 0; i < rows; i++) indices[i] = i;
		duckdb_vector_copy_sel(chunk.vector(), dictionary.values, selection, rows, 0, 0);
		duckdb_destroy_selection_vector(selection);
	}
	duckdb_vector_ensure_validity_writable(dictionary.values);
	duckdb_validity_set_row_invalid(duckdb_vector_get_validity(dictionary.values), rows);
	memcpy(dictionary.buffers, buffers, sizeof buffers);
	dictionary.length = values->length;
	dictionary.offset = values->offset;
}

void fill_dictionary(duckdb_vector vector, const Column &column, const Dictionary &dictionary, const ArrowArray *array, int64_t start, idx_t rows) {
	auto selection = duckdb_create_selection_vector(rows);
	auto out = duckdb_selection_vector_get_data_ptr(selection);
	auto null_at = static_cast<sel_t>(dictionary.length);
	switch (column.shape.index) {
	case 'c': case 'C': select_indices<uint8_t>(out, array, start, rows, null_at); break;
	case 's': case 'S': select_indices<uint16_t>(out, array, start, rows, null_at); break;
	case 'i': case 'I': select_indices<uint32_t>(out, array, start, rows, null_at); break;
	default: select_indices<uint64_t>(out, array, start, rows, null_at);
	}
	bool inside = true;
	for (idx_t i = 0; i < rows; i++) inside &= out[i] <= null_at;
	if (inside) {
		duckdb_vector_reference_vector(vector, dictionary.values);
		duckdb_slice_vector(vector, selection, rows);
	}
	duckdb_destroy_selection_vector(selection);
	if (!inside) throw std::runtime_error("a dictionary index is out of range");
}

void fill_column(duckdb_connection conn, duckdb_vector vector, const Column &column, Thread *thread, size_t i, const ArrowArray *array, idx_t rows) {
	int64_t start = thread->position;
	auto values = array->n_buffers > 1 ? static_cast<const char *>(array->buffers[1]) : nullptr;
	int width = column.shape.width;
	switch (column.shape.layout) {
	case Layout::Fixed:
		memcpy(duckdb_vector_get_data(vector), values + (array->offset + start) * width, rows * width);
		break;
	case Layout::Bool: {
		auto out = static_cast<uint8_t *>(duckdb_vector_get_data(vector));
		for (idx_t r = 0; r < rows; r++) out[r] = bit(values, array->offset + start + r);
		break;
	}
	case Layout::String: point_strings<int32_t>(vector, array, start, rows); break;
	case Layout::LargeString: point_strings<int64_t>(vector, array, start, rows); break;
	case Layout::Decimal:
		switch (width) {
		case 2: narrow_decimals<int16_t>(vector, array, start, rows); break;
		case 4: narrow_decimals<int32_t>(vector, array, start, rows); break;
		case 8: narrow_decimals<int64_t>(vector, array, start, rows); break;
		default: memcpy(duckdb_vector_get_data(vector), values + (array->offset + start) * 16, rows * 16);
		}
		break;
	case Layout::Dictionary:
		fill_dictionary(vector, column, thread->dictionaries[i], array, start, rows);
		return;
	case Layout::Converter: {
		Chunk chunk;
		convert(conn, column.converter, array, start, rows, chunk);
		duckdb_vector_reference_vector(vector, chunk.vector());
		return;
	}
	}
	copy_validity(vector, array, start, rows);
}

// The edge of every callback: no exception leaves it.
#define REPORT_TO(set_error)                                                                       \
	catch (std::exception & e) { set_error(info, e.what()); }                                       \
	catch (...) { set_error(info, "arrow_batches: unknown C++ exception"); }

void bind_column(duckdb_connection conn, Column &column, ArrowSchema *schema, const ArrowArray *empty) {
	if (has_nested_dictionary(schema)) // DuckDB's converter fails with an internal error
		throw std::runtime_error("dictionaries inside nested types are not supported");
	column.shape = shape_of(schema);
	if (schema->dictionary) { // also with metadata: the converter below is that of the values
		column.shape.layout = Layout::Dictionary;
		column.shape.index = schema->format[0];
		schema = schema->dictionary;
		empty = empty->dictionary;
	}
	column.converter = converter_for(conn, schema);
	Chunk chunk; // converting zero rows is the only way the C API offers to learn the type
	convert(conn, column.converter, empty, 0, 0, chunk);
	column.type = duckdb_vector_get_column_type(chunk.vector());
}

void bind(duckdb_bind_info info) {
	try {
		auto sources = static_cast<Sources *>(duckdb_bind_get_extra_info(info));
		duckdb_value parameter = duckdb_bind_get_parameter(info, 0);
		char *name = duckdb_get_varchar(parameter);
		duckdb_destroy_value(&parameter);
		struct Export {
			ArrowArray empty{};
			ArrowSchema schema{};
			~Export() {
				drop(empty);
				if (schema.release) schema.release(&schema);
			}
		} exported;
		auto binding = new Binding;
		duckdb_bind_set_bind_data(info, binding, destroy<Binding>);
		char *err = nullptr;
		int64_t rows = -1;
		binding->source = duckGoBind(sources->handle, name, &exported.empty, &exported.schema, &rows, &err);
		duckdb_free(name);
		check(err);
		for (int64_t i = 0; i < exported.schema.n_children; i++) {
			binding->columns.emplace_back();
			ArrowSchema *schema = exported.schema.children[i];
			try {
				bind_column(sources->helper, binding->columns.back(), schema, exported.empty.children[i]);
			} catch (std::exception &e) {
				throw std::runtime_error(std::string("column ") + schema->name + ": " + e.what());
			}
			duckdb_bind_add_result_column(info, schema->name, binding->columns.back().type);
		}
		if (rows >= 0) duckdb_bind_set_cardinality(info, rows, true);
	}
	REPORT_TO(duckdb_bind_set_error)
}

void init(duckdb_init_info info) {
	try {
		auto binding = static_cast<Binding *>(duckdb_init_get_bind_data(info));
		auto scan = new Scan;
		duckdb_init_set_init_data(info, scan, destroy<Scan>);
		std::vector<int64_t> wanted;
		idx_t n = duckdb_init_get_column_count(info);
		for (idx_t i = 0; i < n; i++) {
			idx_t column = duckdb_init_get_column_index(info, i);
			bool real = column < binding->columns.size();
			scan->child.push_back(real ? static_cast<int>(wanted.size()) : kVirtual);
			scan->columns.push_back(real ? binding->columns[column] : Column());
			if (real) wanted.push_back(column);
		}
		int64_t threads = 1;
		char *err = nullptr;
		scan->handle = duckGoOpen(binding->source, wanted.data(), wanted.size(), &threads, &err);
		check(err);
		duckdb_init_set_max_threads(info, threads);
	}
	REPORT_TO(duckdb_init_set_error)
}

void init_thread(duckdb_init_info info) {
	try {
		duckdb_init_set_init_data(info, new Thread, destroy<Thread>);
	}
	REPORT_TO(duckdb_init_set_error)
}

// next_batch moves to the next batch that has rows; false at the end.
bool next_batch(duckdb_connection conn, Scan *scan, Thread *thread) {
	while (thread->position >= thread->batch.length) {
		drop(thread->previous);
		thread->previous = thread->batch;
		memset(&thread->batch, 0, sizeof thread->batch);
		thread->position = 0;
		char *err = nullptr;
		int more = duckGoNext(scan->handle, &thread->batch, &err);
		check(err);
		if (!more) return false;
		if (!thread->batch.length) continue;
		thread->dictionaries.resize(scan->columns.size());
		for (size_t i = 0; i < scan->columns.size(); i++)
			if (scan->child[i] != kVirtual && scan->columns[i].shape.layout == Layout::Dictionary)
				load_dictionary(conn, thread->dictionaries[i], scan->columns[i], thread->batch.children[scan->child[i]]->dictionary);
	}
	return true;
}

void fill(duckdb_function_info info, duckdb_data_chunk out) {
	try {
		auto sources = static_cast<Sources *>(duckdb_function_get_extra_info(info));
		auto scan = static_cast<Scan *>(duckdb_function_get_init_data(info));
		auto thread = static_cast<Thread *>(duckdb_function_get_local_init_data(info));
		if (!next_batch(sources->helper, scan, thread)) {
			duckdb_data_chunk_set_size(out, 0);
			return;
		}
		int64_t left = thread->batch.length - thread->position;
		idx_t rows = left < kVector ? left : kVector;
		for (size_t i = 0; i < scan->columns.size(); i++)
			if (scan->child[i] != kVirtual)
				fill_column(sources->helper, duckdb_data_chunk_get_vector(out, i), scan->columns[i], thread, i,
				            thread->batch.children[scan->child[i]], rows);
		thread->position += rows;
		duckdb_data_chunk_set_size(out, rows);
	}
	REPORT_TO(duckdb_function_set_error)
}

} // namespace

int duck_register(void *conn, void *helper, uintptr_t sources) {
	auto extra = new Sources{static_cast<duckdb_connection>(helper), sources};
	auto function = duckdb_create_table_function();
	auto varchar = duckdb_create_logical_type(DUCKDB_TYPE_VARCHAR);
	duckdb_table_function_set_name(function, "arrow_batches"); // not arrow_scan: that name is built in and wins
	duckdb_table_function_add_parameter(function, varchar);
	duckdb_destroy_logical_type(&varchar);
	duckdb_table_function_set_extra_info(function, extra, destroy<Sources>);
	duckdb_table_function_set_bind(function, bind);
	duckdb_table_function_set_init(function, init);
	duckdb_table_function_set_local_init(function, init_thread);
	duckdb_table_function_set_function(function, fill);
	duckdb_table_function_supports_projection_pushdown(function, true);
	int state = duckdb_register_table_function(static_cast<duckdb_connection>(conn), function);
	duckdb_destroy_table_function(&function);
	return state;
}
