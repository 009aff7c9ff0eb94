package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// formatFlags are flags that say what is written.
type formatFlags struct {
	format    layout.Format // nil if not given
	ggufDense string
	ggufQ8    bool
	ggufType  string
	ggufPure  bool
	fp4       string
}

// register adds the flags; unset says what happens without --format.
func (f *formatFlags) register(s *pflag.FlagSet, unset string, maxShard *int64) {
	option(s, "format", "`format` of the output: "+strings.Join(formatNames(), ", ")+unset, func(name string) (layout.Format, error) { return checkpoint.Lookup(name) }, func(v layout.Format) { f.format = v })
	option(s, "max-shard-size", "split the output into files of at most this `size`, such as 5GB or 500MB", parseSize, func(n int64) { *maxShard = n })
	option(s, "gguf-dense", "`type` of what is not quantized in a GGUF file: f16, f32 or bf16 (default f16)", known([]string{"f16", "f32", "bf16"}, "type"), func(v string) { f.ggufDense = v })
	s.BoolVar(&f.ggufQ8, "gguf-q8-embeddings", false, "store the embedding and the output head of a GGUF file as Q8_0")
}

func formatNames() []string {
	var names []string
	for _, f := range checkpoint.Formats() {
		names = append(names, f.Name())
	}
	return names
}

// of is the format that the flags ask for, nil if they do not; target is the
// engine to write for, if there is one.
func (f *formatFlags) of(target string) (layout.Format, error) {
	if f.fp4 != "" {
		return f.floats(target)
	}
	if f.ggufDense == "" && !f.ggufQ8 && f.ggufType == "" && !f.ggufPure {
		return f.format, nil
	}
	if f.ggufPure && f.ggufType == "" {
		return nil, fmt.Errorf("--gguf-pure is for --gguf-type")
	}
	named, err := f.named(target)
	if err != nil {
		return nil, err
	}
	g, ok := named.(ggufmodel.Format)
	if !ok {
		return nil, fmt.Errorf("--gguf-dense, --gguf-q8-embeddings, --gguf-type and --gguf-pure are for format gguf")
	}
	g.Dense, g.Q8Embeddings = safetensors.DType(strings.ToUpper(f.ggufDense)), f.ggufQ8
	g.Type, g.Pure = f.ggufType, f.ggufPure
	return g, nil
}

// named is the format of --format, or the target's.
func (f *formatFlags) named(target string) (layout.Format, error) {
	if f.format != nil || target == "" {
		return f.format, nil
	}
	t, err := checkpoint.TargetFor(target)
	if err != nil {
		return nil, err
	}
	return checkpoint.Lookup(t.Format)
}

// floats is the format of --fp4.
func (f *formatFlags) floats(target string) (layout.Format, error) {
	named, err := f.named(target)
	if err != nil {
		return nil, err
	}
	switch g := named.(type) {
	case mlx.Format:
		g.FP4 = f.fp4
		return g, nil
	case compressed.Format:
		g.FP4 = f.fp4
		return g, nil
	case ggufmodel.Format:
		return nil, fmt.Errorf("--fp4 is for formats mlx and compressed-tensors; in gguf it is --gguf-type")
	}
	return nil, fmt.Errorf("--fp4 is for formats mlx and compressed-tensors")
}

// parseSize reads a number of bytes with a decimal unit.
func parseSize(text string) (int64, error) {
	number, unit := strings.TrimRight(text, "kKMGTB"), int64(1)
	switch strings.TrimSuffix(text[len(number):], "B") {
	case "":
	case "k", "K":
		unit = 1e3
	case "M":
		unit = 1e6
	case "G":
		unit = 1e9
	case "T":
		unit = 1e12
	default:
		return 0, fmt.Errorf("size %q, want a number of bytes with k, M, G or T, and B", text)
	}
	v, err := strconv.ParseFloat(number, 64)
	if n := v * float64(unit); err != nil || !(n >= 1 && n < math.MaxInt64) {
		return 0, fmt.Errorf("size %q, want a number such as 5GB", text)
	}
	return int64(v * float64(unit)), nil
}
