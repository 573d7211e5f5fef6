package query

// Role is the hidden first argument that makes the binary an engine child.
const Role = "engine"
