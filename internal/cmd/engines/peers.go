package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/verified"
	"github.com/golowbit/lowbit/safetensors"
	"github.com/golowbit/lowbit/tensor"
)

// peer is a tool that writes quantized models, which lowbit reads.
type peer struct {
	name   string // for -only
	env    string // engines/ENV.txt; "" for llama.cpp
	script string
	// within are the bounds if the type of the tool's weights does not tell: it
	// rounds the inputs, too.
	within bounds
	// dense are the files whose grids no packed format holds.
	dense []string
}

// Bounds of differences of logits from what computes in half floats and in bfloat16.
const (
	halves    = 0.02
	bfloat16s = 0.12
)

// bounds are of the difference of logits, and of the relative one of perplexities.
type bounds struct{ logits, perplexity float64 }

// rounding is what comes with the type that a tool computes in.
type rounding struct {
	weight func(float32) float32 // ours, so rounded, are the same bit for bit
	within bounds
}

var roundings = map[safetensors.DType]rounding{
	safetensors.F32:  {func(v float32) float32 { return v }, bounds{exact, 1e-5}},
	safetensors.F16:  {tensor.RoundF16, bounds{halves, 1e-3}},
	safetensors.BF16: {tensor.RoundBF16, bounds{bfloat16s, 0.01}},
}

// allPeers run with -only peers, too.
var allPeers = []peer{
	{name: "from-gptqmodel", env: "gptqmodel", script: "engines/peer_gptqmodel.py"},
	{name: "from-hqq", env: "transformers4", script: "engines/peer_hqq.py",
		dense: []string{"four-bits", "three-bits", "two-bits-inside-inputs"}},
	{name: "from-mlx", env: "mlx", script: "engines/peer_mlx.py"},
	{name: "from-llmcompressor", env: "llmcompressor", script: "engines/peer_llmcompressor.py"},
	{name: "from-sources", env: "sources", script: "engines/peer_sources.py",
		dense: []string{"fp8-e4m3", "fp8-e5m2", "ct-fp8-channel", "ct-fp8-tensor", "ct-int8", "nf4", "nf4-nested", "fp4", "fp4-nested", "gpt-oss-mxfp4"}},
	{name: "from-autoround", env: "autoround", script: "engines/peer_autoround.py"},
	{name: "from-llama.cpp", script: "engines/peer_llamacpp.py", within: bounds{0.3, 0.01}, dense: []string{"Q4_1", "Q5_1"}},
}

// made is a file that a tool wrote, and what the tool makes of it.
type made struct {
	Name string `json:"name"`
	reply
	path, weights, logits string
}

// peer has a tool quantize the embedded model, and returns what lowbit does not
// read as the tool does, or does not convert.
func (b *bench) peer(ctx context.Context, p peer) (wrong []string, err error) {
	start := time.Now()
	ids, err := tokens(filepath.Join("testdata", embedded))
	if err != nil {
		return nil, err
	}
	out := filepath.Join(b.work, p.name)
	if err := os.Mkdir(out, 0o755); err != nil {
		return nil, err
	}
	write := b.withPython
	if p.env == "" {
		write = b.withLlamaCPP
	}
	files, err := write(ctx, p, out, ids)
	if err != nil {
		return nil, err
	}
	fmt.Printf("\n%s: %v, %.0f s\n%-28s %-7s %9s %9s %11s %11s  %s\n", p.name, files[0].Versions, time.Since(start).Seconds(),
		"file", "weights", "diff/std", "KL", "their ppl", "our ppl", "converted to")
	for _, f := range files {
		r := reading{p: p, ids: ids}
		failed := r.of(ctx, f)
		fmt.Printf("%-28s %-7s %9.2g %9.2g %11.6g %11.6g  %s\n", f.Name, r.DType, r.Difference, r.KL, r.theirs, r.ours, strings.Join(r.converted, ", "))
		b.peers++
		if failed != nil {
			wrong = append(wrong, fmt.Sprintf("%s %s: %v", p.name, f.Name, failed))
		}
	}
	return wrong, nil
}

// withPython runs a tool's script.
func (b *bench) withPython(ctx context.Context, p peer, out string, ids [][]int32) ([]made, error) {
	python, err := environment(ctx, b.cache, p.env)
	if err != nil {
		return nil, err
	}
	root, err := filepath.Abs(".")
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(ids)
	if err != nil {
		return nil, err
	}
	file := out + "-ids.json"
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return nil, err
	}
	model := filepath.Join(root, "testdata", embedded)
	cmd := exec.CommandContext(ctx, python, filepath.Join(root, p.script), model, filepath.Join(model+"-text", "calibration.txt"), file, out)
	cmd.Dir = out // tools leave logs where they run
	cmd.WaitDelay = 10 * time.Second
	said, failed := cmd.CombinedOutput()
	replies, err := os.ReadFile(filepath.Join(out, "replies.jsonl"))
	if failed != nil || err != nil || len(replies) == 0 {
		return nil, errors.Join(fmt.Errorf("%s: %w\n%s", cmd, failed, tail(said)), err)
	}
	var files []made
	for line := range bytes.Lines(replies) {
		var f made
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("%s: %w", p.script, err)
		}
		f.path = filepath.Join(out, f.Name)
		f.weights, f.logits = f.path+"-weights", f.path+".f32"
		files = append(files, f)
	}
	return files, nil
}

// withLlamaCPP has llama.cpp quantize the model to many file types, and widen
// those again.
func (b *bench) withLlamaCPP(ctx context.Context, p peer, out string, ids [][]int32) ([]made, error) {
	parent, err := llamaCPP(ctx)
	if err != nil {
		return nil, err
	}
	source := out + ".gguf"
	if err := unquantized(ctx, filepath.Join("testdata", embedded), source); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "python3", p.script, parent, source, out)
	cmd.WaitDelay = 10 * time.Second
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, tail(said))
	}
	paths, err := filepath.Glob(filepath.Join(out, "*.gguf"))
	if err != nil || len(paths) == 0 {
		return nil, errors.Join(fmt.Errorf("%s: no files", cmd), err)
	}
	var files []made
	var jobs []job
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".gguf")
		f := made{Name: name, path: path, weights: filepath.Join(out, "wide", name+".gguf"), logits: filepath.Join(out, name+".f32")}
		files = append(files, f)
		jobs = append(jobs, job{Model: path, IDs: ids, Logits: f.logits})
	}
	replies, _, err := node(ctx, "internal/enginetest/llamacpp.mjs", out, jobs)
	for i := range replies {
		files[i].reply = replies[i]
	}
	return files, err
}

// reading is what lowbit makes of a tool's file.
type reading struct {
	verified.Result // of its logits against the tool's
	p               peer
	ids             [][]int32
	ours, theirs    float64  // perplexities
	converted       []string // names of formats
}

// of reads a file; it is an error if that gives other weights, logits or
// perplexity than the tool has.
func (r *reading) of(ctx context.Context, f made) error {
	if f.Error != "" {
		return errors.New(f.Error)
	}
	dtype, err := sameWeights(f)
	if err != nil {
		return err
	}
	r.DType = string(dtype)
	within := r.p.within
	if within == (bounds{}) {
		within = roundings[dtype].within
	}
	ours, err := logits(ctx, f.path, r.ids, nil)
	if err != nil {
		return err
	}
	theirs, err := readLogits(f.logits, ours.Rows, ours.Cols)
	if err != nil {
		return err
	}
	compare(&r.Result, ours, theirs)
	r.ours, r.theirs = perplexity(ours, r.ids), perplexity(theirs, r.ids)
	switch {
	case r.Error != "":
		return errors.New(r.Error)
	case r.Difference > within.logits:
		return fmt.Errorf("difference of logits %.2g, want at most %.2g", r.Difference, within.logits)
	case math.Abs(r.ours/r.theirs-1) > within.perplexity:
		return fmt.Errorf("perplexity %g, the tool's is %g", r.ours, r.theirs)
	}
	return r.convert(ctx, f, ours)
}

// convert writes a file in every format that holds it, and compares the logits
// of each.
func (r *reading) convert(ctx context.Context, f made, ours *tensor.Matrix) error {
	for _, name := range []string{"lowbit", "compressed-tensors", "gptq_v2", "awq", "hqq", "mlx", "bitsandbytes", "gguf", "dense"} {
		format, err := checkpoint.Lookup(name)
		if err != nil {
			return err
		}
		out := strings.TrimSuffix(f.path, ".gguf") + "-" + name
		if name == "gguf" {
			out += ".gguf"
		}
		err = lowbit.Convert(ctx, lowbit.ConvertOptions{Model: f.path, Output: out, Format: format})
		if name != "dense" && (errors.Is(err, layout.ErrUnsupported) || errors.Is(err, layout.ErrNotWeight)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("converted to format %s: %w", name, err)
		}
		again, err := logits(ctx, out, r.ids, nil)
		if err != nil {
			return fmt.Errorf("converted to format %s: %w", name, err)
		}
		var d verified.Result
		compare(&d, ours, again)
		// Format dense rounds the weights to the model's type, and gguf what is not
		// quantized to half floats.
		bound := map[string]float64{"dense": bfloat16s, "gguf": halves}[name]
		if d.Error != "" || d.Difference > bound {
			return fmt.Errorf("converted to format %s, its logits differ by %.2g %s", name, d.Difference, d.Error)
		}
		r.converted = append(r.converted, fmt.Sprintf("%s %.1g", name, d.Difference))
	}
	if dense := slices.Contains(r.p.dense, f.Name); dense != (len(r.converted) == 1) {
		return fmt.Errorf("converted to %v; that it can only be dense: %t", r.converted, dense)
	}
	return nil
}

// sameWeights compares every quantized layer with what the tool dequantizes it
// to, bit for bit once ours are rounded to the type of its.
func sameWeights(f made) (dtype safetensors.DType, err error) {
	m, err := checkpoint.Open(f.path)
	if err != nil {
		return "", err
	}
	defer m.Close()
	theirs, err := checkpoint.Open(f.weights)
	if err != nil {
		return "", err
	}
	defer theirs.Close()
	var names []string
	for _, name := range m.Quantized() {
		names = append(names, name+layout.WeightSuffix)
	}
	if m.Coded() != "" {
		names = theirs.Names()
	}
	if len(names) == 0 {
		return "", errors.New("nothing in it is quantized")
	}
	for _, name := range names {
		dtype, _ = theirs.DType(name)
		got, err := m.Matrix(name)
		if err != nil {
			return "", err
		}
		want, err := theirs.Matrix(name)
		if err != nil {
			return "", err
		}
		if got.Rows != want.Rows || got.Cols != want.Cols {
			return "", fmt.Errorf("%s is %d x %d, the tool has %d x %d", name, got.Rows, got.Cols, want.Rows, want.Cols)
		}
		round := roundings[dtype].weight
		for i, v := range got.Data {
			if round(v) != want.Data[i] {
				return "", fmt.Errorf("%s [%d %d] is %g, in %s %g; the tool has %g", name, i/got.Cols, i%got.Cols, v, dtype, round(v), want.Data[i])
			}
		}
	}
	return dtype, nil
}

// perplexity is that of the sequences, every token but the first of each
// predicted by the logits before it.
func perplexity(logits *tensor.Matrix, ids [][]int32) float64 {
	loss, row, scored := 0.0, 0, 0
	for _, sequence := range ids {
		for i := range sequence {
			if i+1 < len(sequence) {
				loss += crossEntropy(logits.Row(row), sequence[i+1])
				scored++
			}
			row++
		}
	}
	return math.Exp(loss / float64(scored))
}

func crossEntropy(logits []float32, token int32) float64 {
	most := slices.Max(logits)
	sum := 0.0
	for _, v := range logits {
		sum += math.Exp(float64(v - most))
	}
	return math.Log(sum) - float64(logits[token]-most)
}
