//go:build !linux

package safetensors

import "io"

func writeback(io.WriterAt, int64, int64) {}
