//go:build !purego

package kernel

// detect needs no detection: NEON is part of arm64.
func detect() Level { return NEON }
