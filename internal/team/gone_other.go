//go:build !unix

package team

// gone is not known here: signs of life tell.
func gone(int) bool { return false }
