package image

// Relocate is relocate.
var Relocate = relocate
