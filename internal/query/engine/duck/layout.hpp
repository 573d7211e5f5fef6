// What scan.cpp and stream.cpp share: which Arrow layouts are copied by us, and which go through
// DuckDB's own converter.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "shim.h"

extern "C" {
#include "capi.hpp"
}

namespace duck {

constexpr int64_t kVector = 2048; // rows of a full DuckDB vector in this build

// How the values of a column get from one side to the other.
enum class Layout {
	Converter,  // DuckDB's converter: nested types, views, run-end, extension types, ...
	Fixed,      // fixed width, byte for byte the same on both sides
	Bool,       // bits in Arrow, bytes in DuckDB
	String,     // 32-bit offsets
	LargeString, // 64-bit offsets
	Decimal,    // 128 bit in Arrow, as narrow as the precision allows in DuckDB
	Dictionary,
};

struct Shape {
	Layout layout = Layout::Converter;
	int width = 0;  // bytes of a value in DuckDB, for Fixed and Decimal
	char index = 0; // Arrow format of the indices, for Dictionary
};

// Bytes of a value if DuckDB stores this Arrow format byte for byte, else 0. A second, millisecond or
// nanosecond timestamp with a zone is not one: DuckDB has microseconds only for TIMESTAMPTZ.
inline int fixed_width(const char *format) {
	switch (format[0]) {
	case 'c': case 'C': return 1;
	case 's': case 'S': return 2;
	case 'i': case 'I': case 'f': return 4;
	case 'l': case 'L': case 'g': return 8;
	}
	if (!strcmp(format, "tdD")) return 4;
	if (!strcmp(format, "ttu") || !strncmp(format, "tsu:", 4)) return 8;
	if (!strcmp(format, "tss:") || !strcmp(format, "tsm:") || !strcmp(format, "tsn:")) return 8;
	return 0;
}

// Bytes of DuckDB's physical type for a 128-bit decimal; 0 for another bit width.
inline int decimal_width(const char *format) {
	int precision, scale, bits = 128;
	if (sscanf(format, "d:%d,%d,%d", &precision, &scale, &bits) < 2 || bits != 128) return 0;
	return precision <= 4 ? 2 : precision <= 9 ? 4 : precision <= 18 ? 8 : 16;
}

inline Shape shape_of(const ArrowSchema *schema) {
	Shape shape;
	const char *format = schema->format;
	int32_t metadata_entries = 0;
	if (schema->metadata) memcpy(&metadata_entries, schema->metadata, sizeof metadata_entries);
	if (metadata_entries > 0) return shape; // perhaps an extension type: DuckDB looks at it
	if (schema->dictionary) {
		shape.layout = Layout::Dictionary;
		shape.index = format[0];
	} else if ((shape.width = fixed_width(format))) {
		shape.layout = Layout::Fixed;
	} else if (format[0] == 'd' && (shape.width = decimal_width(format))) {
		shape.layout = Layout::Decimal;
	} else if (!strcmp(format, "b")) {
		shape.layout = Layout::Bool;
	} else if (!strcmp(format, "u") || !strcmp(format, "z")) {
		shape.layout = Layout::String;
	} else if (!strcmp(format, "U") || !strcmp(format, "Z")) {
		shape.layout = Layout::LargeString;
	}
	return shape;
}

inline bool bit(const void *bits, int64_t i) {
	return static_cast<const uint8_t *>(bits)[i / 8] >> (i % 8) & 1;
}

inline bool valid(const uint64_t *mask, uint64_t row) {
	return !mask || (mask[row / 64] >> (row % 64) & 1);
}

// check turns DuckDB's error data into an exception; it is caught at the edge of every entry point.
inline void check(duckdb_error_data data) {
	bool bad = duckdb_error_data_has_error(data);
	std::string message = bad ? duckdb_error_data_message(data) : "";
	duckdb_destroy_error_data(&data);
	if (bad) throw std::runtime_error(message);
}

// check does the same for an error text of a Go callback, and frees it.
inline void check(char *err) {
	if (!err) return;
	std::string message(err);
	free(err);
	throw std::runtime_error(message);
}

} // namespace duck
