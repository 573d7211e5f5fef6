package errdef

//go:generate go run ./gen ../../..
